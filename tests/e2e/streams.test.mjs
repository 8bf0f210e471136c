// Streams: what is kept comes back in order and once, by every way of listening, and consumers go on where they were.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { spawnSync } from 'node:child_process';
import { binary, Gateway } from './harness/gateway.mjs';
import { Program, until } from './harness/program.mjs';
import { setting } from './harness/setting.mjs';

const here = setting();
const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => String(from + i));
const curl = (...args) => spawnSync('curl', ['-sS', '-m', '10', ...args], { encoding: 'utf8' }).stdout;
const post = (channel, from, to) => here.psql(`select postbus.post('${channel}', n::text) from generate_series(${from}, ${to}) n`);
/** Another gateway on the same database remembers nothing: what it tells comes from the tables. */
const fresh = () => Gateway.start(here.url, ['--slot', 'temporary']);
const kept = (channel, count) => until(`${count} written down`, () => Number(here.psql(`select count from postbus.streams where channel = '${channel}'`)) === count);

test('a listener that comes late gets everything, by SSE, WebSocket, long poll and /wait, with the positions of live delivery', async () => {
  here.psql("select postbus.create_stream('late')");
  const live = await here.gateway.socket('/v1/channels/late');
  for (let n = 1; n <= 20; ++n) post('late', n, n);
  await until('all live', () => live.events.length === 20);
  await kept('late', 20);
  const ids = live.events.map((e) => e.id);
  const gateway = await fresh();
  try {
    const socket = await gateway.socket('/v1/channels/late?after=beginning');
    await until('all from the tables', () => socket.events.length >= 20);
    assert.deepEqual(socket.events.map((e) => [e.id, e.payload]), live.events.map((e) => [e.id, e.payload]));
    assert.deepEqual(socket.events.map((e) => e.at), live.events.map((e) => e.at));
    post('late', 21, 25);
    await until('then live', () => socket.events.length >= 25);
    assert.deepEqual(socket.events.map((e) => e.payload), numbers(1, 25));
    const stream = await gateway.stream(`/v1/channels/late?after=${ids[9]}`);
    await until('the rest by SSE', () => stream.events.filter((e) => e.data !== undefined).length >= 15);
    assert.deepEqual(stream.events.filter((e) => e.data !== undefined).map((e) => e.data), numbers(11, 25));
    const poll = JSON.parse(curl(`${gateway.url}/v1/channels/late?after=${ids[14]}`));
    assert.deepEqual(poll.events.map((e) => e.payload), numbers(16, 25));
    assert.deepEqual(JSON.parse(curl(`${gateway.url}/v1/channels/late?after=${poll.next}`)).events, []);
    assert.equal(curl(`${gateway.url}/wait?channel=late&after=${ids[3]}`), '5');
    await socket.close();
    stream.close();
  } finally {
    await gateway.stop();
  }
  await live.close();
});

test('writers go on while it is read, and nothing is missing or comes twice', async () => {
  here.psql("select postbus.create_stream('busy stream')");
  post('busy stream', 1, 3000);
  await kept('busy stream', 3000);
  const gateway = await fresh();
  try {
    let n = 3000;
    const listeners = [];
    for (let round = 0; round < 10; ++round) {
      listeners.push(await gateway.socket('/v1/channels/busy%20stream?after=beginning'));
      for (let i = 0; i < 10; ++i) post('busy stream', ++n, n);
    }
    for (const one of listeners) {
      await until('everything', () => one.events.length >= n);
      assert.deepEqual(one.events.map((e) => e.payload), numbers(1, n));
      await one.close();
    }
  } finally {
    await gateway.stop();
  }
});

test('many channels over one stream come in one order, so that one position resumes them all', async () => {
  here.psql("select postbus.create_stream('m1'), postbus.create_stream('m2')");
  for (let n = 1; n <= 30; ++n) here.psql(`select postbus.post('m${1 + (n % 2)}', '${n}')`);
  await kept('m1', 15);
  await kept('m2', 15);
  const gateway = await fresh();
  try {
    const all = await gateway.stream('/v1/events?channel=m1&channel=m2&channel=ephemeral&after=beginning&format=payload');
    const data = (s) => s.events.filter((e) => e.data !== undefined).map((e) => e.data);
    await until('both streams', () => data(all).length >= 30);
    here.psql("select postbus.post('ephemeral', '31'), postbus.post('m1', '32')");
    await until('then live', () => data(all).length >= 32);
    assert.deepEqual(data(all), numbers(1, 32));
    const at = all.events.filter((e) => e.data !== undefined)[19].id;
    const rest = await gateway.stream(`/v1/events?channel=m1&channel=m2&after=${at}&format=payload`);
    await until('the rest', () => data(rest).length >= 11);
    assert.deepEqual(data(rest), [...numbers(21, 30), '32']);
    all.close();
    rest.close();
  } finally {
    await gateway.stop();
  }
});

test('a named consumer goes on where it acknowledged, by every door', async () => {
  here.psql("select postbus.create_stream('jobs')");
  post('jobs', 1, 10);
  await kept('jobs', 10);
  const ws = await here.gateway.socket('/v1/ws', { protocols: ['postbus.v1'] });
  ws.send({ id: 1, op: 'subscribe', channel: 'jobs', consumer: 'billing' });
  await until('all jobs', () => ws.events.filter((e) => e.sub === 1).length === 10);
  const jobs = ws.events.filter((e) => e.sub === 1);
  ws.send({ id: 2, op: 'ack', channel: 'jobs', consumer: 'billing', position: jobs[3].id });
  assert.deepEqual(await ws.event('acknowledged', (e) => e.id === 2), { id: 2, ok: {} });
  ws.send({ id: 3, op: 'ack', channel: 'jobs', consumer: 'billing', position: `0000abcd${jobs[5].id.slice(8)}` });
  const { error } = await ws.event('refused', (e) => e.id === 3);
  assert.deepEqual([error.status, error.code], [400, 'invalid_position']);
  await ws.close();
  assert.equal(here.psql("select consumer, lag from postbus.consumers where channel = 'jobs'"), 'billing|6');

  const poll = JSON.parse(curl(`${here.gateway.url}/v1/channels/jobs?consumer=billing`));
  assert.deepEqual(poll.events.map((e) => e.payload), numbers(5, 10));
  const acked = curl('-X', 'POST', '-w', '%{http_code}', `${here.gateway.url}/v1/channels/jobs/ack?consumer=billing&position=${poll.events[2].id}`);
  assert.equal(acked, '204');
  const again = await here.gateway.stream('/v1/channels/jobs?consumer=billing');
  await until('the rest', () => again.events.filter((e) => e.data !== undefined).length === 3);
  assert.deepEqual(again.events.filter((e) => e.data !== undefined).map((e) => e.data), numbers(8, 10));
  again.close();
  // An earlier position changes nothing; a channel that is no stream has no consumers.
  here.psql(`select postbus.ack('jobs', 'billing', '${jobs[0].id}')`);
  assert.equal(here.psql("select position from postbus.consumers where channel = 'jobs'"), poll.events[2].id);
  const poster = (path) => here.gateway.request('POST', path);
  for (const none of [await here.gateway.get('/v1/channels/ephemeral?consumer=billing'), await poster(`/v1/channels/ephemeral/ack?consumer=billing&position=${jobs[0].id}`)]) {
    assert.equal(none.status, 404);
    assert.match(JSON.parse(none.body).detail, /'ephemeral' is not a stream.*select postbus\.create_stream\('ephemeral'\)/);
  }
  assert.equal((await here.gateway.get(`/v1/channels/jobs?consumer=billing&after=${jobs[0].id}`)).status, 400);
});

test('postbus listen --consumer acknowledges what it printed when the gateway is back', async (t) => {
  here.psql("select postbus.create_stream('acks')");
  const gateway = await fresh();
  t.after(() => gateway.stop('SIGKILL'));
  const heard = new Program(binary, ['listen', 'acks', '--consumer', 'c', '--url', gateway.url]);
  const holder = new Program('psql', [here.url, '-qAtX']);
  t.after(() => Promise.all([heard.stop('SIGKILL'), holder.stop('SIGKILL')]));
  post('acks', 1, 1);
  await heard.line(/ 1$/);
  await until('acknowledged', () => here.psql("select lag from postbus.consumers where channel = 'acks'") === '0');
  holder.write("begin; lock table postbus.stream_consumers in exclusive mode; select 'locked';\n");
  await holder.line(/^locked$/);
  post('acks', 2, 3);
  await heard.line(/ 2$/);
  await until('it acknowledges', () => Number(here.psql("select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query ~ 'ack'")) > 0);
  const { port } = gateway;
  await gateway.stop('SIGKILL');
  holder.write('rollback;\n');
  const again = await Gateway.start(here.url, ['--slot', 'temporary'], { port });
  t.after(() => again.stop());
  await kept('acks', 3);
  await until('all is acknowledged', () => here.psql("select lag from postbus.consumers where channel = 'acks'") === '0');
  post('acks', 4, 4);
  await heard.line(/ 4$/);
  assert.equal(heard.lines.filter((line) => / [1-4]$/.test(line)).length, 4, 'and nothing came twice');
});

test('postbus listen --consumer goes on where it was when positions begin anew', async (t) => {
  here.psql("select postbus.create_stream('anew')");
  let gateway = await fresh();
  t.after(() => gateway.stop('SIGKILL'));
  const heard = new Program(binary, ['listen', 'anew', '--consumer', 'c', '--url', gateway.url]);
  t.after(() => heard.stop('SIGKILL'));
  const acknowledged = () => until('all is acknowledged', () => here.psql("select lag from postbus.consumers where channel = 'anew'") === '0');
  post('anew', 1, 1);
  await heard.line(/ 1$/);
  await acknowledged();
  const { port } = gateway;
  await gateway.stop('SIGKILL');
  post('anew', 2, 3);
  here.psql('select postbus.new_epoch()');
  gateway = await Gateway.start(here.url, ['--slot', 'temporary'], { port });
  await heard.line(/ 3$/);
  await acknowledged();
  assert.deepEqual(heard.lines.filter((line) => / [1-3]$/.test(line)).map((line) => line.at(-1)), ['1', '2', '3']);
});

test('a consumer is of a stream: with a filter, a snapshot or a feed it is refused, with the reason', async () => {
  here.psql("create table orders(id int primary key); select postbus.watch('orders'); select postbus.create_stream('of streams')");
  for (const path of ['/v1/tables/orders?consumer=c', '/v1/tables/orders?consumer=c&where=id=1', '/v1/tables/orders?consumer=c&snapshot=true', '/v1/channels/table:public.orders?consumer=c']) {
    const refused = await here.gateway.get(path);
    assert.equal(refused.status, 404, path);
    assert.match(refused.body, /'table:public.orders' is not a stream/);
  }
  for (const name of ['', '%0a', '%C2%85', 'x'.repeat(256)])
    assert.equal((await here.gateway.get(`/v1/channels/of%20streams?consumer=${name}`)).status, 400, name);
  const ws = await here.gateway.socket('/v1/ws', { protocols: ['postbus.v1'] });
  ws.send({ id: 9, op: 'subscribe', channel: 'of streams', consumer: 'a\nb' });
  assert.equal((await ws.event('refused', (e) => e.id === 9)).error.status, 400);
  ws.send({ id: 1, op: 'subscribe', channel: 'table:public.orders', consumer: 'c' });
  assert.match((await ws.event('refused', (e) => e.id === 1)).error.detail, /consumer/);
  ws.send({ id: 2, op: 'subscribe', channel: 'table:public.orders', consumer: 'c', where: 'id = 1' });
  assert.match((await ws.event('refused', (e) => e.id === 2)).error.detail, /consumer/);
  // An acknowledgement, too, and what is told then must not send anybody to a stream that cannot be made.
  const position = '00000001-0000000000000001-00000000';
  ws.send({ id: 3, op: 'ack', channel: 'table:public.orders', consumer: 'c', position });
  const acked = await here.gateway.request('POST', `/v1/channels/table:public.orders/ack?consumer=c&position=${position}`);
  assert.equal(acked.status, 404);
  for (const { detail } of [JSON.parse(acked.body), (await ws.event('refused', (e) => e.id === 3)).error]) {
    assert.match(detail, /resume after it/);
    assert.doesNotMatch(detail, /create/);
  }
  // One connection may have each in a subscription of its own.
  here.psql('insert into orders select generate_series(1, 2000)');
  post('of streams', 1, 2000);
  await kept('of streams', 2000);
  const gateway = await fresh();
  try {
    const both = await gateway.socket('/v1/ws', { protocols: ['postbus.v1'] });
    both.send({ id: 1, op: 'subscribe', channel: 'table:public.orders', snapshot: true, where: 'id <= 1500' });
    both.send({ id: 2, op: 'subscribe', channel: 'of streams', consumer: 'c' });
    await until('the rows', () => both.events.some((e) => e.sub === 1 && e.kind === 'live'));
    await until('the messages', () => both.events.filter((e) => e.sub === 2).length === 2000);
    assert.equal(both.events.filter((e) => e.sub === 1 && e.kind === 'row').length, 1500);
    assert.deepEqual(both.events.filter((e) => e.sub === 2).map((e) => e.payload), numbers(1, 2000));
    await both.close();
  } finally {
    await gateway.stop();
  }
  await ws.close();
});

test('over a restart of the gateway a stream is the same, from any position, be it from before what the gateway remembers', async () => {
  const database = await here.cluster.database();
  const sql = (text) => here.cluster.psql(database, text);
  const begin = () => Gateway.start(here.cluster.url(database), ['--slot', 'permanent', '--resume-window', '0']);
  let gateway = await begin();
  try {
    sql("select postbus.create_stream('s')");
    const told = [];
    for (let round = 0; round < 3; ++round) {
      const from = told.length;
      const live = await gateway.socket(from === 0 ? '/v1/channels/s' : `/v1/channels/s?after=${told.at(-1)[0]}`);
      sql(`select postbus.post('s', n::text) from generate_series(${from + 1}, ${from + 10}) n`);
      await until('ten more', () => live.events.length === 10);
      told.push(...live.events.map((e) => [e.id, e.payload]));
      assert.deepEqual(told.map(([, payload]) => payload), numbers(1, from + 10));
      await gateway.stop(round === 1 ? 'SIGKILL' : 'SIGTERM');
      gateway = await begin();
    }
    for (const after of ['beginning', told[3][0], told[14][0], told[28][0]]) {
      const again = await gateway.socket(`/v1/channels/s?after=${after}`);
      const expected = told.slice(after === 'beginning' ? 0 : told.findIndex(([id]) => id === after) + 1);
      await until('what is kept', () => again.events.length >= expected.length);
      assert.deepEqual(again.events.map((e) => [e.id, e.payload]), expected);
      await again.close();
    }
  } finally {
    await gateway.stop();
  }
});

test('messages posted while no gateway ran are there when one comes, and the gateway may be killed at any moment', async () => {
  here.psql("select postbus.create_stream('alone')");
  const first = await fresh();
  post('alone', 1, 5);
  const ws = await first.socket('/v1/channels/alone?after=beginning');
  await until('five', () => ws.events.length >= 5);
  await first.stop('SIGKILL');
  post('alone', 6, 10);
  const second = await fresh();
  try {
    const all = await second.socket('/v1/channels/alone?after=beginning');
    await until('ten', () => all.events.length >= 10);
    assert.deepEqual(all.events.map((e) => e.payload), numbers(1, 10));
    await all.close();
  } finally {
    await second.stop();
  }
});

test('messages that no gateway read get places behind all that was delivered, each once, and one resumes from any of them', async () => {
  here.psql("select postbus.create_stream('unread')");
  await here.gateway.stop();
  try {
    const first = await fresh();
    const live = await first.socket('/v1/channels/unread');
    post('unread', 1, 5);
    await until('five', () => live.events.length === 5);
    await kept('unread', 5);
    await first.stop('SIGKILL');
    here.psql("select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active");  // nor will one read them later
    for (let n = 6; n <= 10; ++n) post('unread', n, n);
    const second = await fresh();
    try {
      post('unread', 11, 12);
      const all = await second.socket('/v1/channels/unread?after=beginning');
      await until('all', () => all.events.length >= 12);
      assert.deepEqual(all.events.map((e) => e.payload), numbers(1, 12));
      assert.deepEqual(all.events.slice(0, 5).map((e) => e.id), live.events.map((e) => e.id), 'what was delivered stays where it was');
      assert.ok(all.events.every((e, i) => i === 0 || all.events[i - 1].id < e.id), 'places grow');
      for (const [i, { id }] of all.events.slice(0, -1).entries()) {
        const rest = await second.socket(`/v1/channels/unread?after=${id}`);
        await rest.event('the last one', (e) => e.payload === '12');
        assert.deepEqual(rest.events.map((e) => [e.id, e.payload]), all.events.slice(i + 1).map((e) => [e.id, e.payload]));
        rest.close();
      }
      all.close();
    } finally {
      await second.stop();
    }
  } finally {
    here.gateway = await Gateway.start(here.url);
  }
});

test('one who was away for longer than the stream keeps is told of the gap', async () => {
  here.psql("select postbus.create_stream('short', max_count => 16)");
  const live = await here.gateway.socket('/v1/channels/short');
  for (let n = 1; n <= 40; ++n) {
    post('short', n, n);
    await until('live', () => live.events.length === n);
    if (n % 2 === 0) {
      here.psql('select postbus.maintain_streams()');
    }
  }
  const gateway = await fresh();
  try {
    const late = await gateway.socket(`/v1/channels/short?after=${live.events[0].id}`);
    await until('the newest', () => late.events.some((e) => e.payload === '40'));
    assert.equal(late.events[0].kind, 'gap');
    assert.equal(late.events[0].payload.reason, 'expired');
    const rest = late.events.slice(1).map((e) => e.payload);
    assert.deepEqual(rest, numbers(41 - rest.length, 40));
    assert.match((await gateway.get('/metrics')).body, /postbus_gaps_total\{reason="expired"\} 1\n/);
    await late.close();
  } finally {
    await gateway.stop();
  }
  await live.close();
});

test('a notification lost on a stream is told to whoever resumes from before it, and keeps nobody waiting', async () => {
  here.psql("select postbus.create_stream('noted')");
  const live = await here.gateway.socket('/v1/channels/noted');
  post('noted', 1, 3);
  here.psql("notify noted, 'plain'");
  await until('all live', () => live.events.length === 4);
  // Nothing is committed from here on.
  here.psql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postbus listener' and datname = current_database()");
  await live.event('the gap', (e) => e.kind === 'gap');
  const after = live.events[0].id, told = live.events.slice(1).map((e) => [e.kind, e.id, e.payload.reason ?? e.payload]);
  assert.deepEqual(told.map(([kind]) => kind), ['message', 'message', 'message', 'gap']);
  const again = await here.gateway.socket(`/v1/channels/noted?after=${after}`);
  await until('the same again', () => again.events.length >= told.length);
  assert.deepEqual(again.events.map((e) => [e.kind, e.id, e.payload.reason ?? e.payload]), told);
  const both = await here.gateway.stream(`/v1/events?channel=noted&channel=other&after=${after}`);
  await both.event('the gap', (e) => e.event === 'gap' && JSON.parse(e.data).channel === 'noted');
  both.close();
  await Promise.all([live.close(), again.close()]);
});

test('a slow reader of much holds no transaction and gets it all', async () => {
  here.psql("select postbus.create_stream('large')");
  here.psql("select postbus.post('large', n || repeat('x', 100000)) from generate_series(1, 300) n");
  await kept('large', 300);
  const gateway = await fresh();
  try {
    const slow = await gateway.socket('/v1/channels/large?after=beginning');
    slow.ws.pause();
    await until('no session works for it', () => here.psql("select count(*) from pg_stat_activity where application_name = 'postbus replay' and state <> 'idle'") === '0');
    slow.ws.resume();
    await until('all of it', () => slow.events.length >= 300);
    assert.deepEqual(slow.events.map((e) => e.payload.replace(/x+$/, '')), numbers(1, 300));
    await slow.close();
  } finally {
    await gateway.stop();
  }
});

test('the command line makes streams, lists them, and a consumer prints each message once over several runs', async () => {
  const { binary } = await import('./harness/gateway.mjs');
  const postbus = (...args) => spawnSync(binary, args, { encoding: 'utf8', timeout: 20_000, env: { ...process.env, POSTBUS_DB: here.url, POSTBUS_URL: here.gateway.url } });
  assert.equal(postbus('stream', 'create', 'log', '--keep', '2 hours', '--max-bytes', '2MiB', '--max-count', '1000').status, 0);
  assert.equal(here.psql("select keep, max_bytes, max_count from postbus.streams where channel = 'log'"), '02:00:00|2097152|1000');
  for (let round = 0; round < 3; ++round) {
    post('log', round * 5 + 1, round * 5 + 5);
    const ran = postbus('listen', 'log', '--json', '--consumer', 'etl', '--count', '5');
    assert.equal(ran.status, 0, ran.stderr);
    assert.deepEqual(ran.stdout.trim().split('\n').map((line) => JSON.parse(line).payload), numbers(round * 5 + 1, round * 5 + 5));
  }
  const listed = postbus('stream', 'list', '--json').stdout.trim().split('\n').map((line) => JSON.parse(line));
  assert.ok(listed.some((s) => s.channel === 'log' && s.past_bytes === false));
  const state = () => postbus('stream', 'list').stdout.split('\n').find((line) => line.startsWith('log '));
  assert.match(state(), /within its bounds/);
  assert.equal(postbus('stream', 'create', 'log', '--keep', '2 hours', '--max-count', '9').status, 0);
  assert.match(state(), /past its bound in messages/);
  assert.equal(postbus('listen', 'log', '--consumer', 'etl', '--from', 'beginning').status, 2);
  assert.equal(postbus('stream', 'create').status, 2);
  for (const name of ['table:public.orders', 'a\nb', 'x'.repeat(300)]) assert.equal(postbus('stream', 'create', name).status, 2, name);
  for (const name of ['', 'a\nb', 'x'.repeat(256)]) assert.equal(postbus('listen', 'log', '--consumer', name).status, 2, name);
  const none = postbus('stream', 'create', 'log', '--max-count', '0');
  assert.equal(none.status, 2);
  assert.match(none.stderr, /0 is no count; it is a whole number from 1/);
  assert.equal(postbus('stream', 'drop', 'log').status, 0);
  assert.equal(postbus('stream', 'drop', 'log').status, 1);
  assert.equal(postbus('listen', 'log', '--consumer', 'etl').status, 1);
});
