// Positions that lose their meaning: a standby is promoted, a backup is restored. Every listener is told `reset` with a new
// epoch, no old position is resumed, and who starts over has what the new primary has: the kept messages at new positions, in
// their old order as far as that had been written down, consumers where they were.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import pg from 'pg';
import { Cluster } from './harness/cluster.mjs';
import { Gateway } from './harness/gateway.mjs';
import { committed, Writer } from './harness/load.mjs';
import { until } from './harness/program.mjs';
import { random, seed } from './harness/random.mjs';
import { size } from './harness/setting.mjs';

const chance = random();
const epoch = (position) => position.slice(0, 8);
const payloads = (events) => events.filter((e) => e.kind === 'message').map((e) => e.payload);
const messages = size(200, 5000);

/** A database with a watched ledger, a stream with a consumer, an ephemeral channel, and writers to all of them. */
class Site {
  writers = [];

  static async begin() {
    const site = new Site();
    site.primary = site.now = await Cluster.start({ max_wal_senders: 10 });
    site.database = await site.primary.database();
    return site;
  }

  url = () => this.now.url(this.database);
  sql = (text) => this.now.psql(this.database, text);

  /** The schema is the gateway's to install. */
  prepare() {
    this.sql("create table ledger (id bigint primary key, writer int not null, n int not null); select postbus.watch('ledger'); select postbus.create_stream('kept')");
  }

  async write() {
    const make = async (client, message) => {
      const [writer, n] = message.split(':').map(Number);
      await client.query('insert into ledger values ($1, $2, $3)', [n * 100 + writer, writer, n]);
      await client.query("select postbus.post('kept', $1::text), postbus.post('passing', $1::text)", [message]);
    };
    this.writers = Array.from({ length: 3 }, (_, i) => Object.assign(new Writer(i, { url: this.url, make, chance }), { rest: 2 }));
    this.writing = this.writers.map((w) => w.run());
    await this.more();
  }

  async more(count = messages / 4) {
    const enough = committed(this.writers).length + count;
    await until('the writers write', () => committed(this.writers).length >= enough, 60_000);
  }

  async quiet() {
    for (const w of this.writers) w.over = true;
    await Promise.all(this.writing ?? []);
  }
}

/** The ways to listen: each knows how to say that it was told to start over, and how to come back with an old position. */
async function listen(gateway) {
  const passing = await gateway.socket('/v1/channels/passing'), kept = await gateway.socket('/v1/channels/kept');
  const rows = await gateway.socket('/v1/tables/ledger'), stream = await gateway.stream('/v1/channels/kept');
  const many = await gateway.socket('/v1/ws');
  many.send({ id: 1, op: 'subscribe', channel: 'kept' });
  await many.event('confirmed', (f) => f.ok);
  return { passing, kept, rows, many, stream };
}

/** Every listener was told once, each of the same new epoch; nothing that it was told afterwards is of the old one. */
async function toldToStartOver(all, old) {
  const { stream, ...sockets } = all;
  const news = new Set();
  for (const [name, socket] of Object.entries(sockets)) {
    await socket.event(`${name} is told to start over`, (e) => e.kind === 'reset', 60_000);
    const events = socket.events.filter((e) => e.kind), at = events.findIndex((e) => e.kind === 'reset');
    assert.equal(events[at].payload.reason, 'epoch');
    news.add(epoch(events[at].id));
    assert.ok(events.slice(0, at).every((e) => epoch(e.id) === old), `${name}: the old epoch before`);
    assert.ok(events.slice(at).every((e) => epoch(e.id) === epoch(events[at].id)), `${name}: the new one behind`);
    assert.equal(events.filter((e) => e.kind === 'reset').length, 1);
    assert.equal(events.filter((e) => e.kind === 'gap' && e.payload.reason !== 'notify').length, 0);
  }
  news.add(epoch((await stream.event('the stream is told', (e) => e.event === 'reset', 60_000)).id));
  assert.equal(news.size, 1);
  const [fresh] = news;
  assert.notEqual(fresh, old);
  return fresh;
}

/** By every door an old position is answered with a reset, and with nothing from before it. */
async function refusesToResume(gateway, positions, fresh) {
  for (const after of positions) {
    for (const path of ['/v1/channels/kept', '/v1/channels/passing', '/v1/tables/ledger']) {
      const socket = await gateway.socket(`${path}?after=${after}`);
      const first = await socket.event('a first event', () => true);
      assert.deepEqual([first.kind, epoch(first.id), first.payload.reason], ['reset', fresh, 'epoch'], path);
      await socket.close();
      const stream = await gateway.stream(path, { 'Last-Event-ID': after });
      assert.equal((await stream.event('a first event', () => true)).event, 'reset');
      stream.close();
      const [polled] = JSON.parse((await gateway.get(`${path}?after=${after}&wait=5s`)).body).events;
      assert.equal(polled.kind, 'reset');
    }
    const many = await gateway.socket('/v1/ws');
    many.send({ id: 1, op: 'subscribe', channel: 'kept', after });
    assert.equal((await many.event('an event', (e) => e.sub === 1)).kind, 'reset');
    await many.close();
  }
}

/** Who starts over has what the database has: rows, kept messages in their old order, a consumer at its place. */
async function startsOver(site, gateway, fresh, before, taken) {
  const feed = await gateway.socket('/v1/tables/ledger?snapshot=true'), stream = await gateway.socket('/v1/channels/kept?after=beginning');
  const consumer = await gateway.socket('/v1/channels/kept?consumer=etl');
  await site.more(50);
  await site.quiet();
  site.sql("insert into ledger values (-1, -1, -1); select postbus.post('kept', 'end'), postbus.post('passing', 'end')");
  const ended = (e) => e.payload === 'end' || e.payload?.data?.id === -1;
  for (const socket of [feed, stream, consumer]) await socket.event('the end', ended, 60_000);
  const truth = site.sql("select writer || ':' || n from ledger where id > 0 order by id").split('\n').sort();

  const rows = new Map(feed.events.filter((e) => e.payload?.data && e.payload.data.id > 0).map((e) => [e.payload.data.id, `${e.payload.data.writer}:${e.payload.data.n}`]));
  assert.deepEqual([...rows.values()].sort(), truth, 'rows and changes make the table');
  const heard = payloads(stream.events).slice(0, -1);
  assert.deepEqual([...heard].sort(), truth, 'the stream has every committed message once');
  assert.ok(stream.events.every((e, i) => epoch(e.id) === fresh && (i === 0 || stream.events[i - 1].id < e.id)), 'new positions, in order');
  const there = new Set(heard), old = before.filter((m) => there.has(m));
  assert.ok(old.length > 30);
  assert.deepEqual(heard.filter((m) => new Set(old).has(m)), old, 'the old order');
  const place = heard.indexOf(taken);
  assert.deepEqual(payloads(consumer.events), [...heard.slice(place + 1), 'end'], 'the consumer goes on where it was');
  const undone = new Set(site.writers.flatMap((w) => [...w.undone]));
  assert.ok(heard.every((m) => !undone.has(m)), 'none that was rolled back');
  for (const socket of [feed, stream, consumer]) await socket.close();
  return there;
}

/** A consumer takes some of the stream; what it took last, and what was heard live until now. */
async function takeSome(site, gateway, all) {
  await until('much is heard', () => payloads(all.kept.events).length > 40);
  const last = all.kept.events.filter((e) => e.kind === 'message')[30];
  await until('it is written down', () => {
    site.sql(`select postbus.ack('kept', 'etl', '${last.id}')`);
    return true;
  });
  return last.payload;
}

/** How far the order of the kept messages is on the standby, at least: what it was told last is in the order of posting, not of commit. */
const writtenDown = (standby, database) =>
  standby.psql(database, "select lpad(to_hex(epoch), 8, '0') || '-' || lpad(to_hex(lsn), 16, '0') || '-7fffffff' from postbus.stream_recorder");

describe('a standby is promoted', () => {
  for (const [how, end] of [['killed', 'kill'], ['stopped in good order', 'down']]) {
    for (const way of ['connected by one conninfo for both', 'restarted on the new address']) {
      test(`the primary is ${how}, the gateway ${way}`, async (t) => {
        console.log(`POSTBUS_SEED=${seed}`);
        const site = await Site.begin(), connected = way.startsWith('connected');
        let gateway, standby;
        try {
          standby = await site.primary.standby();
          const both = `postgresql://postgres@127.0.0.1:${site.primary.port},127.0.0.1:${standby.port}/${site.database}?target_session_attrs=read-write`;
          gateway = await Gateway.start(connected ? both : site.url(), ['--slot', 'permanent']);
          site.prepare();
          const all = await listen(gateway);
          await site.write();
          const taken = await takeSome(site, gateway, all);
          await site.more();
          // What the consumer acknowledged is to be on the standby: the only thing here that a kill must not take.
          await until('the acknowledgement is on the standby', () => standby.psql(site.database, "select count(*) from postbus.consumers where position is not null") === '1');
          const old = epoch(all.kept.events[0].id);
          await site.primary[end]();
          const written = writtenDown(standby, site.database);
          standby.psql('postgres', 'select pg_promote(true, 60)');
          site.now = standby;
          await site.more(20);
          let fresh;
          if (connected) {
            await gateway.ready(60_000);
            fresh = await toldToStartOver(all, old);
          } else {
            await gateway.stop('SIGKILL');
            gateway = await Gateway.start(site.url(), ['--slot', 'permanent']);
            fresh = epoch((await (await gateway.socket(`/v1/channels/kept?after=${all.kept.events[0].id}`)).event('a reset', (e) => e.kind === 'reset')).id);
            assert.notEqual(fresh, old);
          }
          const before = all.kept.events.filter((e) => epoch(e.id ?? '') === old && e.kind === 'message');
          await refusesToResume(gateway, [before[0].id, before.at(-1).id], fresh);
          const there = await startsOver(site, gateway, fresh, payloads(before.filter((e) => e.id <= written)), taken);
          const lost = committed(site.writers).filter((m) => !there.has(m));
          if (end === 'down') assert.deepEqual(lost, [], 'a primary that ends in good order has sent everything');
          t.diagnostic(`${there.size} messages on the new primary; ${lost.length} that had been committed did not reach it`);
          assert.equal(site.sql("select count(*) from pg_replication_slots where slot_name like 'postbus%'"), '1');
        } finally {
          await site.quiet();
          await gateway?.stop();
          await standby?.stop();
          await site.primary.stop();
        }
      });
    }
  }
});

test('a server that is told to stop does not wait for a gateway that acknowledges late', async () => {
  const site = await Site.begin();
  const gateway = await Gateway.start(site.url(), ['--slot', 'permanent']);
  try {
    const socket = await gateway.socket('/v1/channels/passing');
    for (let round = 1; round <= size(2, 20); ++round) {
      site.sql(`select postbus.post('passing', 'before ${round}')`);
      await socket.event('before', (e) => e.payload === `before ${round}`);
      await site.primary.down();
      await site.primary.up();
      site.sql(`select postbus.post('passing', 'after ${round}')`);
      await socket.event('after', (e) => e.payload === `after ${round}`, 60_000);
    }
    assert.deepEqual(socket.events.filter((e) => e.kind === 'reset' || (e.kind === 'gap' && e.payload.reason !== 'notify')), []);
    await socket.close();
  } finally {
    await gateway.stop();
    await site.primary.stop();
  }
});

describe('a backup is restored', () => {
  // What was committed after the backup is gone, and other things are committed at the same places of the WAL.
  const restored = {
    'files as they were, put back under a gateway that runs': { runs: true },
    'the same, by a gateway that has places of lost messages to write down, and can do so before it reads the WAL': { runs: true, unwritten: true },
    'a base backup that was recovered to its end': { recovered: true },
  };
  for (const [what, { runs = false, unwritten = false, recovered = false }] of Object.entries(restored)) {
    test(what, async () => {
      const site = await Site.begin();
      let gateway = await Gateway.start(site.url(), ['--slot', 'permanent']), copy;
      try {
        site.prepare();
        const all = await listen(gateway);
        site.sql("insert into ledger values (1, 0, 1); select postbus.post('kept', 'before the backup'), postbus.post('passing', 'before the backup')");
        await all.kept.event('heard', (e) => e.payload === 'before the backup');
        if (recovered) {
          copy = await site.primary.backup();
        } else {
          await site.primary.down();
          site.primary.save();
          await site.primary.up();
          await gateway.ready(60_000);
        }
        const make = (what, n, id) => `insert into ledger values (${id + n}, 0, ${n}); select postbus.post('kept', '${what} ${n}'), postbus.post('passing', '${what} ${n}');`;
        const some = (what, count, id) => site.sql(Array.from({ length: count }, (_, n) => `begin; ${make(what, n, id)} commit;`).join('\n'));
        const blocker = unwritten && new pg.Client({ connectionString: site.url() });
        if (blocker) {
          blocker.on('error', () => {});
          await blocker.connect();
          await blocker.query('begin; lock table postbus.stream_positions in share mode');
        }
        some('lost', 500, 10);
        await all.kept.event('heard', (e) => e.payload === 'lost 499');
        const old = epoch(all.kept.events[0].id), last = all.kept.events.findLast((e) => e.kind === 'message').id;
        await site.primary.down();
        if (recovered) {
          copy.recover();
          await copy.up();
          site.now = copy;
          await gateway.stop();
          gateway = await Gateway.start(site.url(), ['--slot', 'permanent']);
        } else {
          site.primary.restore();
          if (unwritten) {
            await site.primary.up({ max_wal_senders: 0 });
            for (let n = 0; n < 20; ++n) site.sql('select pg_current_xact_id()');  // as the lost ones had, so that they can be seen
            await until('the recorder has a session and waits', () => site.sql(
              "select count(*) from pg_stat_activity where application_name = 'postbus streams' and state = 'idle' and clock_timestamp() - state_change > '300 ms'") === '1');
            await site.primary.down();
          }
          await site.primary.up();
          await gateway.ready(60_000);
        }
        const fresh = runs ? await toldToStartOver(all, old)
          : epoch((await (await gateway.socket(`/v1/channels/kept?after=${last}`)).event('a reset', (e) => e.kind === 'reset')).id);
        assert.notEqual(fresh, old);
        some('other', 10, 1000);
        await refusesToResume(gateway, [last], fresh);
        const stream = await gateway.socket('/v1/channels/kept?after=beginning');
        await stream.event('the end', (e) => e.payload === 'other 9');
        assert.deepEqual(payloads(stream.events), ['before the backup', ...Array.from({ length: 10 }, (_, n) => `other ${n}`)]);
        if (runs) await all.passing.event('what is posted now', (e) => e.payload === 'other 9');
      } finally {
        await gateway.stop();
        await copy?.stop();
        await site.primary.stop();
      }
    });
  }
});
