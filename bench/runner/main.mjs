// `./dev bench`: runs the groups asked for (all without a name) and prints one table.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { connect } from './connect.mjs';
import { decode } from './decode.mjs';
import { fanout } from './fanout.mjs';
import { idle } from './idle.mjs';
import { lag } from './lag.mjs';
import { latency, unflushed } from './latency.mjs';
import { describe_machine, open_files } from './machine.mjs';
import { post } from './post.mjs';
import { stop_all } from './processes.mjs';
import { restart } from './restart.mjs';
import { session } from './rounds.mjs';
import { snapshot } from './snapshot.mjs';
import { streams } from './streams.mjs';
import { table } from './table.mjs';
import { views } from './views.mjs';
import { waiters } from './waiters.mjs';
import { writers } from './writers.mjs';

const groups = [fanout, connect, post, writers, lag, latency, unflushed, waiters, decode, views, snapshot, streams, restart, idle];

const usage = `usage: ./dev bench [GROUP...] [--quick] [--rounds N] [--json] [--output FILE]
${groups.map((group) => `  ${group.name.padEnd(10)} ${group.about}`).join('\n')}
  --quick    fewer and shorter rounds: shows that all of it runs, not what it reaches
  --rounds   rounds of alternating arms (5; with --quick 2)
  --json     the figures of every round as JSON in place of the table; --output writes them to a file beside it
  --foreign  cores that others may use before a measurement is thrown away (0.2)`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    json: { type: 'boolean', default: false },
    output: { type: 'string' },
    foreign: { type: 'string', default: '0.2' },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
const unknown = positionals.filter((name) => !groups.some((group) => group.name === name));
if (options.help || unknown.length) {
  console.log(unknown.length ? `there is no group ${unknown.join(', ')}\n${usage}` : usage);
  process.exit(unknown.length ? 2 : 0);
}

const started = performance.now();
const paths = { build: new URL('../../build/release', import.meta.url).pathname, temp: mkdtempSync(join(tmpdir(), 'postbus-bench-')) };
const progress = (text) => process.stderr.write(process.stderr.isTTY ? `\r\x1b[K${text}` : `${text}\n`);
const bench = new session({
  rounds: Number(options.rounds ?? (options.quick ? 2 : 5)),
  quick: options.quick,
  foreign_bound: Number(options.foreign),
  retries: options.quick ? 4 : 30,
  progress,
});

async function clean_up() {
  await stop_all();
  rmSync(paths.temp, { recursive: true, force: true });
}
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, async () => {
    await clean_up();
    process.exit(130);
  });
}

// The drivers and servers hold 10,000 sockets each, on two cores.
const files_wanted = 10_500;
if (open_files() < files_wanted || describe_machine().cores < 2) {
  console.error(`the bench needs ${files_wanted} open files (the limit here is ${open_files()}; raise the hard limit) and two cores (here: ${describe_machine().cores})`);
  process.exit(1);
}

let failed = false;
for (const group of groups) {
  if (positionals.length && !positionals.includes(group.name)) continue;
  try {
    await group.run(bench, paths);
  } catch (problem) {
    failed = true;
    await stop_all();
    delete paths.cluster; // it went with the rest; the next group gets a new one
    bench.note(`${group.name} did not finish: ${problem.message}`);
    if (process.env.POSTBUS_BENCH_TRACE) console.error(problem);
  }
}
await clean_up();
if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');

const machine = describe_machine();
const minutes = (performance.now() - started) / 60_000;
const short = bench.rows.filter((row) => row.pass === false).length;
const report = { machine, date: new Date().toISOString(), quick: bench.quick, rounds: bench.rounds, minutes, discarded: bench.discarded, noisy: bench.noisy, rows: bench.rows, notes: bench.notes };
if (options.output) writeFileSync(options.output, `${JSON.stringify(report, null, 2)}\n`);
if (options.json) {
  console.log(JSON.stringify(report, null, 2));
} else {
  console.log(`${machine.cores} cores (${machine.model}), ${machine.memory_gib} GiB, Linux ${machine.kernel}. Median (min-max) of ${bench.rounds} rounds, alternating.\n`);
  console.log(table(bench.rows));
  for (const note of bench.notes) console.log(`note: ${note}`);
  console.log(
    `\n${bench.rows.filter((row) => row.pass).length} of ${bench.rows.filter((row) => row.target).length} targets met; ` +
      `${bench.discarded} measurements thrown away and made again because of other programs, ${bench.noisy} never quiet; ${minutes.toFixed(1)} minutes.`,
  );
}
process.exitCode = failed ? 1 : short ? 3 : 0;
