// What is large, through a real gateway: a transaction that the server sends while it runs, with the gateway's memory bounded
// and all others served; the same with the gateway killed in the midst; rows of tens of megabytes. A hundred megabytes
// by default, a gigabyte with POSTBUS_SOAK=1.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { afterEach, test } from 'node:test';
import pg from 'pg';
import { Gateway } from './harness/gateway.mjs';
import { until } from './harness/program.mjs';
import { setting, size } from './harness/setting.mjs';

const history = 48;  // MB
const here = setting({
  args: ['--history-bytes', `${history}MB`],
  // A sender that hears nothing from the gateway for two seconds ends.
  settings: { max_slot_wal_keep_size: "'16GB'", wal_sender_timeout: "'2s'", max_wal_size: "'8GB'", track_commit_timestamp: 'off' },
  prepare: async (the) => {
    await the.sql("create table big (id int primary key, body text); create table small (id int primary key); "
      + "create table docs (id int primary key, body text, raw bytea); alter table docs alter body set storage external, alter raw set storage external; "
      + "select postbus.watch('big'), postbus.watch('small'), postbus.watch('docs')");
  },
});
const rows = size(120_000, 1_200_000);

const opened = [];
afterEach(() => Promise.all(opened.splice(0).map((one) => one.stop())));

/** Listens on a feed and comes back after its last position until told to stop. `take` is given each event and keeps what it wants of it. */
class Listener {
  events = 0;
  notices = [];
  cuts = 0;

  constructor(path, take) {
    Object.assign(this, { path, take });
    opened.push(this);
    this.over = this.#run();
  }

  async #run() {
    while (!this.stopped) {
      try {
        const query = this.position ? `?after=${this.position}` : '';
        const socket = await here.gateway.socket(this.path + query, { maxPayload: 1 << 30 });
        this.socket = socket;
        if (this.stopped) socket.ws.terminate();
        socket.ws.removeAllListeners('message');
        for (const early of socket.frames.splice(0)) this.#heard(early);
        socket.ws.on('message', (data) => this.#heard(data.toString()));
        const { code } = await socket.closed;
        if (code === 4001) this.cuts += 1;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
  }

  #heard(text) {
    const event = JSON.parse(text);
    if (this.position && event.kind !== 'schema') assert.ok(event.id > this.position, `${event.id} comes after ${this.position}`);
    this.position = event.id;
    if (event.kind === 'gap' || event.kind === 'reset') this.notices.push(text);
    else this.take(event, this.events++);
  }

  async stop() {
    this.stopped = true;
    this.socket?.ws.terminate();
    await this.over;
  }
}

/** A listener of `big`, whose ids come from 1 on: each once, in order, and none left out without a notice. */
function countingListener() {
  let last = 0;
  let told = 0;
  const listener = new Listener('/v1/tables/big', ({ kind, payload: { data: { id } } }) => {
    const excused = listener.notices.length > told && id > last;
    if (kind !== 'insert' || (id !== last + 1 && !excused)) listener.wrong ??= `${kind} ${id} after ${last}`;
    told = listener.notices.length;
    last = id;
  });
  listener.reaches = (id) => until(`row ${id} is heard`, () => last >= id || listener.wrong, 300_000);
  return listener;
}

async function connected() {
  const client = new pg.Client({ connectionString: here.url });
  client.on('error', () => {});
  opened.push({ stop: () => client.end() });
  await client.connect();
  return client;
}

/** Fills `big` within the open transaction, with savepoints whose rows are rolled back; `between` is called ten times. */
async function fill(client, count, between = async () => {}) {
  const part = count / 10;
  const insert = (from, to, sign) => client.query(
    `insert into big select ${sign} * i, repeat(md5(i::text), 25) from generate_series($1::int, $2::int) i`, [from, to]);
  for (let i = 0; i < 10; ++i) {
    await client.query('savepoint undone');
    await insert(i * part + 1, i * part + part / 10, -1);
    await client.query('rollback to undone');
    if (i % 2 === 0) await client.query('savepoint kept');
    await insert(i * part + 1, (i + 1) * part, 1);
    await between(i);
  }
}

const sender = async () => (await here.sql("select pid, reply_time::text from pg_stat_replication where application_name = 'postbus reader'"))[0];
const memory = (field) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readFileSync(`/proc/${here.gateway.pid}/status`, 'utf8'))[1]) / 1024;
const streamed = async () => Number((await here.sql(
  'select sum(stream_bytes)::bigint as bytes from pg_stat_replication_slots'))[0].bytes);

test(`a transaction of ${rows} rows: memory stays bounded, others are served meanwhile, each row comes once and in order, or a gap is told`, async () => {
  const before = memory('VmHWM');
  const listener = countingListener();
  const others = [];
  const small = new Listener('/v1/tables/small', ({ payload }) => others.push(payload.data.id));
  await until('both listen', () => listener.socket?.ws.readyState === 1 && small.socket?.ws.readyState === 1);
  const client = await connected();
  const first = await sender();
  let replied = first.reply_time;
  await client.query('begin');
  await fill(client, rows, async (i) => {
    await here.sql('insert into small values ($1)', [i]);
    await until('a small transaction is heard while the large one runs', () => others.length === i + 1, 60_000);
    if (i % 4 === 0) await until('the gateway has answered the server since', async () => {
      const { reply_time: now } = await sender();
      if (now === replied) return false;
      replied = now;
      return true;
    }, 60_000);
  });
  assert.equal(listener.events, 0);
  await client.query('commit');
  await here.sql('insert into small values (100)');
  await until('what was committed after it is heard', () => others.at(-1) === 100, 300_000);
  await listener.reaches(rows);
  assert.equal(listener.wrong, undefined);
  assert.deepEqual(small.notices, []);
  assert.deepEqual(others, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 100]);
  assert.equal((await sender()).pid, first.pid, 'the server has never taken the gateway for dead');
  assert.ok(await streamed() > 64 << 20, 'it came while it ran');
  const [{ bytes }] = await here.sql("select pg_total_relation_size('big')::bigint as bytes");
  const peak = memory('VmHWM');
  const bound = before + history + 128;
  console.log(`${Math.round(bytes / 2 ** 20)} MB of rows; the gateway's memory: ${before.toFixed(0)} MB before, ${peak.toFixed(0)} MB at most, bound ${bound.toFixed(0)} MB; ${listener.events} rows heard, cut off ${listener.cuts} times, told of ${listener.notices.length} gaps`);
  assert.ok(peak < bound, `${peak} MB of memory`);
});

test('the gateway is killed in the midst of a large transaction, before its commit and while it is delivered', async () => {
  const count = 100_000;
  await here.sql('truncate big');
  await here.gateway.stop();
  const { port } = here.gateway;
  const start = async () => {
    here.gateway = await Gateway.start(here.url, ['--history-bytes', '1GB', '--resume-bytes', '1GB'], { port, ready: false });
    await here.gateway.ready(120_000);  // it reads a gigabyte of WAL again
  };
  await start();
  const listener = countingListener();
  await until('it listens', () => listener.socket?.ws.readyState === 1);
  const client = await connected();
  await client.query('begin');
  await fill(client, count, async (i) => {
    if (i !== 8) return;
    await until('the gateway has part of it', async () => await streamed() > 0, 60_000);
    await here.gateway.stop('SIGKILL');
    await start();
  });
  await client.query('commit');
  await listener.reaches(count);
  const rounds = size(1, 5);
  for (let round = 1; round <= rounds; ++round) {
    const heard = listener.events;
    await here.sql('insert into big select i, repeat(md5(i::text), 25) from generate_series($1::int, $2::int) i', [round * count + 1, (round + 1) * count]);
    await until('some rows are heard', () => listener.events > heard + count / 20, 60_000);
    await here.gateway.stop('SIGKILL');
    console.log(`killed after ${listener.events - heard} of ${count} rows`);
    await start();
    await listener.reaches((round + 1) * count);
  }
  assert.equal(listener.wrong, undefined);
  assert.deepEqual(listener.notices, []);
  assert.equal(listener.events, count * (1 + rounds));
});

test('rows of tens of megabytes reach a listener whole, several in one transaction too', async () => {
  const megabytes = size(24, 120);
  const got = [];
  const listener = new Listener('/v1/tables/docs', ({ kind, payload: { data, unchanged } }) => {
    const digest = (text) => text && createHash('md5').update(text).digest('hex');
    got.push([kind, data.id, data.body?.length, digest(data.body), digest(data.raw), unchanged?.join()]);
  });
  await until('it listens', () => listener.socket?.ws.readyState === 1);
  const wide = (id) => `insert into docs values (${id}, repeat(md5('${id}'), ${megabytes * 32768}), decode(repeat(md5('${id}'), ${megabytes * 16384}), 'hex'))`;
  await here.sql(`begin; ${wide(1)}; ${wide(2)}; ${wide(3)}; commit`);
  await here.sql('update docs set id = id + 10; delete from docs where id = 13');
  await until('all is heard', () => got.length >= 7 || listener.notices.length > 0, 120_000);
  assert.deepEqual(listener.notices, []);
  const sums = await here.sql('select id, length(body) as length, md5(body) as body, md5(raw::text) as raw from docs order by id');
  assert.deepEqual(got.slice(0, 2), sums.map((s) => ['insert', s.id - 10, s.length, s.body, s.raw, undefined]));
  assert.equal(got[2][2], megabytes << 20);
  assert.deepEqual(got.slice(3).map(([kind, id, , , , unchanged]) => [kind, id, unchanged]),
    [['update', 11, 'body,raw'], ['update', 12, 'body,raw'], ['update', 13, 'body,raw'], ['delete', 13, undefined]]);
  console.log(`rows of ${megabytes} MB of text and ${megabytes / 4} MB of bytes; cut off ${listener.cuts} times`);
});
