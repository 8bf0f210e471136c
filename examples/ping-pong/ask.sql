-- A gives B a job. It goes out when the transaction commits, and not at all when it rolls back.
select postbus.post('workerB', format('do job %s', $1::text));
