// The ping-pong story on ephemeral channels: two applications, one listening through the gateway, one in SQL.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Gateway } from './harness/gateway.mjs';
import { Program, run, until } from './harness/program.mjs';
import { setting, source } from './harness/setting.mjs';

const here = setting();
const payloads = (listener) => listener.events.filter((e) => e.kind === 'message').map((e) => e.payload);

test('A asks, B does, A hears', async () => {
  const a = await here.gateway.socket('/v1/ws', { protocols: ['postbus.v1'] });
  const b = await here.gateway.socket('/v1/ws', { protocols: ['postbus.v1'] });
  a.send({ id: 1, op: 'subscribe', channel: 'workA' });
  b.send({ id: 1, op: 'subscribe', channel: 'workerB' });
  for (const side of [a, b]) await side.event('confirmed', (f) => f.id === 1 && f.ok?.position);
  a.send({ id: 2, op: 'post', channel: 'workerB', payload: 'do job 1001' });
  const job = await b.event('the job', (f) => f.sub === 1);
  assert.deepEqual([job.channel, job.kind, job.payload], ['workerB', 'message', 'do job 1001']);
  b.send({ id: 2, op: 'post', channel: 'workA', payload: 'job 1001 done' });
  const done = await a.event('the answer', (f) => f.sub === 1);
  assert.equal(done.payload, 'job 1001 done');
  await Promise.all([a.close(), b.close()]);
});

test("the example's two scripts: A gives three jobs, B does them", async () => {
  const script = (name) => fileURLToPath(source(`examples/ping-pong/${name}`));
  const b = new Program(script('b.sh'), [here.gateway.url], { detached: true });
  try {
    await until('B listens', async () => (await here.gateway.status()).channels.some((c) => c.name === 'workerB' && c.listeners === 1));
    for (const job of [1001, 1002, 1003]) assert.equal(run(script('a.sh'), [String(job), here.gateway.url]), `job ${job} done\n`);
    await b.line(/1003/);
    assert.deepEqual(b.lines, ['doing job 1001', 'doing job 1002', 'doing job 1003']);
  } finally {
    process.kill(-b.pid, 'SIGKILL');
  }
});

test('a message goes out at commit and none on rollback', async () => {
  const b = await here.gateway.socket('/v1/channels/rolled');
  here.psql("begin; select postbus.post('rolled', 'never'); rollback");
  here.psql("begin; select postbus.post('rolled', 'first'); savepoint s; select postbus.post('rolled', 'nor this'); rollback to s; select postbus.post('rolled', 'second'); commit");
  await until('both', () => payloads(b).length >= 2);
  assert.deepEqual(payloads(b), ['first', 'second']);
  const [x, y] = b.events;
  assert.ok(x.id < y.id, 'order of positions is order of events');
  await b.close();
});

test('several jobs wait at once for a B that was busy, in commit order, equal ones too', async () => {
  const b = await here.gateway.socket('/v1/channels/busy');
  b.ws.pause();
  for (const n of [1, 2, 2, 3]) here.psql(`select postbus.post('busy', 'job ${n}')`);
  b.ws.resume();
  await until('all four', () => payloads(b).length >= 4);
  assert.deepEqual(payloads(b), ['job 1', 'job 2', 'job 2', 'job 3']);
  await b.close();
});

test('a B that was away resumes after its position', async () => {
  const b = await here.gateway.socket('/v1/channels/away');
  here.psql("select postbus.post('away', 'one')");
  const { id } = await b.event('one', (e) => e.payload === 'one');
  await b.close();
  here.psql("select postbus.post('away', 'two')");
  const again = await here.gateway.socket(`/v1/channels/away?after=${id}`);
  here.psql("select postbus.post('away', 'three')");
  await until('three', () => again.events.length >= 2);
  assert.deepEqual(again.events.map((e) => [e.kind, e.payload]), [['message', 'two'], ['message', 'three']]);
  await again.close();
});

test('a B that comes back to a gateway that was killed gets what was posted meanwhile', async () => {
  const b = await here.gateway.socket('/v1/channels/killed');
  here.psql("select postbus.post('killed', 'before')");
  const { id } = await b.event('before', (e) => e.payload === 'before');
  await here.gateway.stop('SIGKILL');
  assert.equal((await b.closed).code, 1006);
  here.psql("select postbus.post('killed', 'while nobody listened')");
  here.gateway = await Gateway.start(here.url);
  const again = await here.gateway.socket(`/v1/channels/killed?after=${id}`);
  here.psql("select postbus.post('killed', 'after')");
  await again.event('after', (e) => e.payload === 'after');
  assert.deepEqual(again.events.map((e) => e.payload), ['while nobody listened', 'after']);
  await again.close();
});

test('draining tells listeners to come back (1001) and ends with 0', async () => {
  const b = await here.gateway.socket('/v1/channels/draining');
  const sse = await here.gateway.stream('/v1/channels/draining');
  const wait = here.gateway.get('/wait?channel=draining');
  await until('all three', async () => (await here.gateway.status()).channels.find((c) => c.name === 'draining')?.listeners === 3);
  const ended = here.gateway.stop('SIGTERM');
  assert.equal((await b.closed).code, 1001);
  await until('the stream ended', () => sse.over);
  assert.ok(sse.retry > 0, 'told when to come back');
  const { status, headers } = await wait;
  assert.equal(status, 204, 'as when its time is up');
  assert.match(headers['postbus-position'], /^[0-9a-f]{8}-/, 'and with where to go on');
  assert.deepEqual(await ended, { code: 0, signal: null });
  here.gateway = await Gateway.start(here.url);
});

test('on a stream B is stopped, A posts, B returns and gets everything in order, once', async () => {
  const script = fileURLToPath(source('examples/ping-pong/stream_b.sh'));
  here.psql("select postbus.create_stream('workerB')");
  const answers = await here.gateway.socket('/v1/channels/workA');
  const post = (job) => here.gateway.post('workerB', `do job ${job}`);
  await post(3001);
  const b = new Program(script, [here.gateway.url], { detached: true });
  await answers.event('the first answer', (e) => e.payload === 'job 3001 done');
  await until('acknowledged', () => here.psql("select lag from postbus.consumers where consumer = 'b'") === '0');
  process.kill(-b.pid, 'SIGKILL');
  for (const job of [3002, 3003]) await post(job);
  await here.gateway.stop('SIGKILL');
  here.psql("select postbus.post('workerB', 'do job 3004')"); // A needs no gateway
  here.gateway = await Gateway.start(here.url);
  assert.equal(run(script, [here.gateway.url, '3']), 'doing job 3002\ndoing job 3003\ndoing job 3004\n');
  assert.equal(here.psql("select lag from postbus.consumers where consumer = 'b'"), '0');
});

test('on a stream B passes over a gap, and over what is no job', async () => {
  const script = fileURLToPath(source('examples/ping-pong/stream_b.sh'));
  here.psql("select postbus.create_stream('workerB')");
  here.psql("delete from postbus.stream_consumers; update postbus.stream_channels set dropped_to = postbus.place(2, 0)");
  here.psql("insert into postbus.stream_consumers (stream, consumer, epoch, place) select c.id, 'b', m.epoch, postbus.place(1, 0) from postbus.stream_channels c, postbus.meta m");
  here.psql("select postbus.post('workerB', 'hello')");
  here.psql("select postbus.post('workerB', 'do job 4001')");
  const b = new Program(script, [here.gateway.url], { detached: true });
  try {
    await until('acknowledged', () => here.psql("select lag from postbus.consumers where consumer = 'b'") === '0');
  } finally {
    process.kill(-b.pid, 'SIGKILL');
  }
});
