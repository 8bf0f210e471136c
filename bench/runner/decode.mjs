// How fast what committed becomes events of the hub: a backlog read through a copy of the same slot, once by
// `pg_recvlogical -f /dev/null`, which only receives, and once by ours, which decodes, routes and publishes.
//
// `bench_decode --db CONNINFO --slot NAME --publication NAME --until LSN` reads the slot from its start to LSN into a hub
// and prints {"seconds":S,"events":N}; S counts from the START_REPLICATION command.
import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { cluster } from './cluster.mjs';
import { output } from './processes.mjs';

const message = (count) => `perform pg_logical_emit_message(true, 'postbus:t:decode', repeat('x', 200)) from generate_series(1, ${count})`;
const row = (count) => `insert into decode_orders (email, total) select 'someone@example.com', 1000 from generate_series(1, ${count})`;
const workloads = [
  { name: 'one message a transaction', body: message(1), transactions: 200_000, each: 1, target: 0.9 },
  { name: 'one row a transaction', body: row(1), transactions: 200_000, each: 1, target: 0.9 },
  { name: '1,000 messages a transaction', body: message(1000), transactions: 500, each: 1000, target: 0.7 },
  { name: '1,000 rows a transaction', body: row(1000), transactions: 500, each: 1000, target: 0.7 },
];
/** That many transactions from one session, unflushed until the end. */
const backlog = ({ body }, transactions) => `
set synchronous_commit = off;
do $$ begin for i in 1..${transactions} loop ${body}; commit; end loop; end $$;
set synchronous_commit = on;
select pg_logical_emit_message(true, 'bench', 'end');`;

export const decode = {
  name: 'decode',
  about: 'WAL to hub, beside pg_recvlogical into /dev/null',
  async run(bench, paths) {
    const program = join(paths.build, 'bench_decode');
    if (!existsSync(program)) return bench.note('decode is left out: bench_decode is not built');
    const database = await cluster.shared(paths);
    await database.sql(`create table decode_orders (id serial primary key, email text, total bigint); create publication decode for table decode_orders`);
    for (const work of workloads) {
      bench.progress(`decode: making the backlog of ${work.name}`);
      const transactions = bench.quick ? work.transactions / 5 : work.transactions;
      await database.sql(`select pg_create_logical_replication_slot('decode_base', 'pgoutput')`);
      await database.script(backlog(work, transactions));
      const until = await database.sql('select pg_current_wal_flush_lsn()');
      const events = transactions * work.each;
      const results = await bench.alternate(`decode, ${work.name}`, ['postbus', 'recvlogical'], (arm) =>
        bench.quietly(`${arm}, ${work.name}`, async () => {
          const ran = arm === 'postbus' ? await ours(program, database, until) : await recvlogical(database, until);
          if (ran.events !== undefined && ran.events !== events) throw new Error(`${ran.events} events of ${events} came out of ${work.name}`);
          return { per_second: events / ran.seconds };
        }),
        bench.fewer_rounds,
      );
      await database.sql(`select pg_drop_replication_slot('decode_base')`);
      bench.row({
        name: `WAL to hub, ${work.name}`, unit: 'events/s', ours: results.postbus.map((one) => one.per_second), rival: results.recvlogical.map((one) => one.per_second),
        rival_name: 'pg_recvlogical', target: { at_least: work.target }, command: './dev bench decode', noisy: Object.values(results).flat().some((one) => one.noisy),
      });
    }
  },
};

/** Runs with a fresh copy of the slot, which is dropped afterwards. */
async function with_copy(database, run) {
  const slot = `decode_${++database.scripts}`;
  await database.sql(`select pg_copy_logical_replication_slot('decode_base', '${slot}')`);
  const result = await run(slot);
  await database.sql(`select pg_drop_replication_slot('${slot}')`);
  return result;
}

function ours(program, database, until) {
  return with_copy(database, async (slot) => JSON.parse(await output(program, ['--db', database.conninfo, '--slot', slot, '--publication', 'decode', '--until', until])));
}

/** Seconds beyond what it takes the program to start, to connect and to end at the first message. */
async function recvlogical(database, until) {
  const seconds = (end) =>
    with_copy(database, async (slot) => {
      const start = performance.now();
      await output(join(database.bin, 'pg_recvlogical'), [
        ...['-h', database.dir, '-U', 'postgres', '-d', 'bench', '-S', slot, '--start', '--no-loop', '-f', '/dev/null', '--endpos', end],
        ...['-o', 'proto_version=1', '-o', 'publication_names=decode', '-o', 'messages=true'],
      ]);
      return (performance.now() - start) / 1000;
    });
  const to_start = await seconds('0/1');
  return { seconds: (await seconds(until)) - to_start };
}
