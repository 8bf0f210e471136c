// What it costs to begin with a table's rows: one subscriber beside COPY into libpq, and a hundred at once beside the writers.
import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { cluster, gateway } from './cluster.mjs';
import { sleep } from './machine.mjs';
import { output } from './processes.mjs';

const insert = `insert into snapshot_written (email, total) values ('someone@example.com', 1000);\n`;
const together = 100;

export const snapshot = {
  name: 'snapshot',
  about: 'rows of a table to new subscribers, beside COPY and beside writers',
  async run(bench, paths) {
    const program = join(paths.build, 'bench_snapshot');
    if (!existsSync(program)) return bench.note('snapshot is left out: bench_snapshot is not built');
    const database = await cluster.shared(paths);
    const rows = bench.quick ? 100_000 : 1_000_000;
    const shared = 2_000;
    await database.sql(`create table snapshot_read (id int primary key, email text, total bigint, at timestamptz);
      insert into snapshot_read select i, 'someone' || i || '@example.com', i * 17, now() from generate_series(1, ${rows}) i;
      create table snapshot_shared (id int primary key, email text, total bigint, at timestamptz);
      insert into snapshot_shared select i, 'someone' || i || '@example.com', i * 17, now() from generate_series(1, ${shared}) i;
      create table snapshot_written (id serial primary key, email text, total bigint);
      analyze snapshot_read; analyze snapshot_shared`);
    const front = await gateway.start(database);
    for (const table of ['snapshot_read', 'snapshot_shared', 'snapshot_written']) await database.sql(`select postbus.watch('${table}')`);
    const drive = async (...args) => JSON.parse(await output(program, args));
    const sockets = (table, count) => drive('--sockets', front.address, `/v1/tables/${table}?snapshot=true`, String(count));

    const read = await bench.alternate('snapshot', ['postbus', 'copy'], (arm) =>
      bench.quietly(arm, async () => {
        const got = arm === 'copy' ? await drive('--copy', database.conninfo, 'snapshot_read') : await sockets('snapshot_read', 1);
        if (got.rows !== rows) throw new Error(`${got.rows} rows of ${rows} came by ${arm}`);
        await sleep(1.1); // the next one takes a snapshot of its own
        return { per_second: got.rows / got.seconds };
      }),
      bench.fewer_rounds,
    );
    bench.row({
      name: `snapshot of ${rows.toLocaleString('en')} rows to one WebSocket`, unit: 'rows/s', ours: read.postbus.map((one) => one.per_second), rival: read.copy.map((one) => one.per_second),
      rival_name: 'COPY TO STDOUT', target: { at_least: 0.5 }, command: './dev bench snapshot', noisy: Object.values(read).flat().some((one) => one.noisy),
    });

    const seconds = bench.quick ? 2 : 10;
    const written = await bench.alternate('writers', ['joined', 'alone'], (arm) =>
      bench.quietly(arm, async () => {
        const [ran, got] = await Promise.all([database.pgbench(insert, { clients: 8, seconds }), arm === 'joined' ? sleep(seconds / 4).then(() => sockets('snapshot_shared', together)) : undefined]);
        if (got && got.rows !== together * shared) throw new Error(`${got.rows} rows of ${together * shared} came`);
        return ran;
      }),
      bench.fewer_rounds,
    );
    bench.row({
      name: `writers while ${together} subscribers join a table of ${shared.toLocaleString('en')} rows`, unit: 'rows/s', ours: written.joined.map((one) => one.per_second), rival: written.alone.map((one) => one.per_second),
      rival_name: 'nobody joins', target: { at_least: 0.9 }, command: './dev bench snapshot', noisy: Object.values(written).flat().some((one) => one.noisy),
    });
    for (const line of await front.stop()) bench.note(`the gateway said: ${line}`);
  },
};
