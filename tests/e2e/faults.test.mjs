// Faults and hostile clients: small in `./dev test`, at full size with POSTBUS_SOAK=1.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { Gateway } from './harness/gateway.mjs';
import { until } from './harness/program.mjs';
import { random, seed } from './harness/random.mjs';
import { frame, Raw } from './harness/raw.mjs';
import { setting, size, soak } from './harness/setting.mjs';

const here = setting();
const listeners = size(60, 1000);
const told = (socket) => socket.events.some((e) => e.kind === 'gap' || e.kind === 'reset');
const open = (gateway, n, path) => Promise.all(Array.from({ length: n }, (_, i) => gateway.socket(path(i))));

test(`PostgreSQL is killed while ${listeners} listeners wait`, async () => {
  const all = await open(here.gateway, listeners, (i) => `/v1/channels/${i % 2 ? 'shared' : `own${i}`}`);
  const wait = here.gateway.get('/wait?channel=waiter&timeout=5m', { timeout: 120_000 });
  await until('the waiter waits', async () => (await here.gateway.status()).channels.some((c) => c.name === 'waiter' && c.listeners === 1));
  for (let round = 1; round <= size(1, 3); ++round) {
    await here.cluster.kill();
    await until('the gateway has noticed', async () => (await here.gateway.get('/health/ready')).status === 503);
    assert.equal((await here.gateway.get('/health/live')).status, 200);
    assert.equal((await here.gateway.post('shared', 'x')).status, 503);
    await here.cluster.up();
    await here.gateway.ready(60_000);
    await until('every listener is told', () => all.every(told), 60_000);
    here.psql(`select postbus.post('shared', 'round ${round}'); select postbus.post('own' || i, 'round ${round}') from generate_series(0, ${listeners}) i`);
    await until('every listener hears', () => all.every((s) => s.events.some((e) => e.payload === `round ${round}`)), 60_000);
  }
  here.psql("select postbus.post('waiter', 'at last')");
  assert.equal((await wait).body, 'at last');
  await Promise.all(all.map((s) => s.close()));
});

test(`the gateway is killed with ${listeners} listeners; all come back and miss nothing`, async () => {
  const path = (i) => `/v1/channels/kill${i % 7}`;
  const all = await open(here.gateway, listeners, path);
  here.psql("select postbus.post('kill' || i, 'before') from generate_series(0, 6) i");
  await until('all have heard', () => all.every((s) => s.events.length > 0));
  const positions = all.map((s) => s.events.at(-1).id);
  await here.gateway.stop('SIGKILL');
  for (const s of all) assert.equal((await s.closed).code, 1006);
  here.psql("select postbus.post('kill' || i, 'while away') from generate_series(0, 6) i");
  here.gateway = await Gateway.start(here.url);
  const again = await open(here.gateway, listeners, (i) => `${path(i)}?after=${positions[i]}`);
  here.psql("select postbus.post('kill' || i, 'after') from generate_series(0, 6) i");
  await until('all hear again', () => again.every((s) => s.events.some((e) => e.payload === 'after')), 60_000);
  for (const s of again) assert.deepEqual(s.events.map((e) => e.payload), ['while away', 'after']);
  // One slot for all gateways that come after one another: another would hold back WAL for ever.
  await until('one slot', async () => (await here.sql("select count(*)::int as n from pg_replication_slots where slot_name like 'postbus%'"))[0].n === 1);
  await Promise.all(again.map((s) => s.close()));
});

test('a client that never reads is cut off with 4001 and slows nobody', async () => {
  const before = (await here.gateway.status()).slow_readers;
  const deaf = await (await Raw.open(here.gateway)).upgrade('/v1/channels/loud?format=payload');
  deaf.socket.pause();
  const keen = await here.gateway.socket('/v1/channels/loud?format=payload');
  const payload = 'l'.repeat(1 << 20);
  let posted = 0;
  await until('the deaf one is cut off', async () => {
    assert.equal((await here.gateway.post('loud', payload)).status, 202);
    posted += 1;
    assert.ok(posted < 200, 'cut off long before 200 MB');
    return (await here.gateway.status()).slow_readers > before;
  }, 120_000);
  await until('the keen one has everything', () => keen.frames.length === posted);
  deaf.socket.resume();
  await deaf.end();
  assert.equal(deaf.frames.at(-1).opcode, 8);
  assert.equal(deaf.frames.at(-1).payload.readUInt16BE(0), 4001);
  await keen.close();
});

test('a stream that is not read is cut off too', async () => {
  const before = (await here.gateway.status()).slow_readers;
  const sse = await Raw.open(here.gateway);
  sse.send('GET /v1/events?channel=loud2&channel=other HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n');
  await until('streaming', () => sse.text.includes('\r\n\r\n'));
  sse.socket.pause();
  await until('cut off', async () => {
    assert.equal((await here.gateway.post('loud2', 'l'.repeat(1 << 20))).status, 202);
    return (await here.gateway.status()).slow_readers > before;
  }, 120_000);
  sse.socket.resume();
  await sse.end();
});

/** Kilobytes of memory that the gateway's process holds. */
const resident = (gateway) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${gateway.pid}/status`, 'utf8'))[1]);

test(`${size(12, 200)} clients of every kind that never read: each is cut off, memory stays bounded, nobody else waits`, async (t) => {
  const channel = 'deaf crowd', coded = encodeURIComponent(channel);
  const ask = (target, more = '') => async () => (await Raw.open(here.gateway)).send(`GET ${target} HTTP/1.1\r\nHost: localhost\r\n${more}\r\n`);
  const kinds = [
    async () => (await Raw.open(here.gateway)).upgrade(`/v1/channels/${coded}`),
    async () => {
      const raw = await (await Raw.open(here.gateway)).upgrade('/v1/ws');
      return raw.send(frame(1, JSON.stringify({ id: 1, op: 'subscribe', channel })));
    },
    ask(`/v1/channels/${coded}`, 'Accept: text/event-stream\r\n'),
    ask(`/wait?channel=${coded}&loop=true`),
  ];
  const { slow_readers: before } = await here.gateway.status();
  const deaf = await Promise.all(Array.from({ length: size(12, 200) }, (_, i) => kinds[i % kinds.length]()));
  await until('all of them listen', async () => (await here.gateway.status()).channels.find((c) => c.name === channel)?.listeners === deaf.length);
  for (const raw of deaf) raw.socket.pause();
  const keen = await here.gateway.socket(`/v1/channels/${coded}?format=payload`);
  const payload = 'd'.repeat(1 << 20);
  let posted = 0, most = 0;
  await until('every deaf one is cut off', async () => {
    assert.equal((await here.gateway.post(channel, payload)).status, 202);
    posted += 1;
    most = Math.max(most, resident(here.gateway));
    assert.ok(posted < 200, 'cut off long before 200 MB');
    return (await here.gateway.status()).slow_readers - before >= deaf.length;
  }, 240_000);
  t.diagnostic(`after ${posted} MB; the gateway held at most ${Math.round(most / 1024)} MB`);
  await until('the keen one has everything', () => keen.frames.length === posted, 60_000);
  assert.ok(most < 1 << 20, 'one shared log, not a copy for each');
  for (const raw of deaf) raw.destroy();
  await keen.close();
});

test('answers that are not read hold nobody up and are given up', async () => {
  const listener = await here.gateway.socket('/v1/channels/unread?format=payload');
  assert.equal((await here.gateway.post('unread', 'n'.repeat(12 << 20))).status, 202);
  await until('it is in memory', () => listener.frames.length === 1);
  const { sockets } = await here.gateway.status();
  // Twelve megabytes of long poll each, asked for again and again and never taken.
  const deaf = await Promise.all(Array.from({ length: size(5, 50) }, async () => {
    const raw = await Raw.open(here.gateway);
    raw.socket.pause();
    return raw.send('GET /v1/channels/unread?after=beginning HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(20));
  }));
  await until('they are connected', async () => (await here.gateway.status()).sockets >= sockets + deaf.length);
  assert.equal((await here.gateway.post('unread', 'control')).status, 202);
  await until('the control', () => listener.frames.includes('control'));
  assert.ok(resident(here.gateway) < 2 << 20, `${resident(here.gateway)} kB`);
  // What is stuck is given up after half a minute (stall_deadline).
  await until('they are closed', async () => (await here.gateway.status()).sockets <= sockets, 60_000);
  for (const raw of deaf) raw.destroy();
  await listener.close();
});

test('an answer reaches a slow reader whole, also where it is the last of its connection', async () => {
  assert.equal((await here.gateway.post('slowly', 's'.repeat(12 << 20))).status, 202);
  const path = '/v1/channels/slowly?after=beginning';
  await until('it is in memory', async () => JSON.parse((await here.gateway.get(path)).body).events.length === 1);
  for (const more of ['', 'Connection: close\r\n']) {
    const raw = await Raw.open(here.gateway);
    raw.socket.pause();
    raw.send(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n${more}\r\n`);
    // Longer than the two seconds that a connection is kept after its last answer.
    await new Promise((resolve) => setTimeout(resolve, 3500));
    raw.socket.resume();
    const whole = await until('the answer', () => {
      const end = raw.received.indexOf('\r\n\r\n');
      const length = Number(/Content-Length: (\d+)/.exec(raw.received.subarray(0, Math.max(end, 0)).toString())?.[1] ?? Infinity);
      if (raw.over && raw.received.length < end + 4 + length) throw new Error(`cut off after ${raw.received.length} bytes`);
      return end > 0 && raw.received.length === end + 4 + length && raw.received.subarray(end + 4).toString();
    });
    assert.equal(JSON.parse(whole).events[0].payload.length, 12 << 20);
    if (more) await raw.end();
    raw.destroy();
  }
});

test('slow-loris: headers that never end are given up, others are served meanwhile', async () => {
  const n = size(50, 1000);
  const slow = await Promise.all(Array.from({ length: n }, () => Raw.open(here.gateway)));
  for (const raw of slow) raw.send('GET /health/live HTTP/1.1\r\nHost: localhost\r\n');
  const drip = setInterval(() => { for (const raw of slow) if (!raw.over) raw.send('X: y\r\n'); }, 250);
  try {
    const served = Date.now();
    for (let i = 0; i < 50; ++i) assert.equal((await here.gateway.get('/health/live')).status, 200);
    assert.ok(slow.every((raw) => !raw.over) || Date.now() - served > 5000, 'the others did not wait for them');
    await until('all of them are closed', () => slow.every((raw) => raw.over), 60_000);
    for (const raw of slow) assert.ok(raw.statuses.length === 0 || raw.statuses[0] === 408, raw.text);
  } finally {
    clearInterval(drip);
  }
});

test('sockets until the descriptors run out: listeners go on, and places that come free are given again', async () => {
  const gateway = await Gateway.start(here.url, [], { wrap: ['bash', '-c', `ulimit -n ${size(160, 1024)}; exec "$@"`, '--'] });
  const held = [];
  try {
    const listener = await gateway.socket('/v1/channels/crowded');
    for (let i = 0; i < size(300, 3000); ++i) held.push(Raw.open(gateway).catch(() => undefined));
    const raws = (await Promise.all(held)).filter(Boolean);
    for (const raw of raws) raw.send('GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await until('some are answered', () => raws.some((r) => r.statuses.length > 0));
    here.psql("select postbus.post('crowded', 'still heard')");
    await listener.event('the listener hears', (e) => e.payload === 'still heard');
    assert.equal(gateway.program.over, undefined);
    for (const raw of raws) raw.destroy();
    await until('a new connection is served', async () => (await gateway.get('/health/ready', { timeout: 2000 })).status === 200);
    await listener.close();
  } finally {
    for (const raw of await Promise.all(held)) raw?.destroy();
    await gateway.stop();
  }
});

test('random bytes on every door harm nobody', async (t) => {
  t.diagnostic(`POSTBUS_SEED=${seed}`);
  const next = random();
  const pick = (list) => list[Math.floor(next() * list.length)];
  const bytes = (n) => Buffer.from(Array.from({ length: n }, () => Math.floor(next() * 256)));
  const starts = ['GET /v1/channels/x HTTP/1.1\r\nHost: localhost\r\n\r\n', 'POST /v1/channels/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{"a":1}', 'GET /wait?channel=x&timeout=10ms HTTP/1.1\r\nHost: localhost\r\n\r\n',
    'POST /v1/channels/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n', ''];
  const listener = await here.gateway.socket('/v1/channels/control');
  const mutate = (text) => {
    const out = Buffer.concat([Buffer.from(text), bytes(Math.floor(next() * 20))]);
    for (let i = 0; i < 1 + next() * 4 && out.length > 0; ++i) out[Math.floor(next() * out.length)] = Math.floor(next() * 256);
    return out;
  };
  for (let round = 0; round < size(20, 400); ++round) {
    const raws = await Promise.all(Array.from({ length: 20 }, async () => {
      const raw = await Raw.open(here.gateway);
      if (next() < 0.5) {
        await raw.upgrade(pick(['/v1/ws', '/v1/channels/x']));
        for (let i = 0; i < 5; ++i) raw.send(next() < 0.5 ? bytes(1 + Math.floor(next() * 40)) : frame(pick([0, 1, 2, 8, 9, 10]), mutate(pick(['{"id":1,"op":"subscribe","channel":"x"}', '{"id":2,"op":"post","channel":"y","payload":"z"}'])), { fin: next() < 0.8 }));
      } else {
        raw.send(mutate(pick(starts)));
      }
      return raw;
    }));
    for (const raw of raws) raw.socket.end();
    here.psql(`select postbus.post('control', 'round ${round}')`);
    await listener.event(`round ${round}`, (e) => e.payload === `round ${round}`);
    for (const raw of raws) raw.destroy();
  }
  assert.equal(here.gateway.program.over, undefined);
  await listener.close();
});

test('connections that come and go leave nothing behind', async () => {
  const at = async () => {
    const { sockets, subscriptions, listening } = await here.gateway.status();
    return { sockets, subscriptions, listening };
  };
  const calm = await until('all of before is gone', async () => { const s = await at(); return s.subscriptions === 0 && s; });
  for (let round = 0; round < size(5, 50); ++round) {
    const sockets = await open(here.gateway, 40, (i) => `/v1/channels/come${i}`);
    for (const [i, s] of sockets.entries()) if (i % 2) s.ws.terminate(); else s.close();
    await Promise.all(sockets.map((s) => s.closed));
  }
  await until('as before', async () => {
    const now = await at();
    return now.subscriptions === calm.subscriptions && now.sockets <= calm.sockets && now.listening <= calm.listening;
  }, 60_000);
});

test('a body that never ends is given up', { skip: !soak && 'takes a minute' }, async () => {
  const raw = await Raw.open(here.gateway);
  raw.send('POST /v1/channels/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n');
  const drip = setInterval(() => raw.send('x'), 1000);
  await raw.end(120_000);
  clearInterval(drip);
  assert.ok(raw.statuses.length === 0 || raw.statuses[0] === 408);
});
