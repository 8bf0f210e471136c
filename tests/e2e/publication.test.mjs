// The publication is dropped or altered: under a gateway that runs, under two at once, or while none does. What rows it left
// out, listeners are told of, be they there or come back later; then events flow again.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Cluster } from './harness/cluster.mjs';
import { Gateway } from './harness/gateway.mjs';
import { until } from './harness/program.mjs';
import { size } from './harness/setting.mjs';

let cluster;
before(async () => { cluster = await Cluster.start(); });
after(() => cluster?.stop());

/** A database with a watched table t, and gateways that end with the test. */
async function watched(t) {
  const name = await cluster.database();
  const gateways = [];
  t.after(() => Promise.all(gateways.map((g) => g.stop('SIGKILL'))));
  const here = {
    sql: (text) => cluster.psql(name, text),
    start: async (slot) => gateways[gateways.push(await Gateway.start(cluster.url(name), ['--slot', slot])) - 1],
  };
  here.first = async (slot) => {
    const gateway = await here.start(slot);
    here.sql("create table t(id int primary key); select postbus.watch('t')");
    return gateway;
  };
  here.listen = (gateway, after) =>
    until('the feed is known', () => gateway.socket(`/v1/tables/t${after ? `?after=${after}` : ''}`).catch((e) => { if (e.status !== 404) throw e; }));
  here.insert = (id) => here.sql(`insert into t values (${id})`);
  return here;
}

const told = (socket) => socket.events.map((e) => (e.kind === 'insert' ? e.payload.data.id : `${e.kind} ${e.payload.reason}`));
const row = (socket, id) => socket.event(`row ${id}`, (e) => e.kind === 'insert' && e.payload.data.id === id, 40_000);
/** What it was told before row `id`, without repeats: a gap may be told when it is noticed, and again behind it. */
const before_ = (socket, id) => [...new Set(told(socket).slice(0, told(socket).indexOf(id)))];

const drop = 'drop publication postbus';
const alter = 'alter publication postbus drop table t';
for (const [slot, harm, expected] of [
  ['permanent', drop, 'reset epoch'],
  ['temporary', drop, 'reset window'],
  ['permanent', alter, 'gap publication'],
  ['temporary', alter, 'reset window'],
]) {
  test(`${harm}, while no gateway runs, of a ${slot} slot: ${expected} to who resumes`, async (t) => {
    const here = await watched(t);
    const first = await here.first(slot);
    const socket = await here.listen(first);
    here.insert(1);
    const place = (await row(socket, 1)).id;
    await first.stop();
    here.insert(2);
    here.sql(harm);
    here.insert(3);
    const second = await here.start(slot);
    const back = await here.listen(second, place);
    await back.event(expected, (e) => e.kind === 'gap' || e.kind === 'reset', 40_000);
    await until('it is mended', () => here.sql('select postbus.feeds_fault() is null') === 't');
    here.insert(4);
    await row(back, 4);
    assert.ok(before_(back, 4).includes(expected), `told ${told(back)}`);
    if (expected.startsWith('gap')) assert.deepEqual(told(back).filter((e) => Number(e)), [2, 4], 'what was written before is there');
    // Who comes only now is told the same: the loss lies behind its place.
    const late = await here.listen(second, place);
    await late.event('the same', (e) => e.kind === 'gap' || e.kind === 'reset');
    assert.ok(told(late).includes(expected), `told ${told(late)}`);
    for (const s of [back, late]) s.close();
  });
}

for (const [what, slot, harm, expected] of [
  ['dropped, and rows written', 'temporary', drop, 'gap reconnect'],
  ['dropped, and nothing written', 'temporary', drop, 'gap reconnect'],
  ['altered', 'temporary', alter, 'gap publication'],
  ['dropped, and nothing written', 'permanent', drop, 'reset epoch'],
]) {
  test(`the publication is ${what}, under a gateway with a ${slot} slot: ${expected}, and events flow again`, async (t) => {
    const here = await watched(t);
    const gateway = await here.first(slot);
    const socket = await here.listen(gateway);
    here.insert(1);
    const place = (await row(socket, 1)).id;
    here.sql(harm);
    if (!what.endsWith('nothing written')) here.insert(2);
    await socket.event(expected, (e) => `${e.kind} ${e.payload.reason}` === expected, 40_000);
    await until('it is mended', () => here.sql('select postbus.feeds_fault() is null') === 't');
    await gateway.ready(40_000);
    here.insert(3);
    await row(socket, 3);
    assert.deepEqual(told(socket).filter((e) => Number(e)), [1, 3]);
    assert.deepEqual([...new Set(told(socket).slice(1, -1))], [expected]);
    const late = await here.listen(gateway, place);
    await late.event('the same', (e) => e.kind === 'gap' || e.kind === 'reset');
    here.insert(4);
    await row(late, 4);
    const first = expected.startsWith('gap') ? 3 : 4;  // a reset begins with what comes
    assert.deepEqual(before_(late, first), [expected], 'whoever comes back later is told the same');
    for (const s of [socket, late]) s.close();
  });
}

for (const slot of ['permanent', 'temporary']) {
  test(`the publication is dropped under two gateways with a ${slot} slot: both go on, with the same events at the same positions`, async (t) => {
    const here = await watched(t);
    const gateways = [await here.first(slot), await here.start(slot)];
    let id = 0;
    const epochs = async () => Promise.all(gateways.map(async (g) => (await g.status()).epoch));
    for (let round = 0; round < size(2, 20); ++round) {
      const sockets = await Promise.all(gateways.map((g) => here.listen(g)));
      const here_ = ++id, lost = ++id;
      here.insert(here_);
      await Promise.all(sockets.map((s) => row(s, here_)));
      here.sql(drop);
      here.insert(lost);
      await Promise.all(sockets.map((s) => s.event('a notice', (e) => e.kind === 'gap' || e.kind === 'reset', 60_000)));
      await Promise.all(gateways.map((g) => g.ready(60_000)));
      await until('both are in one epoch', async () => new Set(await epochs()).size === 1);
      const from = ++id;
      for (; id < from + 20; ++id) here.insert(id);
      await Promise.all(sockets.map((s) => row(s, id - 1)));
      const [one, other] = sockets.map((s) => s.events.slice(s.events.findIndex((e) => e.kind === 'insert' && e.payload.data.id === from)));
      assert.deepEqual(one.map((e) => e.payload.data?.id ?? e.kind), Array.from({ length: 20 }, (_, i) => from + i));
      assert.deepEqual(one, other, 'at the same positions');
      for (const s of sockets) s.close();
    }
    if (slot === 'temporary') return;
    // What was once poisoned is not held against the slot that took its place: it is taken over as it is.
    const [first, second] = (await gateways[0].status()).slot.permanent ? gateways : [...gateways].reverse();
    const socket = await here.listen(second);
    await first.stop('SIGKILL');
    here.insert(++id);
    await until('the other one has taken the slot over', async () => (await second.status()).slot.permanent, 60_000);
    here.insert(++id);
    await row(socket, id);
    assert.deepEqual(told(socket), [id - 1, id]);
    socket.close();
  });
}
