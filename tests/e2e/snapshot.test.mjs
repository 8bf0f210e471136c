// A feed that begins with the table's rows, as clients see it: WebSocket, SSE, /v1/ws, the command line.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { binary } from './harness/gateway.mjs';
import { Program, until } from './harness/program.mjs';
import { setting, size } from './harness/setting.mjs';

const here = setting({
  prepare: async (h) => {
    await h.sql(`create table stock(id int primary key, n int, name text);
      insert into stock select i, i % 10, 'item ' || i from generate_series(1, 2000) i;
      alter table stock replica identity full`);
    await h.sql(`select postbus.watch('stock')`);
  },
});
const events = (socket) => socket.frames.map((f) => JSON.parse(f));
const live = (socket) => until('live', () => socket.frames.some((f) => f.includes('"kind":"live"')));

test('rows without an id, live, then changes; live resumes exactly', async () => {
  const socket = await here.gateway.socket('/v1/tables/stock?snapshot=true');
  await live(socket);
  here.psql("insert into stock values (5000, 1, 'later')");
  await until('the change', () => events(socket).at(-1).kind === 'insert');
  const all = events(socket);
  assert.deepEqual(all.map((e) => e.kind), [...Array(2000).fill('row'), 'live', 'insert']);
  assert.ok(all.every((e) => (e.id === null) === (e.kind === 'row')));
  assert.deepEqual(all[0].payload, { schema: 'public', table: 'stock', action: 'ROW', data: { id: 1, n: 1, name: 'item 1' } });
  assert.deepEqual(all[2000].payload, { rows: 2000 });
  socket.ws.close();
  const again = await here.gateway.socket(`/v1/tables/stock?snapshot=true&after=${all[2000].id}`);
  await until('the change again', () => again.frames.length === 1);
  assert.deepEqual(events(again)[0], all[2001]);
  again.ws.close();
  here.psql('delete from stock where id = 5000');
});

test('a position that cannot be resumed starts over', async () => {
  const socket = await here.gateway.socket('/v1/tables/stock?snapshot=true&after=00000001-0000000000000001-00000000');
  const { code } = await socket.closed;
  assert.equal(code, 4001);
  const [reset] = events(socket);
  assert.deepEqual([reset.kind, reset.id, reset.payload.reason], ['reset', null, 'snapshot']);

  const many = await here.gateway.socket('/v1/ws', { protocols: ['postbus.v1'] });
  many.ws.send(JSON.stringify({ id: 1, op: 'subscribe', channel: 'table:public.stock', snapshot: true, after: '00000001-0000000000000001-00000000' }));
  await until('the refusal', () => many.frames.length === 3);
  const [ok, again, refused] = events(many);
  assert.ok(ok.ok.position);
  assert.deepEqual([again.kind, again.id, again.sub], ['reset', null, 1]);
  assert.equal(refused.error.code, 'start_over');
  many.ws.send(JSON.stringify({ id: 1, op: 'subscribe', channel: 'table:public.stock', snapshot: true }));
  await live(many); // the same id may be used again
  many.ws.close();
});

test('an event stream has no id before live', async () => {
  const stream = await here.gateway.stream('/v1/tables/stock?snapshot=true&columns=id', { Accept: 'text/event-stream' });
  await until('live', () => stream.events.some((e) => e.event === 'live'));
  assert.equal(stream.events.filter((e) => e.event === 'row').length, 2000);
  assert.ok(stream.events.every((e) => (e.id === undefined) === (e.event === 'row')));
  assert.deepEqual(JSON.parse(stream.events[0].data).data, { id: 1 });
  stream.close?.();
});

test('a filtered feed begins with the rows that match', async () => {
  const socket = await here.gateway.socket(`/v1/tables/stock?snapshot=true&where=${encodeURIComponent("n = 3 and name like 'item 1%'")}`);
  await live(socket);
  const want = here.psql("select id from stock where n = 3 and name like 'item 1%' order by id").split('\n').map(Number);
  assert.deepEqual(events(socket).filter((e) => e.kind === 'row').map((e) => e.payload.data.id).sort((a, b) => a - b), want);
  here.psql('update stock set n = 3 where id = 10; update stock set n = 4 where id = 13');
  await until('enter and leave', () => ['enter', 'leave'].every((k) => events(socket).some((e) => e.kind === k)));
  socket.ws.close();
});

test('many subscriptions: one with rows beside one without', async () => {
  const socket = await here.gateway.socket('/v1/ws', { protocols: ['postbus.v1'] });
  socket.ws.send(JSON.stringify({ id: 1, op: 'subscribe', channel: 'table:public.stock', snapshot: true }));
  socket.ws.send(JSON.stringify({ id: 2, op: 'subscribe', channel: 'beside' }));
  await live(socket);
  await here.gateway.post('beside', 'heard');
  await until('both', () => events(socket).some((e) => e.sub === 2));
  const mine = events(socket).filter((e) => e.sub === 1);
  assert.equal(mine.filter((e) => e.kind === 'row').length, 2000);
  assert.deepEqual(events(socket).find((e) => e.id === 1), { id: 1, ok: {} });
  socket.ws.close();
});

test('a client that stops reading holds no transaction and gets everything later', async () => {
  here.psql(`create table large(id int primary key, pad text); insert into large select i, repeat('x', 1000) from generate_series(1, ${size(40000, 200000)}) i; select postbus.watch('large')`);
  const socket = await here.gateway.socket('/v1/tables/large?snapshot=true');
  socket.ws.pause();
  await until('the rows are out of the database', async () => here.psql("select count(*) from pg_stat_activity where application_name = 'postbus snapshot'") === '0' &&
    (await here.gateway.status()).snapshots.every((s) => s.complete));
  here.psql('delete from large where id = 1');
  socket.ws.resume();
  await until('the change', () => socket.frames.length > 0 && socket.frames.at(-1).includes('"kind":"delete"'), 60_000);
  assert.equal(socket.frames.length, size(40000, 200000) + 2);
  socket.ws.close();
});

test('what is refused says why', async () => {
  const poll = await here.gateway.get('/v1/tables/stock?snapshot=true');
  assert.equal(poll.status, 400);
  assert.match(poll.body, /long poll/);
  const beginning = await here.gateway.get('/v1/tables/stock?snapshot=true&after=beginning', { headers: { Accept: 'text/event-stream' } });
  assert.equal(beginning.status, 400);
});

test('the command line prints rows, then live', async () => {
  const program = new Program(binary, ['--url', here.gateway.url, 'listen', 'table:public.stock', '--snapshot', '--json', '--count', '2001']);
  await program.line(/"kind":"live"/, 20_000);
  await program.stop();
  assert.equal(program.lines.filter((l) => l.startsWith('{"id":null,') && l.includes('"kind":"row"')).length, 2000);
});
