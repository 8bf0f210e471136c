// The wait-post story, by curl as the article has it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Program, run, until } from './harness/program.mjs';
import { setting, size } from './harness/setting.mjs';

const here = setting();
const curl = (...args) => run('curl', ['-sS', '--fail-with-body', '--max-time', '30', ...args]);
const waiters = (channel) => here.gateway.status().then((s) => s.channels.find((c) => c.name === channel)?.listeners ?? 0);
const waiting = (channel, n = 1) => until(`${n} waiting on ${channel}`, async () => (await waiters(channel)) === n);

test('curl /wait blocks until curl /post', async () => {
  const { url } = here.gateway;
  const wait = new Program('curl', ['-sS', `${url}/wait?channel=foo`]);
  await waiting('foo');
  assert.equal(curl(`${url}/post?channel=foo&payload=bar`), '');
  assert.deepEqual(await wait.ended, { code: 0, signal: null });
  assert.deepEqual(wait.lines, ['bar']);
  await waiting('foo', 0);
});

test('every waiter of a channel gets it, no waiter of another does', async () => {
  const { url } = here.gateway;
  const many = Array.from({ length: size(20, 500) }, () => here.gateway.get('/wait?channel=many'));
  const other = here.gateway.get('/wait?channel=other');
  await waiting('many', many.length);
  await waiting('other');
  curl(`${url}/post?channel=many&payload=all`);
  for (const answer of await Promise.all(many)) assert.deepEqual([answer.status, answer.body], [200, 'all']);
  assert.equal(await waiters('other'), 1);
  curl('-d', '', `${url}/post?channel=other&payload=done`);
  assert.equal((await other).body, 'done');
});

test('waiters on many channels share one database connection', async () => {
  const n = size(50, 2000);
  const sessions = async () => Number((await here.sql("select count(*) as n from pg_stat_activity where datname = current_database() and application_name like 'postbus%' and backend_type = 'client backend'"))[0].n);
  const before = await sessions();
  const all = Array.from({ length: n }, (_, i) => here.gateway.get(`/wait?channel=c${i}`, { timeout: 60_000 }));
  await until(`${n} waiters`, async () => (await here.gateway.status()).subscriptions >= n);
  assert.ok((await sessions()) <= before, 'no session per waiter');
  here.psql(`select postbus.post('c' || i, 'n' || i) from generate_series(0, ${n - 1}) i`);
  const bodies = (await Promise.all(all)).map((a) => a.body);
  assert.deepEqual(bodies, Array.from({ length: n }, (_, i) => `n${i}`));
});

test('loop=true gives a line per payload for ever', async () => {
  const wait = new Program('curl', ['-sSN', `${here.gateway.url}/wait?channel=looped&loop=true`]);
  await waiting('looped');
  for (const word of ['one', 'two', 'three']) curl(`${here.gateway.url}/post?channel=looped&payload=${word}`);
  await wait.line(/^three$/);
  assert.deepEqual(wait.lines, ['one', 'two', 'three']);
  await wait.stop('SIGKILL');
  await waiting('looped', 0);
});

test('a waiter that leaves frees its place; one whose time is up gets 204', async () => {
  const wait = new Program('curl', ['-sS', `${here.gateway.url}/wait?channel=leaver`]);
  await waiting('leaver');
  await wait.stop('SIGKILL');
  await waiting('leaver', 0);
  const { status, body } = await here.gateway.get('/wait?channel=quiet&timeout=200ms');
  assert.deepEqual([status, body], [204, '']);
});

test('after= gets what came between two waits', async () => {
  const first = here.gateway.get('/wait?channel=queue');
  await waiting('queue');
  here.psql("select postbus.post('queue', 'a'); select postbus.post('queue', 'b')");
  const a = await first;
  assert.equal(a.body, 'a');
  const b = await here.gateway.get(`/wait?channel=queue&after=${a.headers['postbus-position']}`);
  assert.equal(b.body, 'b');
});

test('POST answers with the position from which the message is there', async () => {
  const { status, body } = await here.gateway.post('answers', 'hello');
  assert.equal(status, 202);
  assert.match(JSON.parse(body).at_least, /^[0-9a-f]{8}-[0-9a-f]{16}-7fffffff$/);
  const page = JSON.parse((await here.gateway.get('/v1/channels/answers?after=beginning&wait=20s')).body);
  assert.deepEqual(page.events.map((e) => e.payload), ['hello']);
  assert.ok(page.events[0].id <= JSON.parse(body).at_least);
  assert.ok(page.next >= page.events[0].id);
});

test('a wait survives the loss of the database connection', async () => {
  const wait = here.gateway.get('/wait?channel=survivor&timeout=60s', { timeout: 60_000 });
  await waiting('survivor');
  const reconnects = async () => (await here.gateway.status()).reconnects;
  const before = await reconnects();
  await here.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'postbus%'");
  await until('the gateway reads again', async () => (await reconnects()) > before);
  await here.gateway.ready();
  here.psql("select postbus.post('survivor', 'still here')");
  assert.equal((await wait).body, 'still here');
});
