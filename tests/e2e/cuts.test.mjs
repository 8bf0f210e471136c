// The network is cut while others write: between gateway and database, where only the gateway is cut off, and between client
// and gateway. With the permanent slot nothing is missing afterwards; with a temporary one all that is missing lies within a gap
// that was told. A client that comes back resumes. 30 s a cut with POSTBUS_SOAK=1, many rounds; POSTBUS_SEED repeats one.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { Cluster } from './harness/cluster.mjs';
import { binary, Gateway } from './harness/gateway.mjs';
import { committed, Listener, Writer } from './harness/load.mjs';
import { Namespace } from './harness/namespace.mjs';
import { Program, until } from './harness/program.mjs';
import { random, seed } from './harness/random.mjs';
import { size } from './harness/setting.mjs';

const chance = random();
const cut_ms = size(11_000, 30_000), client_cut_ms = size(4000, 30_000), rounds = size(1, 10);
// Beyond the 63 bytes of plain NOTIFY, so that only the WAL is on trial.
const channel = 'cut:'.padEnd(70, 'x');
const make = (client, message) => client.query('select postbus.post($1, $2::text)', [channel, message]);
const texts = (events) => events.map((e) => e.payload).filter((p) => p.includes(':'));

/** Each committed message once, none that was rolled back, positions and each writer's own messages in order. */
function exactly(events, writers, what) {
  const heard = texts(events);
  assert.deepEqual([...heard].sort(), [...new Set(committed(writers))].sort(), `${what}: every message once`);
  inOrder(events, writers, what);
}

function inOrder(events, writers, what) {
  for (let i = 1; i < events.length; ++i) assert.ok(events[i - 1].id < events[i].id, `${what}: positions grow`);
  for (const w of writers) {
    const own = texts(events).filter((m) => m.startsWith(`${w.number}:`)).map((m) => Number(m.split(':')[1]));
    assert.deepEqual(own, [...own].sort((a, b) => a - b), `${what}: each writer in its own order`);
    assert.ok(own.every((n) => !w.undone.has(`${w.number}:${n}`)), `${what}: none that was rolled back`);
  }
}

/** Writers past the cut while `during` runs; then all of it has been written. */
async function load(url, during) {
  const writers = Array.from({ length: 3 }, (_, i) => Object.assign(new Writer(i, { url, make, chance }), { rest: 5 }));
  const writing = writers.map((w) => w.run());
  try {
    await during(writers);
  } finally {
    for (const w of writers) w.over = true;
    await Promise.all(writing);
  }
  return writers;
}

const more = async (writers, count) => {
  const enough = committed(writers).length + count;
  await until('the writers write', () => committed(writers).length >= enough);
};

describe('between gateway and database', { skip: Namespace.obstacle() }, () => {
  const here = {};
  before(async () => {
    console.log(`POSTBUS_SEED=${seed}`);
    here.namespace = Namespace.make();
    here.cluster = await Cluster.start({ max_replication_slots: 10 }, { namespace: here.namespace });
    here.database = await here.cluster.database();
    here.permanent = await Gateway.start(here.cluster.url(here.database), ['--slot', 'permanent']);
    here.temporary = await Gateway.start(here.cluster.url(here.database), ['--slot', 'temporary']);
    here.psql = (text) => here.cluster.psql(here.database, text);
  });
  after(async () => {
    await here.permanent?.stop();
    await here.temporary?.stop();
    await here.cluster?.stop();
    here.namespace?.remove();
  });

  for (const [what, unplugged] of [['a cable that swallows everything', false], ['a cable that is pulled out', true]]) {
    test(`${rounds} cuts of ${cut_ms / 1000} s by ${what}`, async (t) => {
      const sure = new Listener(`/v1/channels/${channel}`, { gateway: () => here.permanent, name: 'permanent' });
      const told = new Listener(`/v1/channels/${channel}`, { gateway: () => here.temporary, name: 'temporary' });
      const listening = [sure.run(), told.run()];
      await until('both listen', () => sure.listens && told.listens);
      const writers = await load(() => here.cluster.near(here.database), async (all) => {
        for (let round = 0; round < rounds; ++round) {
          await more(all, 50);
          here.namespace.cut({ unplugged });
          const from = committed(all).length;
          await pause(cut_ms);  // the length of the cut is what is on trial
          assert.equal((await here.permanent.get('/health/ready')).status, 503);
          assert.ok(committed(all).length > from + 50, 'others wrote during the cut');
          here.namespace.mend();
          for (const gateway of [here.permanent, here.temporary]) await gateway.ready(60_000);
        }
      });
      here.psql(`select postbus.post('${channel}', 'end ${what}')`);
      for (const l of [sure, told]) {
        await until('the end is heard', () => l.events.some((e) => e.payload === `end ${what}`), 60_000);
        l.stop();
      }
      await Promise.all(listening);

      assert.deepEqual(sure.notices, [], 'nothing was missing');
      exactly(sure.events, writers, 'the permanent slot');
      const places = new Map(sure.events.map((e) => [e.payload, e.id]));
      for (const e of told.events) assert.equal(e.id, places.get(e.payload), 'both gateways give one position');
      inOrder(told.events, writers, 'the temporary slot');
      const heard = new Set(texts(told.events)), missing = texts(sure.events).filter((m) => !heard.has(m));
      assert.ok(missing.length > 0);
      assert.deepEqual([...new Set(told.notices.map((n) => `${n.kind} ${n.payload.reason}`))], ['gap reconnect']);
      for (const m of missing) {
        const at = places.get(m);
        assert.ok(told.notices.some(({ payload }) => payload.from < at && at <= payload.to), `the loss of ${m} was told`);
      }
      t.diagnostic(`${committed(writers).length} messages; ${missing.length} missing with the temporary slot, in ${told.notices.length} gaps`);
      assert.equal(here.psql("select count(*) from pg_replication_slots where slot_name like 'postbus%' and not temporary"), '1');
    });
  }
});

describe('between client and gateway', { skip: Namespace.obstacle() }, () => {
  const here = {};
  const secret = 'of-the-cut';
  before(async () => {
    here.folder = mkdtempSync('/tmp/postbus-e2e-cuts-');
    const tokens = join(here.folder, 'tokens.toml');
    writeFileSync(tokens, `[[token]]\nname = "all"\nsha256 = "${createHash('sha256').update(secret).digest('hex')}"\nadmin = true\n`, { mode: 0o600 });
    here.namespace = Namespace.make();
    here.cluster = await Cluster.start();
    here.database = await here.cluster.database();
    here.gateway = await Gateway.start(here.cluster.socket(here.database),
      ['--tokens', tokens, '--behind-proxy', '--listen', `${here.namespace.address}:0`], { wrap: here.namespace.wrap({}), ready: false });
  });
  after(async () => {
    await here.gateway?.stop();
    await here.cluster?.stop();
    here.namespace?.remove();
    if (here.folder) rmSync(here.folder, { recursive: true, force: true });
  });

  for (const [what, unplugged] of [['swallows everything', false], ['is pulled out', true]]) {
    test(`a cable that ${what}: a client that waits and one that comes back miss nothing`, async (t) => {
      const headers = { Authorization: `Bearer ${secret}` };
      const socket = (path) => here.gateway.socket(path, { headers });
      await until('the gateway answers', async () => (await socket(`/v1/channels/${channel}`)).close());
      const back = new Listener(`/v1/channels/${channel}`, { gateway: () => ({ socket }) });
      const run = back.run();
      const patient = new Program(binary, ['--url', here.gateway.url, 'listen', channel, '--json'], { env: { ...process.env, POSTBUS_TOKEN: secret } });
      const printed = () => patient.lines.filter((l) => l.startsWith('{')).map((l) => JSON.parse(l));
      await until('both listen', async () => {
        await here.cluster.sql(here.database, 'select postbus.post($1, $2::text)', [channel, `start ${what}`]);
        return back.events.length > 0 && printed().length > 0;
      });
      const writers = await load(() => here.cluster.url(here.database), async (all) => {
        for (let round = 0; round < rounds; ++round) {
          await more(all, 50);
          here.namespace.cut({ unplugged });
          await pause(client_cut_ms / 2);
          back.open.ws.terminate();
          await pause(client_cut_ms / 2);
          here.namespace.mend();
        }
      });
      await here.cluster.sql(here.database, 'select postbus.post($1, $2::text)', [channel, `end ${what}`]);
      const end = (e) => e.payload === `end ${what}`;
      await until('the end is heard by the one that came back', () => back.events.some(end), 60_000);
      await until('the end is heard by the one that waited', () => printed().some(end), 120_000);
      back.stop();
      await run;
      await patient.stop();
      assert.deepEqual(back.notices, []);
      exactly(back.events, writers, 'the one that came back');
      exactly(printed(), writers, 'the one that waited');
      t.diagnostic(`${committed(writers).length} messages`);
    });
  }
});
