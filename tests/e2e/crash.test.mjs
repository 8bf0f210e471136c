// Kills at random moments under load: the gateway, the server's process that sends the WAL, the whole server. Every message
// whose commit was acknowledged reaches a resuming listener, in commit order, at one position; none that was rolled back does.
// Small in `./dev test`, 100 rounds with POSTBUS_SOAK=1; POSTBUS_SEED repeats one.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Gateway } from './harness/gateway.mjs';
import { committed as sure, Listener, Writer } from './harness/load.mjs';
import { until } from './harness/program.mjs';
import { random, seed } from './harness/random.mjs';
import { setting, size } from './harness/setting.mjs';

const here = setting({
  prepare: async (the) => {
    await the.sql("create table ledger (id bigint primary key, writer int not null, n int not null); select postbus.watch('ledger')");
  },
});
// Beyond the 63 bytes of plain NOTIFY: no listening session takes part, so nothing but the WAL is on trial.
const channel = 'crash:'.padEnd(70, 'x');
const writers = 4;
const chance = random();
const make = async (client, message) => {
  const [writer, n] = message.split(':').map(Number);
  await client.query('insert into ledger values ($1, $2, $3)', [n * 100 + writer, writer, n]);
  await client.query('select postbus.post($1, $2::text)', [channel, message]);
};
const gateway = () => here.gateway;

const deeds = {
  gateway: async () => {
    const { port } = here.gateway;
    await here.gateway.stop('SIGKILL');
    here.gateway = await Gateway.start(here.url, [], { port });
  },
  walsender: () => here.sql("select pg_terminate_backend(pid) from pg_stat_replication where application_name = 'postbus reader'"),
  server: async () => {
    await here.cluster.kill();
    await here.cluster.up();
    await here.gateway.ready(60_000);
  },
};

test('kills at random moments lose nothing and make nothing up', async () => {
  console.log(`POSTBUS_SEED=${seed}`);
  const rounds = size(4, 100);
  const posting = Array.from({ length: writers }, (_, i) => new Writer(i, { url: () => here.url, make, chance }));
  const messages = new Listener(`/v1/channels/${channel}`, { gateway, name: 'messages' });
  const rows = new Listener('/v1/tables/ledger', { gateway, name: 'rows' });
  const listening = [messages.run(), rows.run()];
  await until('both listen', () => messages.listens && rows.listens);
  here.psql(`select postbus.post('${channel}', 'start')`);
  await until('the start is heard', () => messages.events.length > 0);
  const writing = posting.map((w) => w.run());
  for (let round = 0; round < rounds; ++round) {
    const names = Object.keys(deeds);
    const deed = round < names.length ? names[round] : names[Math.floor(chance() * names.length)];
    const enough = sure(posting).length + 20 + chance() * 100;
    await until('the writers write', () => sure(posting).length > enough, 60_000);
    await deeds[deed]();
  }
  for (const w of posting) w.over = true;
  await Promise.all(writing);
  await here.gateway.ready(60_000);
  await until('the end is heard', () => {
    here.psql(`select postbus.post('${channel}', 'end'); insert into ledger select coalesce(max(id), 0) + 1000, -1, -1 from ledger`);
    return messages.events.some((e) => e.payload === 'end') && rows.events.some((e) => e.payload.data.n === -1);
  }, 60_000);
  messages.stop();
  rows.stop();
  await Promise.all(listening);

  assert.deepEqual(messages.notices, [], 'nothing was missing');
  assert.deepEqual(rows.notices, [], 'nothing was missing');
  const committed = sure(posting);
  const heard = messages.events.map((e) => e.payload).filter((p) => p.includes(':'));
  const places = new Map();
  for (const e of [...messages.events, ...rows.events.map((r) => ({ ...r, payload: `row ${r.payload.data.id}` }))]) {
    if (e.payload === 'end') continue;
    if (places.has(e.payload)) assert.equal(places.get(e.payload), e.id, `${e.payload} has one position`);
    places.set(e.payload, e.id);
  }
  for (const listener of [messages, rows])
    for (let i = 1; i < listener.events.length; ++i)
      assert.ok(listener.events[i - 1].id <= listener.events[i].id, `${listener.name} come in order: ${listener.events[i - 1].id} before ${listener.events[i].id}`);
  const undone = new Set(posting.flatMap((w) => [...w.undone]));
  for (const m of heard) assert.ok(!undone.has(m), `${m} was rolled back`);
  const all = new Set(heard);
  const missing = committed.filter((m) => !all.has(m));
  assert.deepEqual(missing, [], `${committed.length} were committed`);
  // What the database has is what was heard: also of transactions whose commit nobody acknowledged.
  const kept = await here.sql('select writer, n from ledger where writer >= 0');
  assert.deepEqual([...all].sort(), kept.map((r) => `${r.writer}:${r.n}`).sort());
  assert.deepEqual([...new Set(rows.events.filter((e) => e.payload.data.n >= 0).map((e) => `${e.payload.data.writer}:${e.payload.data.n}`))].sort(), [...all].sort());
  for (const w of posting) {
    const own = heard.filter((m, i) => m.startsWith(`${w.number}:`) && heard.indexOf(m) === i).map((m) => Number(m.split(':')[1]));
    assert.deepEqual(own, [...own].sort((a, b) => a - b), 'each writer in its own order');
  }
  console.log(`${rounds} kills, ${committed.length} messages committed for sure, ${undone.size} rolled back, ${heard.length - all.size} heard twice`);
});
