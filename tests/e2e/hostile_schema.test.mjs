// Whoever may create things in `public` sets traps there: operators and functions that fit the arguments of our statements better than
// PostgreSQL's own (CVE-2018-1058). Every door is used, and no trap runs as the gateway's role or as the command line's.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Cluster } from './harness/cluster.mjs';
import { binary, Gateway } from './harness/gateway.mjs';
import { run, until } from './harness/program.mjs';

/** As a role that may create in public and no more. A trap says who stepped on it and then does what was asked. */
const traps = `
  create table public.trapped(who name, trap text);
  grant all on public.trapped to public;
  create function public.step(trap text) returns void language plpgsql as $$
  begin
    insert into public.trapped values (current_user, trap);
  end $$;
  do $$
  declare
    op text; a text; b text; kind text;
  begin
    foreach a in array array['name', 'text', 'varchar', 'bpchar', '"char"', 'oid', 'regclass', 'int8', 'int4', 'pg_lsn', 'xid8', 'uuid'] loop
      foreach b in array array['name', 'text', 'varchar', 'bpchar', '"char"', 'oid', 'regclass', 'int8', 'int4', 'pg_lsn', 'xid8', 'uuid'] loop
        foreach op in array array['=', '<>', '<', '<=', '>', '>=', '~~', '||', '-', '->', '->>'] loop
          if to_regoperator(format('pg_catalog.%s(%s, %s)', op, a, b)) is null then
            kind := case op when '||' then 'text' when '-' then 'numeric' when '->' then 'json' when '->>' then 'text' else 'boolean' end;
            execute format('create function public.%I(%s, %s) returns %s language plpgsql as %L', 'trap' || op, a, b, kind, format(
              'begin perform public.step(%L); return %s; end', op || a || b,
              case when op = '-' then '$1::text::pg_catalog.pg_lsn operator(pg_catalog.-) $2::text::pg_catalog.pg_lsn'
                   else format('$1::pg_catalog.text operator(pg_catalog.%s) $2::pg_catalog.text', op) end));
            execute format('create operator public.%s (leftarg = %s, rightarg = %s, function = public.%I)', op, a, b, 'trap' || op);
          end if;
        end loop;
      end loop;
    end loop;
  end $$;
  create function public.quote_ident(name) returns text language plpgsql as
    'begin perform public.step(''quote_ident''); return pg_catalog.quote_ident($1::text); end';
  create function public.format(text, name, name) returns text language plpgsql as
    'begin perform public.step(''format''); return pg_catalog.format($1, $2, $3); end';
  create function public.json_build_array(name, bigint) returns json language plpgsql as
    'begin perform public.step(''json_build_array''); return pg_catalog.json_build_array($1, $2); end';
  create function public.to_json(text[]) returns json language plpgsql as
    'begin perform public.step(''to_json''); return pg_catalog.to_json($1); end';`;

let cluster, database, gateway;
const as = (role) => cluster.url(database, role);
const sql = (text) => run('psql', ['-X', '-q', '-At', '-v', 'ON_ERROR_STOP=1', '-c', `set search_path = pg_catalog; ${text}`, as('postgres')]).trimEnd();
const cli = (...words) => run(binary, [...words, '--db', as('boss')]);

before(async () => {
  cluster = await Cluster.start();
  database = await cluster.database();
  cluster.psql('postgres', `create role boss login createrole; create role gateway login replication; create role mallory login;
    alter database ${database} owner to boss`);
  cluster.psql(database, 'grant create on schema public to boss, mallory');
  run('psql', ['-X', '-q', '-v', 'ON_ERROR_STOP=1', '-c', traps, as('mallory')]);
  run(binary, ['setup', '--db', as('boss')]);
  cluster.psql(database, 'grant postbus_admin to gateway, boss');
  cluster.psql(database, `set role boss; create type public.part as (x int, y text); create table public."Goods"(id int primary key);
    create table public.goods(id int primary key, label varchar, kind char(2), ref uuid, p public.part); alter table public.goods replica identity full;
    grant select on public.goods to gateway`);
});
after(async () => {
  await gateway?.stop();
  await cluster?.stop();
});

const trapped = () => sql("select distinct who || ' ' || trap from public.trapped where who <> 'postgres' order by 1");

test('the traps work: SQL that is written as ours is steps on them', () => {
  assert.equal(cluster.psql(database, "set role boss; select count(*) from pg_namespace n where 'a:' || n.nspname || '.' || 'b' = 'a:public.b'"), 'SET\n1');
  assert.match(trapped(), /boss \|\|namename/);
  sql('delete from public.trapped');
});

test('the command line', () => {
  cli('watch', 'goods', '--notify', 'plain');
  cli('watch', '"Goods"');
  assert.match(cli('watched'), /public\.goods/);
  cli('unwatch', 'public."Goods"');
  cli('stream', 'create', 'kept');
  assert.match(cli('stream', 'list'), /kept/);
  cli('post', 'kept', 'zero');
  cli('setup');
  assert.doesNotMatch(run(binary, ['doctor', '--db', as('gateway')]), /problem/);
  assert.equal(trapped(), '');
});

test('feeds, filters, snapshots, streams and posts', async () => {
  gateway = await Gateway.start(as('gateway'), ['--slot', 'permanent']);
  sql("insert into public.goods values (1, 'tea', 'k', null, (1, 'one'))");
  const where = encodeURIComponent("label = 'tea' and kind = 'k' and label like 't%' and label in ('tea', 'x') and label <> 'y'");
  const listeners = await Promise.all(['/v1/tables/goods', '/v1/tables/Public.GOODS', `/v1/tables/public.goods?where=${where}`].map((path) => gateway.socket(path)));
  const rows = await gateway.socket(`/v1/tables/goods?snapshot=true&where=${where}`);
  await rows.event('live', (e) => e.kind === 'live');
  assert.deepEqual(rows.events.filter((e) => e.kind === 'row').map((e) => e.payload.data.p), [{ x: 1, y: 'one' }]);
  const all = await gateway.socket('/v1/tables/goods?snapshot=true');
  await all.event('live', (e) => e.kind === 'live');
  sql("alter table public.goods add more int; insert into public.goods values (2, 'tea', 'k', null, (2, 'two'))");
  for (const socket of [...listeners, rows, all]) await socket.event('the row', (e) => e.kind === 'insert' && e.payload.data.p.x === 2);
  await listeners[0].event('the columns', (e) => e.kind === 'schema');
  assert.equal((await gateway.post('kept', 'one')).status, 202);
  assert.equal((await gateway.post('other', '{"a":1}', { 'Content-Type': 'application/json' })).status, 202);
  await until('they are written down', () => sql('select count from postbus.streams') === '2');
  for (const socket of [...listeners, rows, all]) socket.close();
  assert.equal(trapped(), '');
});

test('a stream from its tables, and a consumer of it, by a gateway that has just started', async () => {
  await gateway.stop();
  gateway = await Gateway.start(as('gateway'), ['--slot', 'temporary']);
  const socket = await gateway.socket('/v1/channels/kept?consumer=me');
  const last = await socket.event('the last', (e) => e.payload === 'one');
  assert.deepEqual(socket.events.map((e) => e.payload), ['zero', 'one']);
  assert.equal((await gateway.request('POST', `/v1/channels/kept/ack?consumer=me&position=${last.id}`)).status, 204);
  socket.close();
  assert.match((await gateway.get('/metrics')).body, /postbus/);
  assert.equal((await gateway.get('/v1/tables/nowhere')).status, 404);
  sql('select postbus.maintain_streams()');
  assert.equal(trapped(), '');
});
