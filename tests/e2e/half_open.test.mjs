// Sessions with the database that are half open: nothing comes any more and nobody says so. The gateway must notice within
// about ten seconds (docs/guarantees.md), say that it is not ready, and heal: what was committed meanwhile comes, and what was
// notified meanwhile is told as a gap.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Cluster } from './harness/cluster.mjs';
import { Gateway } from './harness/gateway.mjs';
import { Namespace } from './harness/namespace.mjs';
import { until } from './harness/program.mjs';
import { Relay } from './harness/relay.mjs';

/** Two seconds of silence, six to answer, and the machine's own slowness. */
const noticed_ms = 13_000;

/** One listener by each way; `told(reason)` once all of them know of a gap. */
async function listen(gateway, channel) {
  const socket = await gateway.socket(`/v1/channels/${channel}`), stream = await gateway.stream(`/v1/channels/${channel}`);
  const both = await gateway.socket('/v1/ws');
  both.send({ id: 1, op: 'subscribe', channel });
  await both.event('confirmed', (f) => f.ok);
  return {
    told: async (reason) => {
      for (const way of [socket, both]) await way.event(`a gap (${reason})`, (e) => e.kind === 'gap' && e.payload.reason === reason);
      await stream.event(`a gap (${reason})`, (e) => e.event === 'gap' && JSON.parse(e.data).reason === reason);
    },
    hear: async (payload) => {
      for (const way of [socket, both]) await way.event(payload, (e) => e.payload === payload);
      await stream.event(payload, (e) => e.data === payload);
    },
    gaps: () => socket.events.filter((e) => e.kind === 'gap').map((e) => e.payload.reason),
    close: async () => {
      stream.close();
      await Promise.all([socket.close(), both.close()]);
    },
  };
}

/** Milliseconds from now until the gateway says that it is not ready; it lives meanwhile. */
async function notices(gateway) {
  const from = Date.now();
  await until('the gateway has noticed', async () => (await gateway.get('/health/ready')).status === 503, noticed_ms);
  const after_ms = Date.now() - from;
  assert.equal((await gateway.get('/health/live')).status, 200);
  assert.notEqual((await gateway.status()).problem, '');
  return after_ms;
}

describe('a relay that goes silent', () => {
  const here = {};
  before(async () => {
    here.cluster = await Cluster.start();
    here.database = await here.cluster.database();
    here.relay = await Relay.start(here.cluster.port);
    here.gateway = await Gateway.start(`postgresql://postgres@127.0.0.1:${here.relay.port}/${here.database}?sslmode=disable`);
    here.psql = (text) => here.cluster.psql(here.database, text);
  });
  after(async () => {
    await here.gateway?.stop();
    await here.relay?.stop();
    await here.cluster?.stop();
  });

  // Each session on its own, so that neither can hide behind what the other notices.
  const sessions = {
    'postbus reader': { post: (text) => here.psql(`select postbus.post('silent', '${text}')`) },
    'postbus listener': { gap: 'notify', post: (text) => here.psql(`select pg_notify('silent', '${text}')`) },
  };
  for (const [name, { gap, post }] of Object.entries(sessions)) {
    test(`the session of ${name} is noticed and made anew`, async (t) => {
      const all = await listen(here.gateway, 'silent');
      post('before');
      await all.hear('before');
      const { reconnects } = await here.gateway.status();
      assert.equal(here.relay.freeze(name), 1);
      const took = await notices(here.gateway);
      t.diagnostic(`noticed after ${took} ms`);
      assert.ok(took > 1000, 'not because something else broke');
      post('in the dark');
      await here.gateway.ready();
      if (gap) await all.told(gap);
      else await all.hear('in the dark');
      assert.deepEqual(all.gaps(), gap ? [gap] : [], 'the other session was not touched');
      assert.ok(here.relay.sessions().includes(name));
      post(`after ${name}`);
      await all.hear(`after ${name}`);
      if (!gap) assert.ok((await here.gateway.status()).reconnects > reconnects);
      assert.equal((await here.gateway.post('silent', 'by the gateway')).status, 202);
      await all.hear('by the gateway');
      await all.close();
    });
  }

  test('a post whose session is silent fails within its deadline, and the next one passes', async () => {
    assert.equal((await here.gateway.post('silent', 'warm')).status, 202);
    const names = [...new Set(here.relay.sessions())].filter((name) => !(name in sessions) && name !== 'postbus attendant' && name !== 'postbus mirror');
    assert.ok(names.reduce((sum, name) => sum + here.relay.freeze(name), 0) > 0, here.relay.sessions().join());
    const answer = await here.gateway.post('silent', 'into the dark');
    assert.ok([503, 504].includes(answer.status), `${answer.status} ${answer.body}`);
    await until('posts pass again', async () => (await here.gateway.post('silent', 'light')).status === 202);
    assert.equal((await here.gateway.get('/health/ready')).status, 200);
  });
});

describe('a cable that is cut', { skip: Namespace.obstacle() }, () => {
  const here = {};
  before(async () => {
    here.namespace = Namespace.make();
    here.cluster = await Cluster.start({}, { namespace: here.namespace });
    here.database = await here.cluster.database();
    here.gateway = await Gateway.start(here.cluster.url(here.database));
    here.psql = (text) => here.cluster.psql(here.database, text);
  });
  after(async () => {
    await here.gateway?.stop();
    await here.cluster?.stop();
    here.namespace?.remove();
  });

  for (const round of [1, 2]) {
    test(`round ${round}: every session at once is noticed, and all heals when the cable is back`, async (t) => {
      const all = await listen(here.gateway, 'cable');
      here.psql(`select postbus.post('cable', 'before ${round}')`);
      await all.hear(`before ${round}`);
      here.namespace.cut();
      const took = await notices(here.gateway);
      t.diagnostic(`noticed after ${took} ms`);
      assert.ok(took > 1000, 'the cut was silent');
      // The server lives, and others go on committing: what they post comes later, what they notify is lost.
      here.psql("select postbus.post('cable', 'in the dark'), pg_notify('cable', 'in the dark too')");
      assert.ok([503, 504].includes((await here.gateway.post('cable', 'nobody takes it')).status));
      here.namespace.mend();
      await here.gateway.ready(30_000);
      await Promise.all([all.hear('in the dark'), all.told('notify')]);
      assert.deepEqual([...new Set(all.gaps())], ['notify']);
      here.psql(`select postbus.post('cable', 'after ${round}'), pg_notify('cable', 'notified after ${round}')`);
      await all.hear(`after ${round}`);
      await all.hear(`notified after ${round}`);
      await until('the gateway posts', async () => (await here.gateway.post('cable', `posted after ${round}`)).status === 202);
      await all.hear(`posted after ${round}`);
      // The session that was cut off is gone at the server as well: the slot is read by the new one.
      await until('one slot', () => here.psql("select count(*) from pg_replication_slots where slot_name like 'postbus%'") === '1', 30_000);
      await all.close();
    });
  }
});
