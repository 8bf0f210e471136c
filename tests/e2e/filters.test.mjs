// Filtered feeds as clients see them: curl, EventSource's protocol, WebSocket, the many-channel socket, the command line.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Program, until } from './harness/program.mjs';
import { binary } from './harness/gateway.mjs';
import { setting } from './harness/setting.mjs';

const here = setting({
  prepare: (h) => h.sql(`create table o(id int primary key, status text not null, total numeric, note text);
    create unique index o_identity on o(id, status); alter table o replica identity using index o_identity; select postbus.watch('o');
    create table plain(id int primary key, status text); select postbus.watch('plain')`),
});
const path = (where, more = '') => `/v1/tables/o?where=${encodeURIComponent(where)}${more}`;
const short = (e) => {
  const payload = typeof e.data === 'string' ? JSON.parse(e.data) : e.payload;
  return [e.event ?? e.kind, payload.data];
};

test('SSE: enter, leave and delete; Last-Event-ID resumes the filtered feed', async () => {
  const stream = await here.gateway.stream(path("status = 'open'"));
  assert.equal(stream.status, 200);
  here.psql("insert into o values (1, 'open', 5, 'a'), (2, 'done', 6, 'b')");
  here.psql("update o set status = 'done' where id = 1; update o set status = 'open' where id = 2");
  await until('the changes', () => stream.events.length >= 3);
  assert.deepEqual(stream.events.map(short), [
    ['insert', { id: 1, status: 'open', total: 5, note: 'a' }],
    ['leave', { id: 1, status: 'open' }],
    ['enter', { id: 2, status: 'open', total: 6, note: 'b' }],
  ]);
  const at = stream.events[0].id;
  stream.close();
  here.psql("delete from o where id = 1; delete from o where id = 2");
  const resumed = await here.gateway.stream(path("status = 'open'"), { 'Last-Event-ID': at });
  await until('the rest', () => resumed.events.length >= 3);
  assert.deepEqual(resumed.events.map(short), [
    ['leave', { id: 1, status: 'open' }],
    ['enter', { id: 2, status: 'open', total: 6, note: 'b' }],
    ['delete', { id: 2, status: 'open' }],
  ], 'the deleted row 1 did not match and its key is not told');
  resumed.close();
});

test('long poll: wait, columns, and what is refused', async () => {
  const poll = here.gateway.get(path('total >= 100 and id is not null', '&columns=note&wait=20s&maybe=true'));
  await until('it waits', async () => (await here.gateway.status()).subscriptions >= 1);
  here.psql("insert into o values (3, 'new', 99, 'small'), (4, 'new', 100.0, 'large')");
  const { events } = JSON.parse((await poll).body);
  assert.deepEqual(events.map((e) => [e.kind, e.channel, e.payload.data]), [['insert', 'table:public.o', { note: 'large' }]]);

  const refused = async (query) => {
    const { status, body } = await here.gateway.get(`/v1/tables/${query}`);
    return [status, JSON.parse(body).code, JSON.parse(body).detail];
  };
  const inexact = await refused(`plain?where=${encodeURIComponent("status = 'x'")}`);
  assert.deepEqual(inexact.slice(0, 2), [409, 'conflict']);
  assert.match(inexact[2], /create unique index postbus_identity_2_plain on public.plain \(id, status\); alter table public.plain replica identity using index postbus_identity_2_plain/);
  assert.deepEqual((await refused('o?where=id%20%3D')).slice(0, 2), [400, 'invalid_argument']);
  assert.match((await refused('o?where=id%20%3D%20%27x%27'))[2], /takes 'x' for no value of integer/);
  assert.match((await refused('o?columns=nowhere'))[2], /no column nowhere; it has: id, status, total, note/);
});

test('WebSocket, server-sent events: schema events; a renamed column ends the view with its reason', async () => {
  await here.sql("create table w(id int primary key, a int); alter table w replica identity full; select postbus.watch('w')");
  const socket = await here.gateway.socket('/v1/tables/w?where=a%20%3D%201');
  const plain = await here.gateway.socket('/v1/tables/w');
  const stream = await here.gateway.stream('/v1/tables/w?where=a%20%3D%201');
  here.psql('insert into w values (1, 1), (2, 2); alter table w add b int; insert into w values (3, 1, 3)');
  await until('both rows and the schema', () => socket.events.length >= 3);
  assert.deepEqual(socket.events.map((e) => e.kind), ['insert', 'insert', 'schema']);
  assert.deepEqual(socket.events[2].payload.columns, [{ name: 'id', type: 'integer' }, { name: 'a', type: 'integer' }, { name: 'b', type: 'integer' }]);
  here.psql('alter table w rename a to c; insert into w values (4, 1, 4)');
  const { code, reason } = await socket.closed;
  assert.equal(code, 4400);
  assert.match(reason, /no column a/);
  await until('server-sent events end as well', () => stream.events.at(-1)?.event === 'problem');
  const problem = JSON.parse(stream.events.at(-1).data);
  assert.deepEqual([problem.code, problem.retry], ['conflict', false]);
  assert.match(problem.detail, /no column a/);
  await until('the feed goes on', () => plain.events.some((e) => e.payload.data?.id === 4));
  assert.equal(plain.events.filter((e) => e.kind === 'schema').length, 2);
  await plain.close();
});

test('/v1/ws: filtered subscriptions beside others; one that ends is told', async () => {
  await here.sql("create table m(id int primary key, a int); alter table m replica identity full; select postbus.watch('m')");
  const socket = await here.gateway.socket('/v1/ws', { protocols: ['postbus.v1'] });
  socket.send({ id: 1, op: 'subscribe', channel: 'table:public.m', where: 'a in (1, 2)', columns: ['id'] });
  socket.send({ id: 2, op: 'subscribe', channel: 'table:public.m', where: 'a = 3' });
  socket.send({ id: 3, op: 'subscribe', channel: 'other', where: 'a = 3' });
  await until('confirmed', () => socket.events.filter((f) => f.ok).length === 2);
  assert.match(socket.events.find((f) => f.id === 3).error.detail, /channels of tables/);
  here.psql('insert into m values (1, 1), (3, 3); update m set a = 3 where id = 1');
  await until('four events', () => socket.events.filter((f) => f.sub).length === 4);
  assert.deepEqual(socket.events.filter((f) => f.sub).map((f) => [f.sub, f.kind, f.payload.data]), [
    [1, 'insert', { id: 1 }], [2, 'insert', { id: 3, a: 3 }], [1, 'leave', { id: 1 }], [2, 'enter', { id: 1, a: 3 }]]);
  here.psql('alter table m alter a type bigint; insert into m values (5, 1)');
  await until('both end', () => socket.events.filter((f) => f.error?.code === 'table_changed').length === 2);
  const last = socket.events.findLast((f) => f.sub === 1).id;
  const at = socket.frames.length;
  socket.send({ id: 4, op: 'subscribe', channel: 'table:public.m', where: 'a in (1, 2)', after: last });
  await until('it goes on', () => socket.events.slice(at).some((f) => f.sub === 4 && f.kind === 'insert' && f.payload.data.id === 5));
  await socket.close();
});

test('postbus listen --where', async () => {
  const listen = new Program(binary, ['--url', here.gateway.url, 'listen', 'table:public.o', '--where', "note like 'cli%'", '--columns', 'id,note', '--maybe', '--json', '--count', '1']);
  await until('it listens', async () => (await here.gateway.status()).channels.some((c) => c.name.startsWith('table:public.o') && c.listeners === 1));
  here.psql("insert into o values (10, 'x', 1, 'no'), (11, 'x', 1, 'cli it is')");
  assert.equal((await listen.ended).code, 0);
  assert.deepEqual(JSON.parse(listen.lines.at(-1)).payload.data, { id: 11, note: 'cli it is' });
});
