// The wall clocks of gateway and database jump by hours, forward and back, under load. Order and positions come from the WAL
// and every wait goes by the steady clock: nothing is lost, told twice or out of order, and nothing hangs or ends early. The
// age of a stream's messages is the database's wall clock's business, as documented.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Cluster } from './harness/cluster.mjs';
import { Gateway } from './harness/gateway.mjs';
import { committed, Listener, Writer } from './harness/load.mjs';
import { until } from './harness/program.mjs';
import { random, seed } from './harness/random.mjs';
import { size } from './harness/setting.mjs';
import { WallClock } from './harness/wall_clock.mjs';

const chance = random();
const channel = 'clock:'.padEnd(70, 'x');  // too long for plain NOTIFY
const make = (client, message) => client.query("select postbus.post($1, $2::text), postbus.post('kept', $2::text)", [channel, message]);
const texts = (events) => events.map((e) => e.payload).filter((p) => typeof p === 'string' && p.includes(':'));

describe('wall clocks that jump', () => {
  const here = {};
  const psql = (text) => here.cluster.psql(here.database, text);
  before(async () => {
    console.log(`POSTBUS_SEED=${seed}`);
    here.clocks = { gateway: new WallClock(), database: new WallClock() };
    here.cluster = await Cluster.start({ max_slot_wal_keep_size: '4GB' }, { env: here.clocks.database.env });
    here.database = await here.cluster.database();
    here.begin = (options) => Gateway.start(here.cluster.url(here.database), ['--slot', 'permanent', '--resume-window', '1h'], { env: here.clocks.gateway.env, ...options });
    here.gateway = await here.begin();
    psql("select postbus.create_stream('kept')");
  });
  after(async () => {
    await here.gateway?.stop();
    await here.cluster?.stop();
    for (const clock of Object.values(here.clocks ?? {})) clock.remove();
  });

  test('nothing is lost, nothing comes twice, nothing hangs', async (t) => {
    const gateway = () => here.gateway;
    const messages = new Listener(`/v1/channels/${channel}`, { gateway }), kept = new Listener('/v1/channels/kept', { gateway });
    const notes = await here.gateway.socket('/v1/channels/notes');
    const listening = [messages.run(), kept.run()];
    await until('both listen', () => messages.listens && kept.listens);
    const writers = Array.from({ length: 3 }, (_, i) => Object.assign(new Writer(i, { url: () => here.cluster.url(here.database), make, chance }), { rest: 5 }));
    const writing = writers.map((w) => w.run());
    const plan = [['gateway', 6], ['database', 6], ['gateway', -6], ['database', -6], ['database', 0], ['gateway', 0]];
    for (let round = plan.length; round < size(0, 100); ++round) plan.push([chance() < 0.5 ? 'gateway' : 'database', Math.round(chance() * 48 - 24)]);
    for (const [round, [whose, hours]] of plan.entries()) {
      // Waits that are under way when the clock jumps end neither at once nor late.
      const wait = here.gateway.get(`/wait?channel=nobody&timeout=2s`), poll = here.gateway.get('/v1/channels/nobody2?wait=2s');
      const began = performance.now();
      here.clocks[whose].set(hours);
      const heard = messages.events.length;
      await until(`messages come (${whose} ${hours} h)`, () => messages.events.length > heard + 30);
      await here.gateway.ready();
      assert.equal((await wait).status, 204);
      assert.ok(performance.now() - began > 1500, 'a wait ends when its time is up');
      assert.deepEqual(JSON.parse((await poll).body).events, []);
      psql(`notify notes, 'note ${round}'`);
      psql(`select postbus.post('${channel}', 'mark ${round}')`);
      const note = await notes.event('the note', (e) => e.payload === `note ${round}`);
      await until('the mark', () => messages.events.some((e) => e.payload === `mark ${round}`));
      const mark = messages.events.find((e) => e.payload === `mark ${round}`);
      assert.ok(Math.abs(WallClock.ahead(note) - here.clocks.gateway.hours) < 0.1, 'the gateway took the jump');
      assert.ok(Math.abs(WallClock.ahead(mark) - here.clocks.database.hours) < 0.1, 'the database took the jump');
      assert.equal((await here.gateway.post(channel, 'by the gateway')).status, 202);
    }
    // A restarted gateway gives the whole window again, whatever either clock says.
    here.clocks.gateway.set(-12);
    await here.gateway.stop('SIGKILL');
    here.gateway = await here.begin({ port: here.gateway.port });
    const first = await here.gateway.socket(`/v1/channels/${channel}?after=${messages.events[0].id}`);
    for (const w of writers) w.over = true;
    await Promise.all(writing);
    psql(`select postbus.post('${channel}', 'end'), postbus.post('kept', 'end')`);
    for (const one of [messages, kept, first]) await until('the end', () => one.events.some((e) => e.payload === 'end'));
    const all = await here.gateway.socket('/v1/channels/kept?after=beginning');
    await all.event('the end', (e) => e.payload === 'end');

    const sure = [...new Set(committed(writers))].sort(), undone = new Set(writers.flatMap((w) => [...w.undone]));
    assert.deepEqual([...messages.notices, ...kept.notices.filter((e) => e.payload.reason !== 'notify')], []);
    for (const events of [messages.events, kept.events, all.events.filter((e) => e.kind === 'message')]) {
      assert.deepEqual(texts(events).sort(), sure, 'every committed message once');
      assert.ok(events.every((e, i) => i === 0 || events[i - 1].id < e.id), 'in order');
      assert.ok(texts(events).every((m) => !undone.has(m)));
    }
    assert.deepEqual(first.events.map((e) => e.payload), messages.events.slice(1).map((e) => e.payload), 'the window is whole');
    t.diagnostic(`${plan.length} jumps, ${sure.length} messages, ${(await here.gateway.status()).reconnects} reconnects since the restart`);
    messages.stop();
    kept.stop();
    await Promise.all([...listening, notes.close(), first.close(), all.close()]);
  });

  test('a stream keeps its messages by the age that the database\'s clock gives them', async () => {
    for (const clock of Object.values(here.clocks)) clock.set(0);
    psql("select postbus.create_stream('hours', keep => '4 hours'), postbus.create_stream('days', keep => '7 days')");
    const live = await here.gateway.socket('/v1/channels/hours');
    const post = (text) => psql(`select postbus.post('hours', '${text}'), postbus.post('days', '${text}')`);
    const kept = (name) => psql(`select count from postbus.streams where channel = '${name}'`);
    post('old');
    await live.event('old', (e) => e.payload === 'old');
    await until('written down', () => kept('hours') === '1' && kept('days') === '1');
    // The gateway's clock has no say.
    here.clocks.gateway.set(24);
    psql('select postbus.maintain_streams()');
    assert.equal(kept('hours'), '1');
    here.clocks.gateway.set(0);
    // Back: nothing is too old. Forward by less than it is kept: nothing is dropped, by more: what is past its age, and that is told.
    for (const hours of [-24, 3]) {
      here.clocks.database.set(hours);
      psql('select postbus.maintain_streams()');
      assert.equal(kept('hours'), '1', `${hours} hours`);
    }
    here.clocks.database.set(24);
    await until('the old segment is dropped', () => {
      psql('select postbus.maintain_streams()');
      return kept('hours') === '0';
    });
    assert.equal(kept('days'), '1');
    post('new');
    await live.event('new', (e) => e.payload === 'new');
    const late = await here.gateway.socket('/v1/channels/days?after=beginning');
    await late.event('new', (e) => e.payload === 'new');
    assert.deepEqual(late.events.map((e) => e.payload), ['old', 'new']);
    await Promise.all([live.close(), late.close()]);
  });
});
