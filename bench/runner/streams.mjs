// Streams: what it costs to post to one, how fast one listener is given what it missed, and how long a start keeps it waiting.
import http from 'node:http';

import { cluster, gateway } from './cluster.mjs';
import { sleep } from './machine.mjs';

const payload = 'x'.repeat(200);
const scripts = {
  post: `select postbus.post('bench stream', '${payload}');`,
  insert: `insert into plain_messages (segment, is_json, channel, payload) values (1, false, 'bench stream', '${payload}');`,
  'in a function': `select plain_post('bench stream', '${payload}');`,
};

/** Seconds until so many lines of a stream have come to one listener. */
function replay(front, channel, count) {
  const started = performance.now();
  return new Promise((resolve, reject) => {
    const request = http.get(`http://${front.address}/wait?channel=${channel}&loop=true&after=beginning`, { agent: false }, (answer) => {
      let lines = 0;
      answer.on('data', (part) => {
        for (let at = part.indexOf(10); at !== -1; at = part.indexOf(10, at + 1)) ++lines;
        if (lines < count) return;
        resolve((performance.now() - started) / 1000);
        request.destroy();
      });
      answer.once('end', () => reject(new Error(`${lines} messages of ${count} came`)));
    });
    request.once('error', reject);
  });
}

export const streams = {
  name: 'streams',
  about: 'posting to a stream beside a plain INSERT of the same row, the replay of a stream to one listener, and its first message after a start',
  async run(bench, paths) {
    const database = await cluster.shared(paths);
    let front = await gateway.start(database); // installs the schema
    await front.stop();
    // The same columns, defaults and key, without partitions and without anybody who looks the channel up.
    await database.sql(`select postbus.create_stream('bench stream'); create table plain_messages (like postbus.messages including defaults, primary key (id));
      create function plain_post(channel text, payload text) returns void language plpgsql as
        'begin insert into plain_messages (segment, is_json, channel, payload) values (1, false, channel, payload); end'`);
    const seconds = bench.quick ? 1 : 4;
    for (const clients of [1, 32]) {
      const results = await bench.alternate(`streams, ${clients} clients`, Object.keys(scripts), (arm) =>
        bench.quietly(`${arm}, ${clients} clients`, () => database.pgbench(scripts[arm], { clients, seconds })));
      const row = (rival, rival_name, target) => bench.row({
        name: `post to a stream, ${clients} client${clients > 1 ? 's' : ''}`, unit: 'transactions/s', ours: results.post.map((one) => one.per_second),
        rival: results[rival].map((one) => one.per_second), rival_name, target, command: './dev bench streams',
        noisy: [...results.post, ...results[rival]].some((one) => one.noisy),
      });
      row('insert', 'INSERT of the same row', { at_least: 0.9 });
      row('in a function', 'the same in a function of one line');
    }

    const count = bench.quick ? 100_000 : 1_000_000;
    bench.progress(`streams: ${count} messages to be replayed`);
    await database.sql(`select postbus.create_stream('replayed')`);
    front = await gateway.start(database);
    for (let made = 0; made < count; made += 10_000) await database.sql(`select postbus.post('replayed', '${payload}') from generate_series(1, 10000)`);
    for (const limit = performance.now() + 120_000; Number(await database.sql(`select count from postbus.streams where channel = 'replayed'`)) < count; ) {
      if (performance.now() > limit) throw new Error('the messages were not written down within two minutes');
      await sleep(0.1);
    }
    const rates = await bench.alternate('streams, replay', ['replay'], () =>
      bench.quietly('replay', async () => ({ per_second: count / (await replay(front, 'replayed', count)) })));
    bench.row({
      name: `replay of ${count.toLocaleString('en')} messages to one listener`, unit: 'messages/s', ours: rates.replay.map((one) => one.per_second),
      target: { at_least: 200_000 }, command: './dev bench streams', noisy: rates.replay.some((one) => one.noisy),
    });
    for (const line of await front.stop()) bench.note(`the gateway said: ${line}`);

    // A temporary slot begins where the gateway starts: what was posted before may have been seen by nobody, and is looked for.
    const starts = await bench.alternate('streams, start', ['start'], () => bench.quietly('start', async () => {
      await database.sql(`select postbus.post('replayed', 'seen by no gateway')`);
      const started = performance.now();
      front = await gateway.start(database, ['--slot', 'temporary']);
      await replay(front, 'replayed', 1);
      const seconds = (performance.now() - started) / 1000;
      for (const line of await front.stop()) bench.note(`the gateway said: ${line}`);
      return { seconds };
    }), bench.fewer_rounds);
    bench.row({
      name: `first of ${count.toLocaleString('en')} messages after a start`, unit: 's', ours: starts.start.map((one) => one.seconds),
      command: './dev bench streams', noisy: starts.start.some((one) => one.noisy),
    });
  },
};
