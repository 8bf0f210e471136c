// Tokens on every way in, and TLS.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import https from 'node:https';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { launch, open } from './harness/browser.mjs';
import { Cluster } from './harness/cluster.mjs';
import { binary, Gateway, Socket } from './harness/gateway.mjs';
import { Program, run, until, within } from './harness/program.mjs';
import { Raw } from './harness/raw.mjs';
import { size, soak, text } from './harness/setting.mjs';

const folder = mkdtempSync('/tmp/postbus-e2e-access-');
const here = {};
before(async () => {
  here.cluster = await Cluster.start();
  here.database = await here.cluster.database();
  here.url = here.cluster.url(here.database);
});
after(async () => {
  await here.cluster?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const digest = (secret) => createHash('sha256').update(secret).digest('hex');
const entry = (name, rest) => `[[token]]\nname = "${name}"\nsha256 = "${digest(`${name}-secret`)}"\n${rest}\n`;
const secret = (name) => ({ Authorization: `Bearer ${name}-secret` });

describe('tokens', () => {
  const file = join(folder, 'tokens.toml');
  const all = {
    admin: 'admin = true',
    shop: 'listen = ["orders", "chat:*", "table:public.*"]\npost = ["orders", "chat:*"]',
    reader: 'listen = ["orders"]',
    poster: 'post = ["orders"]',
  };
  const write = (tokens) => writeFileSync(file, Object.entries(tokens).map(([name, rest]) => entry(name, rest)).join('\n'), { mode: 0o600 });
  let gateway;
  before(async () => {
    write(all);
    gateway = await Gateway.start(here.url, ['--tokens', file]);
    await here.cluster.sql(here.database, text('examples/orders/orders.sql'));
  });
  after(() => gateway?.stop());
  const reload = async (tokens) => {
    write(tokens);
    gateway.program.child.kill('SIGHUP');
  };

  /** Every way in: each gives the status that `how` (headers and a query) gets. A WebSocket that opens counts as 101. */
  const upgrade = (path) => async ({ headers, query }) => {
    try {
      await (await gateway.socket(`${path}${path.includes('?') ? '&' : '?'}${query}`, { headers })).close();
      return 101;
    } catch (error) {
      if (error.status) return error.status;
      throw error;
    }
  };
  const plain = (method, path, extra = {}, body) => async ({ headers, query }) =>
    (await gateway.request(method, `${path}${path.includes('?') ? '&' : '?'}${query}`, { headers: { ...extra, ...headers }, body })).status;
  const stream = (path) => async ({ headers, query }) => {
    const opened = await gateway.stream(`${path}${path.includes('?') ? '&' : '?'}${query}`, headers);
    opened.close();
    return opened.status;
  };
  const ways = {
    'SSE of a channel': { try: stream('/v1/channels/orders'), needs: 'listen', ok: 200 },
    'WebSocket of a channel': { try: upgrade('/v1/channels/orders'), needs: 'listen', ok: 101 },
    'long poll of a channel': { try: plain('GET', '/v1/channels/orders?wait=0'), needs: 'listen', ok: 200 },
    'SSE of many channels': { try: stream('/v1/events?channel=orders'), needs: 'listen', ok: 200 },
    '/wait': { try: plain('GET', '/wait?channel=orders&timeout=10ms'), needs: 'listen', ok: 204 },
    'POST to a channel': { try: async (how) => (await gateway.request('POST', '/v1/channels/orders', { headers: how.headers, body: 'x' })).status, needs: 'post', ok: 202, headersOnly: true },
    'GET /post': { try: plain('GET', '/post?channel=orders&payload=x'), needs: 'post', ok: 200 },
    'POST /post': { try: plain('POST', '/post?channel=orders', {}, 'x'), needs: 'post', ok: 200 },
    '/metrics': { try: plain('GET', '/metrics'), needs: 'admin', ok: 200 },
    '/v1/status': { try: plain('GET', '/v1/status'), needs: 'admin', ok: 200 },
    'SSE of a table': { try: stream('/v1/tables/orders'), needs: 'table', ok: 200 },
    'WebSocket of a table': { try: upgrade('/v1/tables/orders'), needs: 'table', ok: 101 },
    'long poll of a table': { try: plain('GET', '/v1/tables/orders?wait=0'), needs: 'table', ok: 200 },
  };
  const holders = { listen: ['admin', 'shop', 'reader'], post: ['admin', 'shop', 'poster'], admin: ['admin'], table: ['admin', 'shop'] };

  for (const [name, way] of Object.entries(ways)) {
    test(`${name}: missing and wrong tokens get 401, others' 403, the right ones pass`, async () => {
      assert.equal(await way.try({ headers: {}, query: '' }), 401, 'missing');
      assert.equal(await way.try({ headers: { Authorization: 'Bearer wrong' }, query: '' }), 401, 'wrong');
      assert.equal(await way.try({ headers: { Authorization: 'Basic c2hvcDpzZWNyZXQ=' }, query: '' }), 401, 'another scheme');
      for (const holder of Object.keys(all)) {
        const wanted = holders[way.needs].includes(holder) ? way.ok : 403;
        assert.equal(await way.try({ headers: secret(holder), query: '' }), wanted, `${holder} by header`);
        if (!way.headersOnly) assert.equal(await way.try({ headers: {}, query: `access_token=${holder}-secret` }), wanted, `${holder} by query`);
      }
    });
  }

  test('/v1/ws: no token is refused at the door, each operation is checked', async () => {
    await assert.rejects(gateway.socket('/v1/ws'), { status: 401 });
    const socket = await gateway.socket('/v1/ws?access_token=reader-secret', { protocols: ['postbus.v1'] });
    socket.send({ id: 1, op: 'subscribe', channel: 'orders' });
    socket.send({ id: 2, op: 'subscribe', channel: 'table:public.orders' });
    socket.send({ id: 3, op: 'post', channel: 'orders', payload: 'x' });
    const reply = (id) => socket.event(`reply ${id}`, (f) => f.id === id && (f.ok || f.error));
    assert.ok((await reply(1)).ok.position);
    assert.equal((await reply(2)).error.status, 403);
    assert.equal((await reply(3)).error.status, 403);
    await socket.close();
  });

  test('whom a feed is closed to cannot tell whether there is one', async () => {
    const answer = async (path, table) => {
      const { status, body } = await gateway.get(path + table, { headers: secret('reader') });
      return [status, body.replaceAll(table, '*')];
    };
    for (const path of ['/v1/tables/', '/v1/tables/public.', '/v1/channels/table:', '/v1/channels/table:public.'])
      assert.deepEqual(await answer(path, 'orders'), await answer(path, 'nowhere'), path);
    assert.equal((await answer('/v1/tables/', 'nowhere'))[0], 403);
    const stranger = async (table) => (await gateway.get(`/v1/tables/${table}`)).status;
    assert.deepEqual([await stranger('orders'), await stranger('nowhere')], [401, 401]);
  });

  test('a pattern matches within one segment', async () => {
    const may = async (channel) => (await gateway.get(`/v1/channels/${encodeURIComponent(channel)}?wait=0`, { headers: secret('shop') })).status;
    assert.deepEqual([await may('chat:room'), await may('chat:room:private'), await may('chat'), await may('orders2')], [200, 403, 403, 403]);
  });

  test('the page and the probes need no token; no answer and no log line shows one', async () => {
    for (const path of ['/', '/app.js', '/style.css', '/health/live', '/health/ready']) assert.equal((await gateway.get(path)).status, 200, path);
    await gateway.get('/v1/channels/nothing?access_token=reader-secret&wait=0');
    await gateway.get('/v1/channels/nothing?access_token=a-wrong-secret&wait=0');
    assert.ok(!gateway.program.lines.some((line) => line.includes('-secret')));
  });

  test('revoked: sessions close with 4401 at once; narrowed: with 4403; the others stay', async () => {
    const open = async (holder) => {
      const socket = await gateway.socket('/v1/ws', { headers: secret(holder) });
      socket.send({ id: 1, op: 'subscribe', channel: 'orders' });
      await socket.event('confirmed', (f) => f.id === 1 && f.ok);
      return socket;
    };
    const [shop, reader, admin] = [await open('shop'), await open('reader'), await open('admin')];
    const channel = await gateway.socket('/v1/channels/orders', { headers: secret('reader') });
    const sse = await gateway.stream('/v1/channels/orders', secret('reader'));
    const { reader: _gone, ...rest } = all;
    await reload({ ...rest, shop: 'listen = ["chat:*"]' });
    assert.equal((await reader.closed).code, 4401);
    assert.equal((await channel.closed).code, 4401);
    await until('the stream ended', () => sse.over);
    assert.equal((await shop.closed).code, 4403);
    admin.send({ id: 2, op: 'post', channel: 'orders', payload: 'still here' });
    await admin.event('still served', (f) => f.payload === 'still here');
    assert.equal((await gateway.get('/v1/channels/orders?wait=0', { headers: secret('reader') })).status, 401);
    assert.equal((await gateway.get('/v1/channels/orders?wait=0', { headers: secret('shop') })).status, 403);
    await admin.close();
    await reload(all);
    await until('the reader is back', async () => (await gateway.get('/v1/channels/orders?wait=0', { headers: secret('reader') })).status === 200);
  });

  test('revoked and narrowed on every way in: 401 and 403 from the next request on, and back again', async () => {
    const { shop: _gone, ...without } = all;
    const changes = {
      revoked: { tokens: without, wanted: () => 401 },
      narrowed: { tokens: { ...all, shop: 'listen = ["chat:*"]' }, wanted: () => 403 },
      'given back': { tokens: all, wanted: (way) => (holders[way.needs].includes('shop') ? way.ok : 403) },
    };
    const shop = { headers: secret('shop'), query: '' };
    for (const [what, { tokens, wanted }] of Object.entries(changes)) {
      await reload(tokens);
      await until(`${what}: read again`, async () => (await ways['long poll of a channel'].try(shop)) === wanted(ways['long poll of a channel']));
      for (const [name, way] of Object.entries(ways)) assert.equal(await way.try(shop), wanted(way), `${name}, ${what}`);
      // /v1/ws is open to every token; what it may do is asked at each operation.
      if (what === 'revoked') {
        await assert.rejects(gateway.socket('/v1/ws', { headers: shop.headers }), { status: 401 });
        continue;
      }
      const socket = await gateway.socket('/v1/ws', { headers: shop.headers });
      socket.send({ id: 1, op: 'subscribe', channel: 'orders' });
      socket.send({ id: 2, op: 'subscribe', channel: 'table:public.orders' });
      socket.send({ id: 3, op: 'post', channel: 'orders', payload: 'x' });
      for (const id of [1, 2, 3]) {
        const reply = await socket.event(`reply ${id}`, (f) => f.id === id && (f.ok || f.error));
        assert.equal(reply.error?.status, what === 'narrowed' ? 403 : undefined, `${id}, ${what}`);
      }
      await socket.close();
    }
  });

  test(`${size(8, 200)} open ways of listening end when their token is revoked or narrowed, and hear nothing after`, async () => {
    const path = '/v1/channels/orders';
    const opening = {
      'WebSocket of a channel': async () => { const s = await gateway.socket(path, { headers: secret('shop') }); return { ended: s.closed.then(({ code }) => code), heard: () => s.frames.length }; },
      'WebSocket of a table': async () => { const s = await gateway.socket('/v1/tables/orders', { headers: secret('shop') }); return { ended: s.closed.then(({ code }) => code), heard: () => s.frames.length }; },
      '/v1/ws': async () => {
        const s = await gateway.socket('/v1/ws', { headers: secret('shop') });
        s.send({ id: 1, op: 'subscribe', channel: 'orders' });
        await s.event('confirmed', (f) => f.ok);
        return { ended: s.closed.then(({ code }) => code), heard: () => s.frames.length - 1 };
      },
      ...Object.fromEntries([['SSE of a channel', path], ['SSE of many channels', '/v1/events?channel=orders'], ['SSE of a table', '/v1/tables/orders']].map(([name, at]) => [name, async () => {
        const s = await gateway.stream(at, secret('shop'));
        const ended = until(`${name} ends`, () => s.over).then(() => JSON.parse(s.events.at(-1).data));
        return { ended, heard: () => s.events.filter((e) => e.event !== 'problem').length };
      }])),
      ...Object.fromEntries([['long poll of a channel', `${path}?wait=60s`], ['/wait', '/wait?channel=orders&timeout=60s']].map(([name, at]) => [name, async () => {
        let over = false;
        const ended = gateway.get(at, { headers: secret('shop'), timeout: 90_000 }).then((answer) => { over = answer.status; return answer; }, () => { over = 'closed'; return undefined; });
        return { ended: within(`${name} ends`, ended), heard: () => (over === 200 ? 1 : 0) };
      }])),
    };
    const kinds = Object.entries(opening);
    const { reader: _r, shop: _s, ...without } = all;
    const listeners = async () => {
      const { channels } = JSON.parse((await gateway.get('/v1/status', { headers: secret('admin') })).body);
      return channels.filter((c) => ['orders', 'table:public.orders'].includes(c.name)).reduce((sum, c) => sum + c.listeners, 0);
    };
    for (const [what, tokens, code] of [['revoked', without, 4401], ['narrowed', { ...all, shop: 'listen = ["chat:*"]' }, 4403]]) {
      await until('none of before', async () => (await listeners()) === 0);
      const open = await Promise.all(Array.from({ length: size(8, 200) }, async (_, i) => ({ name: kinds[i % kinds.length][0], ...(await kinds[i % kinds.length][1]()) })));
      await until('all of them listen', async () => (await listeners()) === open.length);
      await reload(tokens);
      for (const { name, ended } of open) {
        const how = await ended;
        if (typeof how === 'number') assert.equal(how, code, `${name}, ${what}`);
        else if (typeof how === 'object') assert.ok([401, 403].includes(how.status), `${name}, ${what}: ${how.status} ${how.body ?? how.detail}`);
      }
      here.cluster.psql(here.database, "select postbus.post('orders', 'not for you'); insert into orders (customer, item, quantity, total) values ('Not', 'for you', 1, 1)");
      await until('none listens', async () => (await listeners()) === 0);
      for (const { name, heard } of open) assert.equal(heard(), 0, `${name}, ${what}`);
      await reload(all);
      await until('the shop is back', async () => (await gateway.get(`${path}?wait=0`, { headers: secret('shop') })).status === 200);
    }
  });

  test('a broken tokens file at SIGHUP keeps the old tokens and says what is wrong', async () => {
    const from = gateway.program.lines.length;
    writeFileSync(file, '[[token]]\nname = "x"\nsha256 = "short"\n', { mode: 0o600 });
    gateway.program.child.kill('SIGHUP');
    await gateway.program.line(/sha256/, { from });
    assert.equal((await gateway.get('/v1/channels/orders?wait=0', { headers: secret('reader') })).status, 200);
    write(all);
  });

  test('the page asks for a token and works with one', async () => {
    const browser = await launch();
    try {
      const page = await open(browser, gateway.url);
      await page.getByText('The gateway wants a token.').waitFor();
      await page.getByLabel('Token').fill('admin-secret');
      await page.getByRole('button', { name: 'Use it in this window' }).click();
      await page.locator('.pill.green').waitFor();
      await until('the page follows the table', async () =>
        JSON.parse((await gateway.get('/v1/status', { headers: secret('admin') })).body).channels.some((c) => c.name === 'table:public.orders' && c.listeners > 0));
      here.cluster.psql(here.database, "insert into orders (customer, item, quantity, total) values ('With Token', 'Key', 1, 1)");
      await page.locator('.rows tbody tr', { hasText: 'With Token' }).waitFor();
      assert.ok(!page.url().includes('secret'));
    } finally {
      await browser.close();
    }
  });
});

test('an address that is not loopback needs tokens, and TLS or a proxy', async () => {
  const file = join(folder, 'public.toml');
  writeFileSync(file, entry('admin', 'admin = true'), { mode: 0o600 });
  const refused = async (...args) => {
    const program = new Program(binary, ['serve', '--db', here.url, '--data', join(folder, 'public'), '--listen', '0.0.0.0:0', ...args]);
    const { code } = await program.ended;
    assert.notEqual(code, 0);
    return program.lines.join('\n');
  };
  assert.match(await refused(), /--tokens/);
  assert.match(await refused('--tokens', file), /--tls-cert|--behind-proxy/);
});

describe('TLS', () => {
  const certificate = join(folder, 'cert.pem'), key = join(folder, 'key.pem');
  let gateway;
  before(async () => {
    run('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=localhost',
      '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1', '-keyout', key, '-out', certificate], { stdio: 'pipe' });
    gateway = await Gateway.start(here.url, ['--tls-cert', certificate, '--tls-key', key], { scheme: 'https' });
    await until('ready', () => curl('/health/ready'));
  });
  after(() => gateway?.stop());
  const curl = (path, ...more) => run('curl', ['-sS', '--fail', '--cacert', certificate, '--max-time', '30', ...more, gateway.url + path]);
  const post = (payload) => run('curl', ['-sS', '--fail', '--cacert', certificate, '--data-binary', '@-', `${gateway.url}/v1/channels/secure`], { input: payload });

  test('curl posts and listens over https, TLS 1.3 and 1.2, no older', async () => {
    for (const version of ['--tlsv1.3', '--tls-max 1.2']) {
      const wait = new Program('curl', ['-sS', '--cacert', certificate, ...version.split(' '), `${gateway.url}/wait?channel=secure`]);
      await until('waiting', () => JSON.parse(curl('/v1/status')).channels.some((c) => c.name === 'secure' && c.listeners === 1));
      post(`over ${version}`);
      assert.deepEqual((await wait.ended).code, 0);
      assert.deepEqual(wait.lines, [`over ${version}`]);
    }
    assert.throws(() => curl('/health/live', '--tls-max', '1.1', '--ciphers', 'DEFAULT@SECLEVEL=0'));
  });

  test('WebSockets and streams work over TLS, and large events too', async () => {
    const ca = readFileSync(certificate);
    const socket = await Socket.open(`${gateway.ws}/v1/channels/secure`, { ca });
    // A TLS record holds 16 kB: what is left in the kernel after one of them must be read too.
    for (const bytes of [16_000, 17_000, 33_000, 40_000, 70_000]) {
      post('y'.repeat(bytes));
      await socket.event(`${bytes} bytes`, (e) => e.payload.length === bytes);
    }
    const large = 'x'.repeat(300_000);
    post(large);
    await socket.event('the large one', (e) => e.payload === large);
    await socket.close();
    const events = await new Promise((resolve, reject) => {
      https.get(`${gateway.url}/v1/channels/secure?after=beginning`, { ca, agent: false, headers: { Accept: 'text/event-stream' } }, (answer) => {
        let body = '';
        answer.on('data', (part) => {
          body += part;
          if (body.includes(large)) { resolve(body); answer.destroy(); }
        });
      }).once('error', reject);
    });
    assert.ok(events.includes('data: over --tlsv1.3'));
  });

  test('the browser shows the page over https with wss', async () => {
    const browser = await launch();
    try {
      const page = await open(browser, gateway.url, { ignoreHTTPSErrors: true });
      await page.locator('.pill.green').waitFor();
      assert.deepEqual(page.errors, []);
    } finally {
      await browser.close();
    }
  });

  test('plain HTTP on the TLS port and a handshake without end leave the others alone', async () => {
    const { connect } = await import('node:net');
    const plain = connect(gateway.port, '127.0.0.1');
    plain.on('error', () => {});
    plain.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await new Promise((resolve) => plain.once('close', resolve));
    const half = connect(gateway.port, '127.0.0.1');
    half.on('error', () => {});
    half.write(Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00]));
    assert.equal(curl('/health/live'), 'ok\n');
    half.destroy();
  });

  test('handshakes that never end are given up, at any pace', { skip: !soak && 'takes as long as a connection may be idle' }, async () => {
    const hello = Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00, ...Buffer.alloc(512, 1)]);
    const slow = await Promise.all(Array.from({ length: 500 }, () => Raw.open(gateway)));
    let sent = 0;
    const drip = setInterval(() => { for (const raw of slow) if (!raw.over) raw.send(hello.subarray(sent, sent + 1)); sent += 1; }, 250);
    try {
      for (let i = 0; i < 10; ++i) assert.equal(curl('/health/live'), 'ok\n');
      await until('all of them are closed', () => slow.every((raw) => raw.over), 100_000);
    } finally {
      clearInterval(drip);
    }
  });
});
