// The way of one message: from a commit to a WebSocket client of the gateway, beside the least a program could do by
// itself with PostgreSQL: a bare replication client, a bare LISTEN.
import { join } from 'node:path';

import { cluster, gateway } from './cluster.mjs';
import { output } from './processes.mjs';

const path = '/v1/channels/bench?format=payload';
const arms = {
  wal: { receive: 'websocket', statement: `select postbus.post('bench', $1)`, gateway: true },
  bare_wal: { receive: 'replication', statement: `select postbus.post('bench', $1)` },
  notify: { receive: 'websocket', statement: `select pg_notify('bench', $1)`, gateway: true },
  bare_notify: { receive: 'listen', statement: `select pg_notify('bench', $1)` },
};

async function one_way(database, front, arm, args) {
  const text = await output(join(database.paths.build, 'bench_latency'), [
    ...['--db', database.conninfo, '--receive', arm.receive, '--statement', arm.statement, '--channel', 'bench'],
    ...(arm.gateway ? ['--gateway', front.address, '--path', path] : []),
    ...args,
  ]);
  return JSON.parse(text);
}

function complain_about_missing(bench, label, results) {
  const missing = results.reduce((sum, one) => sum + one.missing, 0);
  if (missing) bench.note(`${label}: ${missing} messages were missing`);
}

export const latency = {
  name: 'latency',
  about: 'commit to WebSocket client, beside a bare replication client and a bare LISTEN',
  async run(bench, paths) {
    const database = await cluster.shared(paths);
    await (await gateway.start(database)).stop(); // brings the schema
    await database.sql('create publication bench');
    const count = bench.quick ? 300 : 1200;
    const results = Object.fromEntries(Object.keys(arms).map((key) => [key, []]));
    for (let round = 0; round < bench.rounds; ++round) {
      // The bare clients are measured without a gateway beside them, so that neither pays for the other.
      const halves = [['wal', 'notify'], ['bare_wal', 'bare_notify']];
      for (const half of round % 2 ? halves.reverse() : halves) {
        const front = half.includes('wal') ? await gateway.start(database) : undefined;
        for (const key of half) {
          bench.progress(`latency: round ${round + 1} of ${bench.rounds}, ${key}`);
          results[key].push(await bench.quietly(key, () => one_way(database, front, arms[key], ['--count', String(count), '--rate', '500'])));
        }
        for (const line of (await front?.stop()) ?? []) bench.note(`the gateway said: ${line}`);
      }
    }
    for (const [key, list] of Object.entries(results)) complain_about_missing(bench, key, list);

    const rows = (key, bare, name, rival_name) => {
      const noisy = [...results[key], ...results[bare]].some((one) => one.noisy);
      const add = (figure, percentile, what, target) => {
        const values = (arm) => results[arm].map((one) => one[figure][percentile]);
        bench.row({ name: `${name}, ${what}`, unit: 'us', ours: values(key), rival: values(bare), rival_name, target, noisy, command: './dev bench latency' });
      };
      add('send_to_receipt', 'p50_us', 'send to receipt, p50', { at_most: 1.5 });
      add('ack_to_receipt', 'p50_us', 'acknowledgement to receipt, p50', { at_most: 1.5 });
      add('send_to_receipt', 'p99_us', 'send to receipt, p99');
    };
    rows('wal', 'bare_wal', 'post', 'bare replication client');
    rows('notify', 'bare_notify', 'plain NOTIFY', 'bare LISTEN');
  },
};

export const unflushed = {
  name: 'unflushed',
  about: 'posts with synchronous_commit=off: how late the first is, and those after it',
  async run(bench, paths) {
    const database = await cluster.shared(paths);
    const front = await gateway.start(database);
    const count = bench.quick ? 150 : 450;
    const results = [];
    for (let round = 0; round < (bench.quick ? 1 : bench.fewer_rounds); ++round) {
      bench.progress(`unflushed: round ${round + 1}`);
      // The pause is longer than the gateway goes on looking for unflushed commits: each round begins from rest.
      const args = ['--set', 'set synchronous_commit = off', '--pause', '7', '--rate', '150', '--count', String(count)];
      results.push(await bench.quietly('unflushed', () => one_way(database, front, arms.wal, args)));
    }
    complain_about_missing(bench, 'unflushed', results);
    const row = (name, values, target) =>
      bench.row({ name: `synchronous_commit=off: ${name}`, unit: 'ms', ours: values, target, noisy: results.some((one) => one.noisy), command: './dev bench unflushed' });
    row('first message after a pause', results.map((one) => one.first_us / 1000), { at_most: 450 });
    row('p99 of those sent after it arrived', results.map((one) => one.after_first.p99_us / 1000), { at_most: 10 });
    for (const line of await front.stop()) bench.note(`the gateway said: ${line}`);
  },
};
