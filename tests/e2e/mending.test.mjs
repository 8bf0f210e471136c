// What a gateway says of itself while the publication cannot be mended, and that it can be stopped then; a watched table that is
// dropped; a second gateway that cannot copy the first one's slot.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { Cluster } from './harness/cluster.mjs';
import { Gateway } from './harness/gateway.mjs';
import { until } from './harness/program.mjs';

let cluster;
before(async () => { cluster = await Cluster.start(); });
after(() => cluster?.stop());

async function setUp(t, on = cluster) {
  const name = await on.database();
  const here = { name, url: on.url(name), sql: (text) => on.psql(name, text) };
  here.start = async (args = ['--slot', 'permanent'], options = {}) => {
    const gateway = await Gateway.start(options.url ?? here.url, args, options);
    t.after(() => gateway.stop('SIGKILL'));
    return gateway;
  };
  return here;
}

/** A session that holds the lock under which feeds are mended; `end` gives it back. */
async function holdTheLock(here) {
  const session = new pg.Client({ connectionString: here.url });
  session.on('error', () => {});
  await session.connect();
  await session.query('select pg_advisory_lock(1886352244, 1717921124)');
  return session;
}
const waits = (here) => here.sql("select count(*) from pg_locks where locktype = 'advisory' and not granted and classid = 1886352244 and objid = 1717921124 and database = (select oid from pg_database where datname = current_database())") !== '0';

test('while the publication is missing and cannot be made, /health/ready is 503 and says so; after the mend it is 200', async (t) => {
  const here = await setUp(t);
  const gateway = await here.start();
  here.sql("create table t(id int primary key); select postbus.watch('t')");
  const lock = await holdTheLock(here);
  t.after(() => lock.end());
  here.sql('drop publication postbus; insert into t values (1)');
  const said = await until('not ready', async () => {
    const answer = await gateway.get('/health/ready');
    return answer.status === 503 && /publication/.test(answer.body) && answer.body;
  });
  assert.match(said, /^the publication postbus is missing/);
  assert.equal((await gateway.get('/health/live')).status, 200);
  assert.equal((await gateway.status()).problem, said.trim());
  await lock.end();
  await gateway.ready(40_000);
  assert.equal((await gateway.status()).problem, '');
});

test('while it is altered and cannot be mended, posts go on: ready, with the fault in the status', async (t) => {
  const here = await setUp(t);
  const gateway = await here.start();
  here.sql("create table t(id int primary key); select postbus.watch('t')");
  const socket = await gateway.socket('/v1/channels/a');
  const lock = await holdTheLock(here);
  t.after(() => lock.end());
  here.sql('alter publication postbus drop table t');
  const problem = await until('the status says so', async () => (await gateway.status()).feeds_problem, 40_000);
  assert.match(problem, /could not be mended in time: somebody holds a lock/);
  const answer = await gateway.get('/health/ready');
  assert.equal(answer.status, 200, answer.body);
  here.sql("select postbus.post('a', 'x')");
  await socket.event('the message', (e) => e.payload === 'x');
  await lock.end();
  await until('it is mended', async () => (await gateway.status()).feeds_problem === '', 40_000);
  socket.close();
});

for (const [when, harm] of [['missing', 'drop publication postbus; insert into t values (1)'], ['altered', 'alter publication postbus drop table t']]) {
  test(`SIGTERM ends a gateway that waits to mend a publication which is ${when}`, async (t) => {
    const here = await setUp(t);
    const gateway = await here.start();
    here.sql("create table t(id int primary key); select postbus.watch('t')");
    const lock = await holdTheLock(here);
    t.after(() => lock.end());
    here.sql(harm);
    await until('it waits for the lock', () => waits(here), 40_000);
    const { code } = await gateway.program.stop('SIGTERM', 10_000);
    assert.equal(code, 0);
    assert.ok(!gateway.program.lines.some((l) => /did not end in time/.test(l)), gateway.program.lines.slice(-5).join('\n'));
  });
}

test('a table that is dropped while watched: 404 to who comes, and those who are there go on with the one made in its place', async (t) => {
  const here = await setUp(t);
  const gateway = await here.start();
  here.sql("create table t(id int primary key); select postbus.watch('t')");
  const channel = await until('the feed is known', () => gateway.socket('/v1/tables/t').catch(() => {}));
  const multi = await gateway.socket('/v1/ws', { protocols: ['postbus.v1'] });
  multi.send({ id: 1, op: 'subscribe', channel: 'table:public.t' });
  await multi.event('confirmed', (e) => e.ok);
  here.sql('insert into t values (1)');
  await Promise.all([channel, multi].map((s) => s.event('the row', (e) => e.kind === 'insert')));
  const place = channel.events[0].id;
  here.sql('drop table t');
  const gone = await until('404', async () => {
    const answer = await gateway.get('/v1/tables/t?after=now&wait=1ms');
    return answer.status === 404 && JSON.parse(answer.body);
  }, 40_000);
  assert.equal(gone.code, 'not_watched');
  assert.match(gone.detail, /postbus watch t/);
  for (const path of [`/v1/tables/t?after=${place}`, '/v1/tables/public.t?snapshot=true', '/v1/tables/t?where=id%3D1'])
    await assert.rejects(gateway.socket(path), { status: 404 }, path);
  assert.deepEqual(channel.events.map((e) => e.kind), ['insert'], 'nothing was missed: nothing is told');
  here.sql('create table t(id int primary key, n int)');
  for (const s of [channel, multi]) await s.event('the gap', (e) => e.kind === 'gap' && e.payload.reason === 'publication', 40_000);
  here.sql('insert into t values (2, 2)');
  for (const s of [channel, multi]) {
    await s.event('the schema', (e) => e.kind === 'schema');
    assert.deepEqual(s.events.filter((e) => e.kind).map((e) => e.kind).slice(-3), ['gap', 'insert', 'schema']);
  }
  const late = await gateway.socket(`/v1/tables/t?after=${place}`);
  await late.event('the schema', (e) => e.kind === 'schema');
  assert.deepEqual(late.events.map((e) => e.kind), channel.events.slice(1).map((e) => e.kind), 'who resumes is told the same');
  for (const s of [channel, multi, late]) s.close();
});

test('a second gateway that may not copy the slot takes a temporary one, says so, and takes the slot over later', async (t) => {
  const here = await setUp(t);
  here.sql('select 1');
  const first = await here.start();
  here.sql('create role second login replication in role postbus_admin; revoke execute on function pg_copy_logical_replication_slot(name, name, boolean) from public');
  const second = await here.start(['--slot', 'permanent'], { url: cluster.url(here.name, 'second') });
  await second.program.line(/cannot be copied, and a temporary one takes its place/);
  assert.equal((await second.status()).slot.permanent, false);
  const sockets = await Promise.all([first, second].map((g) => g.socket('/v1/channels/a')));
  const post = (n) => here.sql(`select postbus.post('a', '${n}')`);
  post(1);
  for (const s of sockets) await s.event('1', (e) => e.payload === '1');
  await first.stop('SIGKILL');
  post(2);
  await until('it has taken the slot over', async () => (await second.status()).slot.permanent, 60_000);
  post(3);
  await sockets[1].event('3', (e) => e.payload === '3');
  assert.deepEqual(sockets[1].events.map((e) => e.payload), ['1', '2', '3'], 'its listeners notice nothing');
  assert.deepEqual(sockets[0].events, sockets[1].events.slice(0, 1), 'at the same position');
  sockets[1].close();
});

test('a second gateway for which there is no slot is not ready, says why, and takes over when the first one is gone', async (t) => {
  const scarce = await Cluster.start({ max_replication_slots: 1 });
  t.after(() => scarce.stop());
  const here = await setUp(t, scarce);
  const first = await here.start();
  const second = await here.start(['--slot', 'permanent'], { ready: false });
  const said = await until('it says why', async () => {
    const answer = await second.get('/health/ready');
    return answer.status === 503 && /max_replication_slots/.test(answer.body) && answer.body;
  }, 40_000);
  assert.match(said, /all replication slots of the server are in use/);
  const socket = await first.socket('/v1/channels/a');
  here.sql("select postbus.post('a', '1')");
  const { id } = await socket.event('1', (e) => e.payload === '1');
  await first.stop('SIGKILL');
  here.sql("select postbus.post('a', '2')");
  await second.ready(60_000);
  const moved = await second.socket(`/v1/channels/a?after=${id}`);
  await moved.event('2', (e) => e.payload === '2');
  assert.equal(moved.events.length, 1);
  assert.equal((await second.status()).slot.permanent, true);
  moved.close();
});
