// The NOTIFY tier: what is left where the WAL cannot be read, that every door says why and what to do, and that the fix is
// the fix.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { Cluster } from './harness/cluster.mjs';
import { binary, Gateway } from './harness/gateway.mjs';
import { Program, until } from './harness/program.mjs';

/** A command of the same binary; {code, text}. */
async function postbus(...args) {
  const program = new Program(binary, args);
  program.child.stdin.end();
  const { code } = await program.ended;
  return { code, text: program.lines.join('\n') };
}

/** What every way of asking says of the tier: serve's own lines, /v1/status, `status` and `doctor`. */
async function told(here) {
  const status = await postbus('status', '--json', '--url', here.gateway.url);
  const doctor = await postbus('doctor', '--json', '--db', here.url);
  return {
    serve: here.gateway.program.lines.join('\n'),
    http: (await here.gateway.status()).tier,
    status: JSON.parse(status.text).tier,
    statusText: (await postbus('status', '--url', here.gateway.url)).text,
    doctor: JSON.parse(doctor.text).tier,
    doctorText: (await postbus('doctor', '--db', here.url)).text,
  };
}

async function agrees(here, reason, fix) {
  const all = await told(here);
  for (const tier of [all.http, all.status, all.doctor]) {
    assert.equal(tier.name, 'notify');
    assert.match(tier.reason, reason);
    assert.match(tier.fix, fix);
  }
  assert.deepEqual(all.status, all.doctor);
  assert.deepEqual(all.status, all.http);
  await here.gateway.program.line(/^Messages travel by NOTIFY, without table feeds, because /);
  for (const said of [all.serve, all.statusText, all.doctorText]) {
    assert.ok(said.includes(all.status.fix), said);
    assert.match(said, reason);
  }
  assert.match(all.doctorText, /messages travel by NOTIFY/);
}

const anywhere = (payload) => (e) => (e.payload ?? e.data) === payload;

/** Every way of listening hears every way of posting. */
async function everyWay(here) {
  const [socket, stream] = [await here.gateway.socket('/v1/channels/news'), await here.gateway.stream('/v1/channels/news')];
  const both = await here.gateway.socket('/v1/ws');
  both.send({ id: 1, op: 'subscribe', channel: 'news' });
  await both.event('confirmed', (f) => f.ok);
  const waiting = here.gateway.get('/wait?channel=news');
  const poll = here.gateway.get('/v1/channels/news?wait=20s');
  await until('all of them listen', async () => (await here.gateway.status()).channels.find((c) => c.name === 'news')?.listeners === 5);
  here.psql("select postbus.post('news', 'from psql')");
  assert.equal((await waiting).body, 'from psql');
  const polled = JSON.parse((await poll).body);
  assert.deepEqual(polled.events.map((e) => e.payload), ['from psql']);
  const payloads = ['from psql', 'from HTTP', 'from GET', 'from /v1/ws', 'from the command line'];
  assert.equal((await here.gateway.post('news', 'from HTTP')).status, 202);
  assert.equal((await here.gateway.get('/post?channel=news&payload=from+GET')).status, 200);
  both.send({ id: 2, op: 'post', channel: 'news', payload: 'from /v1/ws' });
  assert.equal((await postbus('post', 'news', 'from the command line', '--db', here.url)).code, 0);
  for (const payload of payloads) {
    await socket.event(payload, (e) => anywhere(payload)(e) && e.channel === 'news' && e.kind === 'message');
    await both.event(payload, anywhere(payload));
    await stream.event(payload, anywhere(payload));
  }
  // JSON stays JSON, a rolled-back post is not heard, equal payloads of one transaction are as many events, in order.
  await here.sql(`begin; select postbus.post('news', 'undone'); rollback;
    begin; select postbus.post('news', '{"a":1.10}'::jsonb), postbus.post('news', 'twice'), postbus.post('news', 'twice'); commit`);
  await until('four more', () => socket.events.length === payloads.length + 3);
  assert.deepEqual(socket.events.slice(payloads.length).map((e) => e.payload), [{ a: 1.1 }, 'twice', 'twice']);
  assert.ok(socket.frames[payloads.length].includes('1.10'));
  // Resuming over both kinds of poll: positions order events here too.
  const rest = JSON.parse((await here.gateway.get(`/v1/channels/news?after=${socket.events[1].id}`)).body).events;
  assert.deepEqual(rest.map((e) => e.id), socket.events.slice(2).map((e) => e.id));
  const next = await here.gateway.get(`/wait?channel=news&after=${socket.events[0].id}`);
  assert.equal(next.body, socket.events[1].payload);
  stream.close();
  await Promise.all([socket.close(), both.close()]);
}

/** Payloads end at 7,999 bytes with header and channel; one byte more is refused in words that say what to do. */
async function limit(here) {
  const channel = 'Zürich', most = 7999 - 11 - Buffer.byteLength(channel);
  const listener = await here.gateway.socket(`/v1/channels/${encodeURIComponent(channel)}?format=payload`);
  const fits = 'x'.repeat(most - 4) + '🚌';
  assert.equal((await here.gateway.post(channel, fits)).status, 202);
  await until('the largest arrives', () => listener.frames.length === 1);
  assert.ok(listener.frames[0] === fits);
  const over = await here.gateway.post(channel, fits + 'y');
  assert.equal(over.status, 413);
  const problem = JSON.parse(over.body);
  assert.equal(problem.code, 'too_large');
  assert.match(problem.detail, new RegExp(`at most ${most} fit.*NOTIFY.*wal_level = logical.*postbus doctor`));
  assert.equal((await here.gateway.get(`/post?channel=${encodeURIComponent(channel)}&payload=${'x'.repeat(most + 1)}`)).status, 413);
  const both = await here.gateway.socket('/v1/ws');
  both.send({ id: 1, op: 'post', channel, payload: 'x'.repeat(most + 1) });
  assert.equal((await both.event('refused', (f) => f.id === 1)).error.code, 'too_large');
  assert.throws(() => here.psql(`select postbus.post('${channel}', repeat('x', ${most + 1}))`), new RegExp(`at most ${most} fit`));
  assert.match((await postbus('post', channel, 'x'.repeat(most + 1), '--db', here.url)).text, /postbus doctor/);
  here.psql(`select postbus.post('${channel}', 'control')`);
  await until('the control', () => listener.frames.length === 2);
  assert.equal(listener.frames[1], 'control');
  await Promise.all([both.close(), listener.close()]);
}

async function tablesRefused(here, fix) {
  await here.sql('create table if not exists parcels (id int primary key)');
  const answer = await here.gateway.get('/v1/tables/parcels');
  assert.equal(answer.status, 501);
  const problem = JSON.parse(answer.body);
  assert.equal(problem.code, 'unsupported');
  assert.match(problem.detail, fix);
  const resuming = '?after=00000001-0000000000000001-00000000';
  for (const path of ['parcels', 'public.parcels', `public.parcels${resuming}`])
    assert.deepEqual(JSON.parse((await here.gateway.get(`/v1/channels/table:${path}`)).body), problem, path);
  const watch = await postbus('watch', 'parcels', '--db', here.url);
  assert.equal(watch.code, 1);
  assert.match(watch.text, /wal_level = logical|replication/);
  assert.throws(() => here.psql("select postbus.watch('parcels')"), /cannot be watched/);
}

/** After the fix: a gateway that begins now reads the WAL, takes large payloads and feeds tables. */
async function fixed(here) {
  await here.gateway.stop();
  here.gateway = await Gateway.start(here.gatewayUrl);
  assert.deepEqual((await here.gateway.status()).tier, { name: 'wal', reason: '', fix: '' });
  assert.ok(!here.gateway.program.lines.some((line) => /NOTIFY/.test(line)), here.gateway.program.lines.join('\n'));
  const doctor = JSON.parse((await postbus('doctor', '--json', '--db', here.gatewayUrl)).text);
  assert.deepEqual(doctor.tier, { name: 'wal', reason: '', fix: '' });
  const listener = await here.gateway.socket('/v1/channels/large?format=payload');
  const large = 'z'.repeat(100_000);
  assert.equal((await here.gateway.post('large', large)).status, 202);
  await until('a large one', () => listener.frames.includes(large));
  assert.equal((await postbus('watch', 'parcels', '--db', here.url)).code, 0);
  const feed = await here.gateway.socket('/v1/tables/parcels');
  here.psql('insert into parcels values (1)');
  await feed.event('the row', (e) => e.kind === 'insert' && e.payload.data.id === 1);
  await Promise.all([listener.close(), feed.close()]);
}

function setting(settings, prepare) {
  const here = { sql: (text) => here.cluster.sql(here.database, text), psql: (text) => here.cluster.psql(here.database, text) };
  before(async () => {
    here.cluster = await Cluster.start(settings);
    here.database = await here.cluster.database();
    here.url = here.gatewayUrl = here.cluster.url(here.database);
    await prepare?.(here);
    here.gateway = await Gateway.start(here.gatewayUrl);
  });
  after(async () => {
    await here.gateway?.stop();
    await here.cluster?.stop();
  });
  return here;
}

describe('wal_level = replica', () => {
  const here = setting({ wal_level: 'replica' });
  const fix = /alter system set wal_level = 'logical'/;
  test('serve, status and doctor give the same reason and fix', () => agrees(here, /wal_level is replica/, fix));
  test('every way of posting and listening works', () => everyWay(here));
  test('a payload beyond the limit is refused, and why', () => limit(here));
  test('tables are refused with the fix', () => tablesRefused(here, fix));
  test('plain NOTIFY is heard as well, and nobody can forge posts of others by a malformed one', async () => {
    const listener = await here.gateway.socket('/v1/channels/plain');
    await here.sql("select pg_notify('postbus:post', 'nonsense'), pg_notify('postbus:post', ''), pg_notify('plain', 'heard')");
    await listener.event('heard', anywhere('heard'));
    assert.equal(listener.events.length, 1);
    await listener.close();
  });
  test('PostgreSQL comes back able: the gateway says that a restart takes it, and it does', async () => {
    const listener = await here.gateway.socket('/v1/channels/news');
    const { fix: sql } = (await here.gateway.status()).tier;
    await here.sql(sql);
    await here.cluster.kill();
    await until('the gateway has noticed', async () => (await here.gateway.get('/health/ready')).status === 503);
    await here.cluster.up();
    await here.gateway.ready();
    await listener.event('a gap', (e) => e.kind === 'gap' && e.payload.reason === 'notify');
    here.psql("select postbus.post('news', 'still by NOTIFY')");
    await listener.event('still heard', anywhere('still by NOTIFY'));
    const tier = await until('it says so', async () => {
      const now = (await here.gateway.status()).tier;
      return now.fix === 'restart the gateway' && now;
    });
    assert.equal(tier.name, 'notify');
    await listener.close();
    await fixed(here);
  });
});

describe('a role without REPLICATION', () => {
  const asRole = async (here) => {
    // The schema belongs to the DBA who installed it; the gateway's role may only run gateways.
    assert.equal((await postbus('setup', '--db', here.url)).code, 0);
    await here.sql('create role gateway_role login in role postbus_admin');
    here.gatewayUrl = here.url = here.cluster.url(here.database, 'gateway_role');
  };
  const here = setting({}, asRole);
  const fix = /alter role "gateway_role" replication;/;
  test('serve, status and doctor give the same reason and fix', () => agrees(here, /the role gateway_role may not replicate/, fix));
  test('every way of posting and listening works', () => everyWay(here));
  test('a payload beyond the limit is refused, and why', () => limit(here));
  test('tables are refused with the fix', async () => {
    await here.sql('create table parcels (id int primary key); alter table parcels owner to gateway_role');
    await tablesRefused(here, fix);
  });
  test('the fix is the fix', async () => {
    const { fix: sql } = (await here.gateway.status()).tier;
    await here.sql(sql);
    await fixed(here);
  });
});

describe('no WAL sender at all', () => {
  const here = setting({ max_wal_senders: 0 });
  test('the setting and its fix are told', () => agrees(here, /max_wal_senders is 0/, /alter system set max_wal_senders = 10/));
});

describe('the only WAL sender is in use', () => {
  const here = { cluster: undefined };
  let holder;
  const hold = () => until('the sender is free, and then ours', async () => {
    holder = new pg.Client({ connectionString: here.url, replication: 'database' });
    holder.on('error', () => {});
    await holder.connect();
    return true;
  });
  before(async () => {
    here.cluster = await Cluster.start({ max_wal_senders: 1 });
    here.database = await here.cluster.database();
    here.url = here.cluster.url(here.database);
    here.psql = (text) => here.cluster.psql(here.database, text);
  });
  after(async () => {
    await here.gateway?.stop();
    await holder?.end().catch(() => {});
    await here.cluster?.stop();
  });

  test('at the start, and not for long: the gateway waits for the WAL', async () => {
    await hold();
    const starting = Gateway.start(here.url);
    await until('it has asked', () => here.psql("select count(*) from pg_stat_activity where application_name = 'postbus serve'") === '1');
    await holder.end();
    here.gateway = await starting;
    assert.equal((await here.gateway.status()).tier.name, 'wal');
    // What the gateway uses itself is not missing: doctor and status agree that all is well.
    const doctor = await postbus('doctor', '--json', '--db', here.url);
    assert.equal(doctor.code, 0, doctor.text);
    assert.deepEqual(JSON.parse(doctor.text).tier, (await here.gateway.status()).tier);
    await here.gateway.stop();
  });

  test('for long: the gateway is not ready, says why and what to do, and reads the WAL as soon as it can', async () => {
    await hold();
    here.gateway = await Gateway.start(here.url, [], { ready: false });
    const listener = await here.gateway.socket('/v1/ws');
    assert.equal((await here.gateway.get('/health/live')).status, 200);
    assert.equal((await here.gateway.get('/health/ready')).status, 503);
    await until('its first attempt has failed', async () => /raise max_wal_senders/.test((await here.gateway.status()).problem));
    const { tier } = await here.gateway.status();
    assert.equal(tier.name, 'wal');
    assert.equal(tier.reason, 'all 1 WAL senders are in use');
    assert.match(tier.fix, /alter system set max_wal_senders = 11/);
    assert.deepEqual(JSON.parse((await postbus('doctor', '--json', '--db', here.url)).text).tier, tier);
    await holder.end();
    await here.gateway.ready();
    assert.deepEqual((await here.gateway.status()).tier, { name: 'wal', reason: '', fix: '' });
    listener.send({ id: 1, op: 'subscribe', channel: 'news' });
    await listener.event('confirmed', (f) => f.ok);
    here.psql("select postbus.post('news', 'by the WAL')");
    await listener.event('heard', (e) => e.payload === 'by the WAL');
    await listener.close();
  });
});
