// What a post costs the transaction that makes it: pgbench's simple-update with one message in it.
import { cluster, gateway } from './cluster.mjs';

const clients = 32;
const payload = `@T${'1'.padStart(19, '0')}`.padEnd(200, 'x');
const simple_update = (message) => `\\set aid random(1, 100000 * :scale)
\\set bid random(1, 1 * :scale)
\\set tid random(1, 10 * :scale)
\\set delta random(-5000, 5000)
begin;
update pgbench_accounts set abalance = abalance + :delta where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
insert into pgbench_history (tid, bid, aid, delta, mtime) values (:tid, :bid, :aid, :delta, current_timestamp);
${message}
end;
`;
const scripts = {
  post: simple_update(`select postbus.post('bench', '${payload}');`),
  // What post() itself writes, so that it is delivered as well; pgbench takes a colon in a literal for a variable.
  emit: simple_update(`select pg_logical_emit_message(true, 'postbus' || chr(58) || 't' || chr(58) || 'bench', '${payload}');`),
  unread: simple_update(`select pg_logical_emit_message(true, 'bench', '${payload}');`),
  notify: simple_update(`select pg_notify('bench', '${payload}');`),
};

export const post = {
  name: 'post',
  about: 'postbus.post, a bare pg_logical_emit_message and pg_notify inside pgbench simple-update at 32 clients',
  async run(bench, paths) {
    const database = await cluster.shared(paths);
    await database.pgbench_tables(10); // before there is a slot that would have to read the million rows
    const front = await gateway.start(database);
    // One listener of the channel, so that every message of `post` and of `notify` is delivered, not only read.
    const listener = front.listeners('websocket', '/v1/channels/bench?format=payload');
    await listener.ask('connect 1');
    const seconds = bench.quick ? 1 : 4;
    const run = async (arm, label) =>
      bench.quietly(`${arm}, ${label}`, async () => {
        const [ran, heard] = await Promise.all([
          database.pgbench(scripts[arm], { clients, seconds, args: ['-D', 'scale=10'] }),
          listener.ask(`idle ${seconds + 1}`),
        ]);
        if (arm !== 'unread' && heard.deliveries !== ran.transactions) bench.note(`${arm}: ${ran.transactions} transactions, ${heard.deliveries} messages had arrived one second later`);
        return ran;
      });

    bench.progress('post: warming up');
    await database.pgbench(simple_update(''), { clients, seconds: bench.quick ? 2 : 5, args: ['-D', 'scale=10'] }); // full-page images are written now
    await database.sql(`select postbus.post('bench', '${payload}')`);
    for (const limit = performance.now() + 30_000; (await listener.ask('idle 0.2')).deliveries === 0; ) {
      if (performance.now() > limit) throw new Error('a message did not arrive within 30 s of the warm-up');
    }
    const fast = await bench.alternate('post', ['post', 'emit', 'unread', 'notify'], (arm) => run(arm, 'the disk as it is'));
    database.slow_sync(1000);
    const slow = await bench.alternate('post, syncs 1 ms slower', ['post', 'notify'], (arm) => run(arm, 'syncs 1 ms slower'));

    database.slow_sync(0);

    const row = (results, rival, rival_name, name, at_least) =>
      bench.row({
        name, unit: 'transactions/s', ours: results.post.map((one) => one.per_second), rival: results[rival].map((one) => one.per_second), rival_name,
        target: { at_least }, command: './dev bench post', noisy: [...results.post, ...results[rival]].some((one) => one.noisy),
      });
    row(fast, 'emit', 'bare emit', 'post in simple-update, 32 clients', 0.95);
    row(fast, 'unread', 'bare emit nobody reads', 'post in simple-update, 32 clients', 0.95);
    row(fast, 'notify', 'pg_notify', 'post in simple-update, 32 clients', 2);
    row(slow, 'notify', 'pg_notify', 'the same, each WAL sync 1 ms slower', 8);
    await listener.stop();
    for (const line of await front.stop()) bench.note(`the gateway said: ${line}`);
  },
};
