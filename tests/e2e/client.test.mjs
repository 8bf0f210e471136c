// The npm client against a real gateway: what its own tests script, here with a real loss.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import { Gateway } from './harness/gateway.mjs';
import { run, until } from './harness/program.mjs';
import { setting, source, withOrders } from './harness/setting.mjs';
import { fileURLToPath } from 'node:url';

run(process.execPath, [fileURLToPath(source('web/build.mjs')), '--client']);
const { connect } = await import(source('web/client/dist/postbus.js'));

const here = setting({ prepare: withOrders });
const quick = { WebSocket, backOff: { first: 20, longest: 200 } };

/** Subscribes and keeps what comes; resolves once confirmed. */
function listen(bus, channel, options = {}) {
  const heard = { events: [], gaps: [], resets: [], ready: 0 };
  return new Promise((resolve, reject) => {
    heard.subscription = bus.subscribe(channel, {
      ...options,
      onEvent: (e) => heard.events.push(e),
      onGap: (g) => heard.gaps.push(g),
      onReset: (r) => heard.resets.push(r),
      onReady: () => { heard.ready += 1; resolve(heard); },
      onError: reject,
    });
  });
}

test('posts and listens; text stays text and JSON stays JSON', async (t) => {
  const bus = connect(here.gateway.url, quick);
  t.after(() => bus.close());
  const heard = await listen(bus, 'npm');
  const sent = ['text', '{"looks":"like JSON"}', { n: 1, list: [true, null, 'x'] }, 42, ''];
  for (const payload of sent) assert.match(await bus.post('npm', payload), /^[0-9a-f]{8}-[0-9a-f]{16}-7fffffff$/);
  await until('all of them', () => heard.events.length === sent.length);
  assert.deepEqual(heard.events.map((e) => e.payload), sent);
});

test('a feed brings rows', async (t) => {
  const bus = connect(here.gateway.url, quick);
  t.after(() => bus.close());
  const heard = await listen(bus, 'table:public.orders');
  here.psql("insert into orders (customer, item, quantity, total) values ('Npm', 'Stamp', 2, 1.50)");
  await until('the row', () => heard.events.length === 1);
  const [{ kind, payload }] = heard.events;
  assert.equal(kind, 'insert');
  assert.deepEqual([payload.schema, payload.table, payload.action, payload.data.total], ['public', 'orders', 'INSERT', 1.5]);
});

test('nothing is lost over cut connections while the gateway lives', async (t) => {
  const sockets = [];
  class Cuttable extends WebSocket { constructor(...args) { super(...args); sockets.push(this); } }
  const bus = connect(here.gateway.url, { ...quick, WebSocket: Cuttable });
  t.after(() => bus.close());
  const heard = await listen(bus, 'cut');
  const total = 200;
  for (let i = 0; i < total; ++i) {
    here.gateway.post('cut', String(i)).catch(() => {});
    if (i % 50 === 25) sockets.at(-1).terminate();
    await until(`post ${i} is in`, async () => (await here.gateway.status()).channels.find((c) => c.name === 'cut')?.events > i);
  }
  await until('all of them', () => heard.events.length >= total);
  assert.deepEqual(heard.events.map((e) => Number(e.payload)), Array.from({ length: total }, (_, i) => i));
  assert.deepEqual([heard.gaps, heard.resets], [[], []]);
  assert.ok(heard.ready > 1, 'it did reconnect');
});

test('a killed gateway is come back to, and nothing is lost', async (t) => {
  const bus = connect(here.gateway.url, quick);
  t.after(() => bus.close());
  const heard = await listen(bus, 'killed');
  await bus.post('killed', 'before');
  await until('before', () => heard.events.length === 1);
  const { port } = here.gateway;
  await here.gateway.stop('SIGKILL');
  here.psql("select postbus.post('killed', 'while away')");
  here.gateway = await Gateway.start(here.url, [], { port });
  here.psql("select postbus.post('killed', 'after')");
  await until('after', () => heard.events.some((e) => e.payload === 'after'));
  assert.deepEqual(heard.events.map((e) => e.payload), ['before', 'while away', 'after']);
  assert.equal(heard.gaps.length + heard.resets.length, 0);
});

test('a drained gateway is come back to', async (t) => {
  const codes = [];
  const bus = connect(here.gateway.url, { ...quick, onState: (s) => { if (s.name === 'waiting') codes.push(s.code); } });
  t.after(() => bus.close());
  await listen(bus, 'drained');
  const { port } = here.gateway;
  assert.deepEqual(await here.gateway.stop('SIGTERM'), { code: 0, signal: null });
  here.gateway = await Gateway.start(here.url, [], { port });
  await bus.post('drained', 'x');
  assert.equal(codes[0], 1001);
});

test('errors say what to do', async (t) => {
  const bus = connect(here.gateway.url, quick);
  t.after(() => bus.close());
  await assert.rejects(bus.post('table:public.orders', 'x'), (e) => e.problem.status === 400);
  await assert.rejects(listen(bus, ''), (e) => e.problem.status === 400);
});
