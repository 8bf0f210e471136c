// Plain LISTEN and NOTIFY, both ways, with the clients people have: psql, Ruby's Sequel, node's pg, C with libpq.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Program, run, until } from './harness/program.mjs';
import { setting, source, text } from './harness/setting.mjs';

const here = setting({
  prepare: async ({ sql }) => {
    await sql(text('examples/orders/trigger.sql'));
    await sql('create table parcels (id int primary key, note text, body text)');
    await sql("select postbus.watch('parcels', notify => 'parcels_changed')");
  },
});

let folder;
before(() => {
  folder = mkdtempSync('/tmp/postbus-e2e-c-');
  run('clang-19', ['-Wall', '-Wextra', '-I', run('pg_config', ['--includedir']).trim(), fileURLToPath(source('examples/orders/listen.c')),
    '-o', join(folder, 'listen'), '-lpq']);
});
after(() => rmSync(folder, { recursive: true, force: true }));

/** The four clients, each listening on a channel: payload(pattern) waits for one that matches. */
const clients = {
  async psql(channel) {
    const program = new Program('psql', ['-X', '-At', here.url]);
    program.write(`listen ${channel};\nselect 'listening';\n`);
    await program.line(/^listening$/);
    return {
      // psql looks for notifications after each statement.
      payload: async (pattern) => {
        const found = await until(`psql shows ${pattern}`, () => {
          program.write("select 1 \\g /dev/null\n");
          return program.lines.map((l) => /^Asynchronous notification "[^"]*" with payload "(.*)" received/.exec(l)?.[1]).find((p) => p && pattern.test(p));
        });
        return found;
      },
      stop: () => { program.child.stdin.end(); return program.ended; },
    };
  },
  async sequel(channel) {
    const program = new Program('ruby', [fileURLToPath(source('examples/orders/listen.rb')), here.url, channel]);
    await program.line(/^listening$/);
    return { payload: async (pattern) => (await program.line(pattern)).input, stop: () => program.stop('SIGKILL') };
  },
  async pg(channel) {
    const program = new Program(process.execPath, [fileURLToPath(source('examples/orders/listen.js')), here.url, channel],
      { env: { ...process.env, NODE_PATH: fileURLToPath(new URL('node_modules', import.meta.url)) } });
    await program.line(/^listening$/);
    return { payload: async (pattern) => (await program.line(pattern)).input, stop: () => program.stop('SIGKILL') };
  },
  async c(channel) {
    const program = new Program(join(folder, 'listen'), [here.url, channel]);
    await program.line(/^listening$/);
    return { payload: async (pattern) => (await program.line(pattern)).input, stop: () => program.stop('SIGKILL') };
  },
};

test("the article's hand-written trigger reaches /v1/channels/events", async () => {
  const [events, stream] = [await here.gateway.socket('/v1/channels/events'), await here.gateway.stream('/v1/channels/events')];
  here.psql("insert into products (name, quantity) values ('pen', 10200); update products set quantity = 5; delete from products");
  const wanted = ['INSERT', 'UPDATE', 'DELETE'];
  await until('three events', () => events.events.length >= 3 && stream.events.length >= 3);
  const payloads = events.events.map((e) => JSON.parse(e.payload));
  assert.deepEqual(payloads.map((p) => p.action), wanted);
  assert.deepEqual(payloads[0], { table: 'products', action: 'INSERT', data: { id: 1, name: 'pen', quantity: 10200 } });
  assert.deepEqual(stream.events.map((e) => JSON.parse(e.data).action), wanted);
  assert.ok(events.events.every((e) => e.kind === 'message' && e.channel === 'events'));
  stream.close();
  await events.close();
});

for (const [name, start] of Object.entries(clients)) {
  test(`watch(…, notify => …) reaches ${name}`, async () => {
    const client = await start('parcels_changed');
    try {
      const id = 100 + Object.keys(clients).indexOf(name);
      here.psql(`insert into parcels values (${id}, 'for ${name}', 'x'); update parcels set note = 'moved' where id = ${id}; delete from parcels where id = ${id}`);
      const insert = await client.payload(new RegExp(`INSERT.*for ${name}`));
      assert.deepEqual(JSON.parse(insert), { table: 'parcels', action: 'INSERT', data: { id, note: `for ${name}`, body: 'x' } });
      assert.deepEqual(JSON.parse(await client.payload(new RegExp(`UPDATE.*"id": ?${id}\\b`))).data.note, 'moved');
      assert.equal(JSON.parse(await client.payload(new RegExp(`DELETE.*"id": ?${id}\\b`))).data.id, id);
    } finally {
      await client.stop();
    }
  });
}

test('a row too large for NOTIFY arrives as its key, marked and with its position', async () => {
  const client = await clients.pg('parcels_changed');
  try {
    here.psql("insert into parcels values (900, 'large', repeat('x', 9000))");
    const payload = JSON.parse(await client.payload(/truncated/));
    assert.match(payload.position, /^[0-9a-f]{8}-[0-9a-f]{16}-[0-9a-f]{8}$/);
    assert.deepEqual({ ...payload, position: '' }, { table: 'parcels', action: 'INSERT', data: { id: 900 }, truncated: true, position: '' });
  } finally {
    await client.stop();
  }
});

test('NOTIFY from psql, pg, Sequel and C reaches a gateway listener', async () => {
  const listener = await here.gateway.socket('/v1/channels/workA');
  here.psql(`notify "workA", 'from psql'`);
  await here.sql("select pg_notify('workA', 'from pg')");
  run('ruby', ['-e', "require 'sequel'; Sequel.connect(ARGV[0].sub('postgresql', 'postgres')).notify('workA', payload: 'from Sequel')", here.url]);
  for (const from of ['psql', 'pg', 'Sequel']) await listener.event(from, (e) => e.payload === `from ${from}`);
  // LISTEN folds an unquoted name, and so does NOTIFY: that is another channel.
  here.psql("notify workA, 'folded'; notify \"workA\", 'quoted'");
  await listener.event('quoted', (e) => e.payload === 'quoted');
  assert.ok(!listener.events.some((e) => e.payload === 'folded'));
  await listener.close();
});

test('the gateway LISTENs on a channel only while somebody wants it', async () => {
  const listening = () => here.gateway.status().then((s) => s.listening);
  const before = await listening();
  const listener = await here.gateway.socket('/v1/channels/fleeting');
  await until('one LISTEN more', async () => (await listening()) === before + 1);
  await listener.close();
  await until('and gone again', async () => (await listening()) <= before);
});
