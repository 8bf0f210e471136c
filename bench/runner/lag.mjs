// How far behind its writers the gateway falls while they insert into a watched table as fast as their commits are acknowledged.
import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { cluster, gateway } from './cluster.mjs';
import { program as started } from './processes.mjs';

const session_counts = [8, 32];

/** LSN of a position, as a number of bytes. */
const lsn_of = (position) => parseInt(position.split('-')[1], 16);

export const lag = {
  name: 'lag',
  about: 'how late the rows of a watched table are while 8 or 32 sessions insert at their full rate for a minute',
  async run(bench, paths) {
    const program = join(paths.build, 'bench_lag');
    if (!existsSync(program)) return bench.note('lag is left out: bench_lag is not built');
    const database = await cluster.shared(paths);
    const front = await gateway.start(database);
    await database.sql(`create table lagging (id bigserial primary key, email text, total bigint); select postbus.watch('lagging')`);
    const seconds = bench.quick ? 5 : 60;
    const results = await bench.alternate('lag', session_counts.map(String), (sessions) =>
      bench.quietly(`${sessions} sessions`, async () => {
        const driver = new started(program, [
          ...['--db', database.conninfo, '--gateway', front.address, '--path', '/v1/tables/lagging', '--sessions', sessions, '--seconds', String(seconds)],
          ...['--statement', 'insert into lagging (email, total) values ($1, 1000)'],
        ]);
        await driver.line(seconds + 30);
        const { head } = await (await front.get('/v1/status')).json();
        const flushed = Number(await database.sql(`select pg_current_wal_flush_lsn() - '0/0'`));
        const got = JSON.parse(await driver.line());
        await driver.ended;
        if (got.missing) bench.note(`lag, ${sessions} sessions: ${got.missing} rows of ${got.rows} did not come`);
        await database.sql('truncate lagging');
        return { ...got, behind: Math.max(0, flushed - lsn_of(head)) };
      }),
      bench.fewer_rounds,
    );
    for (const [sessions, list] of Object.entries(results)) {
      const row = (what, unit, values, target) =>
        bench.row({ name: `${sessions} sessions insert: ${what}`, unit, ours: values, target, command: './dev bench lag', noisy: list.some((one) => one.noisy) });
      row('rate', 'rows/s', list.map((one) => one.per_second));
      row('lag, p99', 'ms', list.map((one) => one.ack_to_receipt.p99_ms));
      row('lag, max', 'ms', list.map((one) => one.ack_to_receipt.max_ms), { at_most: 1000 });
      row('WAL not applied at the end', 'bytes', list.map((one) => one.behind));
    }
    for (const line of await front.stop()) bench.note(`the gateway said: ${line}`);
  },
};
