// A gateway whose role owns nothing: it may replicate and is a member of postbus_admin, as `postbus doctor` asks. It serves, posts,
// feeds, streams and mends; what it lacks for a snapshot it says.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Cluster } from './harness/cluster.mjs';
import { binary, Gateway } from './harness/gateway.mjs';
import { run, until } from './harness/program.mjs';

let cluster, database, owner, gateway;
const sql = (text) => run('psql', ['-X', '-At', '-v', 'ON_ERROR_STOP=1', '-c', text, cluster.url(database, 'app')]).trimEnd();

before(async () => {
  cluster = await Cluster.start();
  database = await cluster.database();
  cluster.psql('postgres', `create role app login createrole; alter database ${database} owner to app`);
  owner = cluster.url(database, 'app');
  run(binary, ['setup', '--db', owner]);
  cluster.psql(database, 'alter schema public owner to app; create role gateway login replication in role postbus_admin');
  sql("create table t(id int primary key); select postbus.watch('t'); select postbus.create_stream('s')");
  gateway = await Gateway.start(cluster.url(database, 'gateway'), ['--slot', 'permanent']);
});
after(async () => {
  await gateway?.stop();
  await cluster?.stop();
});

const rows = (socket) => socket.events.filter((e) => e.kind === 'insert').map((e) => e.payload.data.id);

test('it owns nothing, and posts, feeds and streams work', async () => {
  assert.equal(cluster.psql(database, "select count(*) from pg_class where relowner = 'gateway'::regrole"), '0');
  const [feed, stream] = await Promise.all([gateway.socket('/v1/tables/t'), gateway.socket('/v1/channels/s?consumer=me')]);
  sql('insert into t values (1)');
  assert.equal((await gateway.post('s', 'one')).status, 202);
  const one = await stream.event('the message', (e) => e.payload === 'one');
  await until('the row', () => rows(feed).length === 1);
  await until('it is written down', () => Number(cluster.psql(database, "select count from postbus.streams where channel = 's'")) === 1);
  assert.equal((await gateway.request('POST', `/v1/channels/s/ack?consumer=me&position=${one.id}`)).status, 204);
  const filtered = await gateway.socket('/v1/tables/t?where=id%20%3E%202');
  sql('insert into t values (2), (3)');
  await until('the filtered row', () => filtered.events.length > 0);
  assert.deepEqual(rows(filtered), [3]);
  for (const s of [feed, stream, filtered]) s.close();
});

test('a snapshot needs SELECT on the table: without it the answer names the grant', async () => {
  const refused = await gateway.get('/v1/tables/t?snapshot=true', { headers: { Accept: 'text/event-stream' } });
  assert.equal(refused.status, 409);
  assert.match(JSON.parse(refused.body).detail, /grant select on public\.t to gateway/);
  sql('grant select on t to gateway');
  const socket = await gateway.socket('/v1/tables/t?snapshot=true');
  await socket.event('live', (e) => e.kind === 'live');
  assert.equal(socket.events.filter((e) => e.kind === 'row').length, 3);
  socket.close();
});

test('it mends a publication that was altered, and one that was dropped', async () => {
  const socket = await gateway.socket('/v1/tables/t');
  for (const [harm, notice] of [['alter publication postbus drop table t', 'gap'], ['drop publication postbus', 'reset']]) {
    sql(harm);
    await socket.event(notice, (e) => e.kind === notice, 40_000);
    await until('it is mended', () => sql('select postbus.feeds_fault() is null') === 't');
    await gateway.ready(40_000);
    assert.equal(sql("select pg_get_userbyid(pubowner) from pg_publication where pubname = 'postbus'"), 'app', "the schema's owner made it");
  }
  sql('insert into t values (9)');
  await until('the row', () => rows(socket).includes(9));
  socket.close();
});

test('without the membership or the right to replicate, it says what is missing', async () => {
  cluster.psql(database, 'create role stranger login replication');
  assert.throws(() => run(binary, ['serve', '--db', cluster.url(database, 'stranger'), '--port', '0']), /postbus_admin|postbus setup/);
  cluster.psql(database, 'create role reader_less login in role postbus_admin');
  const lesser = await Gateway.start(cluster.url(database, 'reader_less'));
  try {
    await lesser.program.line(/may not replicate.*alter role reader_less replication|may not replicate/);
  } finally {
    await lesser.stop();
  }
});
