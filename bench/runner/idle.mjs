// What a gateway that has nothing to do costs the server: WAL, rows, transactions, and CPU of both together.
import { cluster, gateway } from './cluster.mjs';
import { exact_cpu_seconds, sleep, tree } from './machine.mjs';

const sockets = 100;
const marker = `@T${'1'.padStart(19, '0')}`;

/** What the whole server has done so far. */
async function done_so_far(database) {
  const [wal, written, transactions] = (
    await database.sql(`select pg_current_wal_insert_lsn() - '0/0', sum(tup_inserted + tup_updated + tup_deleted), sum(xact_commit + xact_rollback) from pg_stat_database`)
  ).split('|');
  return { wal: Number(wal), written: Number(written), transactions: Number(transactions) };
}

/** Over so many seconds, per second where it is CPU. `load` answers the pings of its sockets meanwhile. */
async function watch(database, front, load, seconds) {
  const before = await done_so_far(database);
  const pids = () => [...tree(database.server.pid), ...(front ? tree(front.server.pid) : [])];
  const used = exact_cpu_seconds(pids());
  const started = performance.now();
  await (load ? load.ask(`idle ${seconds}`, seconds + 30) : sleep(seconds));
  const percent = ((exact_cpu_seconds(pids()) - used) / ((performance.now() - started) / 1000)) * 100;
  const after = await done_so_far(database);
  const [wal, written, transactions] = ['wal', 'written', 'transactions'].map((figure) => after[figure] - before[figure]);
  return { wal, written, transactions, percent };
}

export const idle = {
  name: 'idle',
  about: 'WAL, rows and CPU of a gateway and its server while nobody writes, beside the server alone',
  async run(bench, paths) {
    const database = await cluster.start(paths); // nothing of other groups left to be cleaned up
    const seconds = bench.quick ? 10 : 60;
    // 15 s after the last write the server logs its running transactions; the gateway's last one, which readies the stream's
    // next segment, comes up to 20 s after the message.
    const settle = { gateway: 45, alone: 20 };
    await (await gateway.start(database)).stop(); // brings the schema
    await database.sql(`create table idle_orders (id serial primary key, email text); select postbus.watch('idle_orders'); select postbus.create_stream('idle stream')`);
    const one_round = async (arm) => {
      const front = arm === 'gateway' ? await gateway.start(database) : undefined;
      const load = front?.listeners('websocket', '/v1/channels/idle?format=payload');
      await load?.ask(`connect ${sockets}`);
      await database.sql(`insert into idle_orders (email) values ('${marker}'); select postbus.post('idle', '${marker}'); select postbus.post('idle stream', '${marker}')`);
      const heard = await (load ? load.ask(`idle ${settle[arm]}`, 100) : sleep(settle[arm]));
      if (load && heard.deliveries !== sockets) throw new Error(`${heard.deliveries} of ${sockets} WebSockets got the message`);
      const result = await bench.quietly(arm, () => watch(database, front, load, seconds));
      await load?.stop();
      for (const line of (await front?.stop()) ?? []) bench.note(`the gateway said: ${line}`);
      return result;
    };
    const results = await bench.alternate('idle', ['gateway', 'alone'], one_round, Math.min(bench.rounds, 2)); // rounds of minutes, and little that varies
    const noisy = Object.values(results).flat().some((one) => one.noisy);
    const row = (what, unit, figure, target) => {
      const values = (arm) => results[arm].map((one) => one[figure]);
      // What the server does by itself is not the gateway's; CPU is that of both together.
      const ours = target?.beyond ? values('gateway').map((value, i) => value - values('alone')[i]) : values('gateway');
      bench.row({ name: `idle for ${seconds} s: ${what}`, unit, ours, target: target?.bound, command: './dev bench idle', noisy });
    };
    row('WAL beyond that of the server alone', 'bytes', 'wal', { beyond: true, bound: { at_most: 0 } });
    row('rows written', 'rows', 'written', { beyond: true, bound: { at_most: 0 } });
    row('transactions, all of them reading', 'count', 'transactions', { beyond: true });
    row('CPU of gateway and server', '% of a core', 'percent', { bound: { at_most: 1 } });
    bench.note(`idle: the server alone wrote ${results.alone.map((one) => one.wal).join(', ')} bytes of WAL and used ${results.alone.map((one) => one.percent.toFixed(3)).join(', ')} % of a core`);
    await database.stop();
  },
};
