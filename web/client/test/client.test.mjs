// The client's policy (resume, back-off, refusals, lost answers) against a gateway that follows a script; what it does
// against the real one stands in tests/e2e/client.test.mjs.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { connect } from '../dist/postbus.js';

const position = (n) => `5f3a9c01-${String(n).padStart(16, '0')}-00000000`;

/** A gateway on a free port; `script(connection number, socket, next)` plays each connection, `next()` gives its next request. */
async function gateway(t, script) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: () => 'postbus.v1' });
  await once(server, 'listening');
  t.after(() => { for (const socket of server.clients) socket.terminate(); server.close(); });
  let connections = 0;
  server.on('connection', (socket) => {
    const inbox = [], takers = [];
    socket.on('message', (data) => {
      const taker = takers.shift();
      if (taker) taker(JSON.parse(data)); else inbox.push(JSON.parse(data));
    });
    const next = () => new Promise((resolve) => { if (inbox.length > 0) resolve(inbox.shift()); else takers.push(resolve); });
    void script(++connections, { ...socket, say: (frame) => socket.send(JSON.stringify(frame)), cut: () => socket.terminate(), close: (code, why) => socket.close(code, why) }, next);
  });
  return `http://127.0.0.1:${server.address().port}`;
}

const quick = { WebSocket, backOff: { first: 1, longest: 5 } };
const event = (sub, n, payload, kind = 'message') => ({ sub, id: position(n), channel: 'c', kind, at: '2026-11-22T02:11:43.000123Z', payload });

test('a subscription is confirmed, gets its events and resumes after the last one', async (t) => {
  const asked = [];
  let heard;
  const done = new Promise((resolve) => { heard = resolve; });
  const url = await gateway(t, async (connection, socket, next) => {
    const request = await next();
    asked.push(request);
    socket.say({ id: request.id, ok: { position: position(10) } });
    socket.say(event(request.id, 10 + connection, `event ${connection}`));
    if (connection < 3) socket.cut();
  });
  const bus = connect(url, quick);
  t.after(() => bus.close());
  const payloads = [], ready = [];
  const subscription = bus.subscribe('c', {
    onReady: (at) => ready.push(at),
    onEvent: (e) => { payloads.push(e.payload); if (payloads.length === 3) heard(); },
  });
  await done;
  assert.deepEqual(payloads, ['event 1', 'event 2', 'event 3']);
  assert.deepEqual(asked.map((a) => a.after), [undefined, position(11), position(12)]);
  assert.deepEqual(ready, [position(10), position(10), position(10)]);
  assert.equal(subscription.position, position(13));
});

test('without an event it resumes after the confirmed position; beginning stays beginning', async (t) => {
  const asked = [];
  let again;
  const twice = new Promise((resolve) => { again = resolve; });
  const url = await gateway(t, async (connection, socket, next) => {
    for (let i = 0; i < 2; ++i) {
      const request = await next();
      asked.push([request.channel, request.after]);
      socket.say({ id: request.id, ok: { position: position(10) } });
    }
    if (connection === 2) return again();
    // The answers must have arrived before the cut: ask for one more round trip.
    const post = await next();
    socket.say({ id: post.id, ok: {} });
    const goOn = await next();
    assert.equal(goOn.payload, 'cut now');
    socket.cut();
  });
  const bus = connect(url, quick);
  t.after(() => bus.close());
  bus.subscribe('from now', {});
  bus.subscribe('all', { after: 'beginning' });
  await bus.post('c', 'sync');
  await assert.rejects(bus.post('c', 'cut now'), { unknown: true });
  await twice;
  assert.deepEqual(asked, [['from now', undefined], ['all', 'beginning'], ['from now', position(10)], ['all', 'beginning']]);
});

test('gap and reset have callbacks of their own and move the position', async (t) => {
  const told = [];
  let over;
  const done = new Promise((resolve) => { over = resolve; });
  const url = await gateway(t, async (_connection, socket, next) => {
    const { id } = await next();
    socket.say({ id, ok: { position: position(1) } });
    socket.say(event(id, 5, { from: position(1), to: position(5), reason: 'reconnect' }, 'gap'));
    socket.say({ ...event(id, 0, { position: position(0), reason: 'new epoch' }, 'reset'), id: '00000002-0000000000000000-00000000' });
    socket.say(event(id, 7, 'x'));
  });
  const bus = connect(url, quick);
  t.after(() => bus.close());
  bus.subscribe('c', { onGap: (g) => told.push(g.reason), onReset: (r) => told.push(r.reason), onEvent: (e) => { told.push(e.payload); over(); } });
  await done;
  assert.deepEqual(told, ['reconnect', 'new epoch', 'x']);
});

test('a snapshot that is interrupted starts over with a reset; after live it resumes', async (t) => {
  const asked = [], told = [];
  let over;
  const done = new Promise((resolve) => { over = resolve; });
  const row = (id, n) => ({ sub: id, id: null, channel: 'c', kind: 'row', at: event(0, 0).at, payload: n });
  const url = await gateway(t, async (connection, socket, next) => {
    const request = await next();
    const { id } = request;
    asked.push([request.snapshot, request.after]);
    socket.say({ id, ok: connection === 4 ? { position: position(9) } : {} });
    if (connection === 1) return socket.cut();
    if (connection === 4) return socket.say(event(id, 9, 'end'));
    socket.say(row(id, connection));
    if (connection === 3) socket.say(event(id, 8, { rows: 1 }, 'live'));
    socket.cut();
  });
  const bus = connect(url, quick);
  t.after(() => bus.close());
  const subscription = bus.subscribe('c', {
    snapshot: true,
    onEvent: (e) => { told.push([e.kind, e.id, subscription.position]); if (e.payload === 'end') over(); },
    onReset: (r) => told.push(r),
  });
  await done;
  assert.deepEqual(asked, [[true, undefined], [true, undefined], [true, undefined], [true, position(8)]]);
  assert.deepEqual(told, [['row', null, undefined], { position: null, reason: 'snapshot' }, ['row', null, undefined],
    ['live', position(8), position(8)], ['message', position(9), position(9)]]);
});

test('a snapshot that cannot go on is asked for again, and told as one reset', async (t) => {
  const asked = [], told = [];
  const url = await gateway(t, async (_connection, socket, next) => {
    let { id, after } = await next();
    asked.push(after);
    socket.say({ id, ok: { position: position(1) } });
    socket.say({ ...event(id, 0, { position: position(5), reason: 'snapshot' }, 'reset'), id: null });
    socket.say({ id, error: { code: 'start_over', status: 410, detail: 'start over' } });
    ({ id, after } = await next());
    asked.push(after);
    socket.say({ id, ok: {} });
    socket.say(event(id, 6, { rows: 0 }, 'live'));
  });
  const bus = connect(url, quick);
  t.after(() => bus.close());
  await new Promise((resolve, reject) => {
    bus.subscribe('c', { snapshot: true, after: position(1), onEvent: (e) => { told.push(e.kind); resolve(); }, onReset: (r) => told.push(r.reason), onError: reject });
  });
  assert.deepEqual([asked, told], [[position(1), undefined], ['snapshot', 'live']]);
});

test('a refused subscription is over, the others live on', async (t) => {
  const url = await gateway(t, async (_connection, socket, next) => {
    for (let i = 0; i < 2; ++i) {
      const { id, channel } = await next();
      if (channel === 'secret') socket.say({ id, error: { status: 403, detail: 'not for you' } });
      else socket.say({ id, ok: { position: position(1) } });
    }
  });
  const bus = connect(url, quick);
  t.after(() => bus.close());
  const error = await new Promise((resolve) => { bus.subscribe('secret', { onError: resolve }); bus.subscribe('open', {}); });
  assert.equal(error.message, 'not for you');
  assert.equal(error.problem.status, 403);
});

for (const code of [4400, 4401, 4403]) {
  test(`it does not come back after ${code}`, async (t) => {
    let connections = 0;
    const url = await gateway(t, async (_connection, socket) => { connections += 1; socket.close(code, 'no'); });
    const states = [];
    await new Promise((resolve) => { connect(url, { ...quick, onState: (s) => { states.push(s.name); if (s.name === 'closed') resolve(); } }); });
    assert.deepEqual(states, ['connecting', 'open', 'closed']);
    assert.equal(connections, 1);
  });
}

for (const code of [1001, 4001]) {
  test(`it comes back after ${code}`, async (t) => {
    const url = await gateway(t, async (connection, socket, next) => {
      if (connection === 1) return socket.close(code, 'come back');
      const { id } = await next();
      socket.say({ id, ok: { position: position(1) } });
    });
    const bus = connect(url, quick);
    t.after(() => bus.close());
    await new Promise((resolve) => { bus.subscribe('c', { onReady: resolve }); });
    assert.equal(bus.state.name, 'open');
  });
}

test('waits grow, within bounds, and never fall below half of the step', async (t) => {
  const delays = [];
  await new Promise((resolve) => {
    class Dead { constructor() { queueMicrotask(() => this.onclose({ code: 1006, reason: '' })); } send() {} close() {} }
    const bus = connect('http://127.0.0.1:1', { WebSocket: Dead, backOff: { first: 1, longest: 16 }, onState: (s) => {
      if (s.name !== 'waiting') return;
      delays.push(s.delay);
      if (delays.length === 8) { bus.close(); resolve(); }
    } });
    t.after(() => bus.close());
  });
  for (const [i, delay] of delays.entries()) {
    const step = Math.min(16, 2 ** (i + 1));
    assert.ok(delay >= Math.floor(step / 2) && delay <= step, `${delay} at step ${step}`);
  }
});

test('close rejects what has no answer and ends', async (t) => {
  const url = await gateway(t, async (_connection, _socket, next) => { await next(); });
  const bus = connect(url, quick);
  const post = bus.post('c', 'x');
  const refused = assert.rejects(post, /closed by this program/);
  bus.close();
  await refused;
  await assert.rejects(bus.post('c', 'y'), /closed/);
  assert.equal(bus.state.name, 'closed');
});

test('a request without an answer ends at its deadline', async (t) => {
  const url = await gateway(t, async (_connection, _socket, next) => { await next(); });
  const bus = connect(url, { ...quick, deadline: 50 });
  t.after(() => bus.close());
  await assert.rejects(bus.post('c', 'x'), /did not answer in time/);
});
