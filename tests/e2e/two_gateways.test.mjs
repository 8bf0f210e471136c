// Two gateways on one database: the same events at the same positions; a client moves from one to the other; when the one that holds
// the permanent slot dies, the other takes it over and nobody notices.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Gateway } from './harness/gateway.mjs';
import { until } from './harness/program.mjs';
import { setting } from './harness/setting.mjs';

const here = setting();
const post = (payload) => here.psql(`select postbus.post('both', '${payload}')`);
const events = (socket) => socket.frames.map((frame) => JSON.parse(frame));
const payloads = (socket) => events(socket).map((event) => event.payload ?? event.kind);

test('the second takes over what the first one leaves, and clients move between them', async (t) => {
  const second = await Gateway.start(here.url);
  t.after(() => second.stop());
  const one = await here.gateway.socket('/v1/channels/both');
  const other = await second.socket('/v1/channels/both');
  post('both are there');
  await until('both have it', () => one.frames.length === 1 && other.frames.length === 1);
  assert.deepEqual(events(one), events(other), 'at the same position');
  assert.equal((await here.gateway.status()).slot.permanent, true);
  assert.equal((await second.status()).slot.permanent, false);

  await here.gateway.stop('SIGKILL');
  post('the first one is dead');
  const place = events(one)[0].id;
  const moved = await second.socket(`/v1/channels/both?after=${place}`);
  await until('whoever moves has it', () => moved.frames.length === 1);
  await until('the second one has taken the slot over', async () => (await second.status()).slot.permanent, 60_000);
  post('the second one reads alone');
  await until('all have it', () => moved.frames.length === 2 && other.frames.length === 3);
  assert.deepEqual(payloads(other), ['both are there', 'the first one is dead', 'the second one reads alone']);

  here.gateway = await Gateway.start(here.url);
  const back = await here.gateway.socket(`/v1/channels/both?after=${place}`);
  await until('whoever moves back has it', () => back.frames.length === 2);
  assert.deepEqual(events(back), events(moved), 'as if it had never been away');
  for (const socket of [other, moved, back]) socket.close();
});
