// The server dies in the middle of something long: a snapshot's COPY, a transaction so large that it is read while it runs. And
// what is read is taken away: the table during a snapshot, the slot by the server. Small in `./dev test`, 100 rounds with
// POSTBUS_SOAK=1; POSTBUS_SEED repeats one.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { Cluster } from './harness/cluster.mjs';
import { Gateway } from './harness/gateway.mjs';
import { until, within } from './harness/program.mjs';
import { random, seed } from './harness/random.mjs';
import { setting, size } from './harness/setting.mjs';

// The slot is never given up here: what it holds grows with every large transaction that a kill leaves behind.
const here = setting({ args: ['--slot', 'permanent'], settings: { max_slot_wal_keep_size: "'8GB'" } });
const chance = random();
console.log(`POSTBUS_SEED=${seed}`);
const rows = size(20_000, 50_000);
const notNotify = (events) => events.filter((e) => e.kind === 'reset' || (e.kind === 'gap' && e.payload.reason !== 'notify'));

/** Follows a table from its rows on, starting over whenever it is told to or cut off before `live`. */
class Follower {
  starts = 0;

  async run(path) {
    while (!this.over) {
      try {
        this.state = new Map();
        this.live = false;
        ++this.starts;
        const socket = await here.gateway.socket(`${path}?snapshot=true`);
        this.open = socket;
        let taken = 0;
        const take = () => {
          for (; taken < socket.frames.length; ++taken) this.#apply(JSON.parse(socket.frames[taken]));
        };
        socket.ws.on('message', take);
        take();
        await socket.closed;
      } catch {
        await pause(20);
      }
    }
  }

  #apply({ kind, payload }) {
    if (kind === 'live') this.live = true;
    else if (kind === 'row' || kind === 'insert' || kind === 'update') this.state.set(payload.data.id, payload.data.n);
    else if (kind === 'delete') this.state.delete(payload.data.id);
    else if (kind === 'reset') this.open.ws.terminate();
  }

  stop() {
    this.over = true;
    this.open?.ws.terminate();
  }
}

test(`the server is killed during ${size(3, 100)} snapshots: who starts over has the table`, async (t) => {
  here.psql(`create table stock(id int primary key, n int, pad text); insert into stock select i, 0, repeat('x', 500) from generate_series(1, ${rows}) i; select postbus.watch('stock')`);
  let starts = 0;
  for (let round = 1; round <= size(3, 100); ++round) {
    const follower = new Follower(), running = follower.run('/v1/tables/stock');
    await until('it begins', () => follower.open);
    await pause(chance() * 150);
    await here.cluster.kill();
    await here.cluster.up();
    here.psql(`update stock set n = ${round} where id % 100 = ${round % 100}; delete from stock where id = ${round}; insert into stock values (${rows + round}, ${round})`);
    await here.gateway.ready(60_000);
    await until('live, with the last change', () => follower.live && follower.state.get(rows + round) === round, 60_000);
    const truth = await here.sql('select id, n from stock order by id');
    assert.deepEqual([...follower.state].sort(([a], [b]) => a - b), truth.map((r) => [r.id, r.n]));
    starts += follower.starts;
    follower.stop();
    await running;
    await until('no snapshot is left over', async () => (await here.gateway.status()).snapshots.every((s) => s.complete));
  }
  t.diagnostic(`${starts} starts`);
});

test(`the server, or its sender of the WAL, is killed during ${size(2, 100)} large transactions`, async () => {
  const channel = 'large:'.padEnd(70, 'x');
  here.psql('create table ballast(pad text)');
  const socket = await here.gateway.socket(`/v1/channels/${channel}`);
  const expected = [];
  for (let round = 1; round <= size(2, 100); ++round) {
    const client = new pg.Client({ connectionString: here.url });
    client.on('error', () => {});
    await client.connect();
    await client.query('begin');
    // Beyond logical_decoding_work_mem (64 MB), so that it is sent while it runs, with little to deliver.
    for (let part = 1; part <= 5; ++part) {
      await client.query(`select postbus.post('${channel}', '${round}:${part}')`);
      await client.query("insert into ballast select repeat('x', 1900) from generate_series(1, 10000)");
    }
    await pause(chance() * 300);
    if (round % 2) {
      await here.cluster.kill();
      await here.cluster.up();
      client.end().catch(() => {});
    } else {
      here.psql("select pg_terminate_backend(pid) from pg_stat_replication where application_name = 'postbus reader'");
      await client.query('commit');
      await client.end();
      expected.push(...[1, 2, 3, 4, 5].map((part) => `${round}:${part}`));
    }
    await here.gateway.ready(60_000);
    here.psql(`select postbus.post('${channel}', 'after ${round}'); truncate ballast`);
    expected.push(`after ${round}`);
    await socket.event('what follows', (e) => e.payload === `after ${round}`, 60_000);
    assert.deepEqual(socket.events.filter((e) => e.kind === 'message').map((e) => e.payload), expected);
  }
  assert.deepEqual(notNotify(socket.events), []);
  const streamed = here.psql("select sum(stream_txns) > 0 from pg_stat_replication_slots where slot_name like 'postbus%'");
  assert.equal(streamed, 't', 'they were sent while they ran');
  await socket.close();
});

test('a table that is dropped during its snapshot: whoever reads it has all of it or is told, and nothing hangs', async () => {
  for (let round = 0; round < size(3, 50); ++round) {
    here.psql(`create table gone(id int primary key, n int, pad text); insert into gone select i, 0, repeat('x', 500) from generate_series(1, ${rows}) i; select postbus.watch('gone')`);
    const socket = await until('the feed is known', () => here.gateway.socket('/v1/tables/gone?snapshot=true'));
    await pause(chance() * 50);
    await here.sql('drop table gone');
    await within('an end of the snapshot', Promise.race([socket.closed, socket.event('live', (e) => e.kind === 'live' || e.kind === 'reset', 60_000)]), 60_000);
    if (socket.events.some((e) => e.kind === 'live')) assert.equal(socket.events.filter((e) => e.kind === 'row').length, rows);
    socket.ws.terminate();
    assert.equal((await here.gateway.get('/health/ready')).status, 200);
  }
});

test('a slot that the server invalidates under a gateway that runs is a reset, and reading goes on', async () => {
  const cluster = await Cluster.start({ max_slot_wal_keep_size: '16MB', max_wal_size: '32MB', min_wal_size: '32MB' });
  const database = await cluster.database();
  const gateway = await Gateway.start(cluster.url(database), ['--slot', 'permanent']);
  const sql = (text) => cluster.psql(database, text);
  try {
    const socket = await gateway.socket('/v1/channels/a');
    for (let round = 1; round <= size(1, 20); ++round) {
      sql(`select postbus.post('a', 'before ${round}')`);
      await socket.event('before', (e) => e.payload === `before ${round}`);
      const resets = notNotify(socket.events).length;
      gateway.program.child.kill('SIGSTOP');
      try {
        await until('the slot is lost', () => {
          sql("create table filler as select repeat('x', 1000) from generate_series(1, 20000)");
          sql('drop table filler');
          sql('select pg_switch_wal()');
          sql('checkpoint');
          return sql("select wal_status = 'lost' from pg_replication_slots where slot_name like 'postbus%' and not temporary") === 't';
        }, 60_000);
      } finally {
        gateway.program.child.kill('SIGCONT');
      }
      await until('a reset is told', () => notNotify(socket.events).length > resets, 60_000);
      await gateway.ready(60_000);
      const told = notNotify(socket.events).slice(resets);
      assert.deepEqual(told.map((e) => [e.kind, e.payload.reason]), [['reset', 'epoch']]);
      sql(`select postbus.post('a', 'after ${round}')`);
      const after = await socket.event('after', (e) => e.payload === `after ${round}`);
      assert.equal(after.id.slice(0, 8), told[0].id.slice(0, 8));
    }
    await socket.close();
  } finally {
    await gateway.stop();
    await cluster.stop();
  }
});
