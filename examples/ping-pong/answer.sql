-- B has done it.
select postbus.post('workA', format('job %s done', $1::text));
