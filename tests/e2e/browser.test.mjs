// Browsers and their rules: the first article's three lines work; a page of another origin gets nowhere.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { launch, open } from './harness/browser.mjs';
import { run, until } from './harness/program.mjs';
import { setting, source, withOrders } from './harness/setting.mjs';

run(process.execPath, [fileURLToPath(source('web/build.mjs')), '--client']);
const here = setting({
  prepare: async (the) => {
    await withOrders(the);
    await the.sql("alter table orders replica identity full; insert into orders (customer, item, quantity, total) values ('Snap A', 'Stamp', 1, 1), ('Snap B', 'Stamp', 2, 1), ('Else', 'Stamp', 3, 1)");
  },
});
let browser, elsewhere;
before(async () => {
  browser = await launch();
  elsewhere = createServer((_request, answer) => answer.setHeader('Content-Type', 'text/html').end('<!doctype html><title>elsewhere</title>'));
  await new Promise((resolve) => elsewhere.listen(0, '127.0.0.1', resolve));
  elsewhere.url = `http://127.0.0.1:${elsewhere.address().port}/`;
});
after(async () => {
  await browser?.close();
  elsewhere?.close();
});

test("the article's three lines of browser code show a row as it commits", async () => {
  const page = await open(browser, here.gateway.url);
  await page.evaluate((url) => new Promise((resolve, reject) => {
    window.seen = [];
    const ws = new WebSocket(url);
    ws.onmessage = (e) => window.seen.push(JSON.parse(e.data));
    ws.onopen = resolve;
    ws.onerror = () => reject(new Error('refused'));
  }), `${here.gateway.ws}/v1/tables/orders?format=payload`);
  here.psql("insert into orders (customer, item, quantity, total) values ('Ann', 'Stamp', 2, 3.20)");
  await page.waitForFunction(() => window.seen.length > 0);
  const [change] = await page.evaluate(() => window.seen);
  assert.equal(change.table, 'orders');
  assert.equal(change.action, 'INSERT');
  assert.deepEqual({ customer: change.data.customer, total: change.data.total }, { customer: 'Ann', total: 3.2 });
  await page.context().close();
});

test('EventSource resumes by itself after its connection was cut', async () => {
  const page = await open(browser, here.gateway.url);
  await page.evaluate(() => new Promise((resolve) => {
    window.seen = [];
    window.source = new EventSource('/v1/channels/news');
    window.source.onmessage = (e) => window.seen.push(e.data);
    window.source.onopen = resolve;
  }));
  here.psql("select postbus.post('news', 'one')");
  await page.waitForFunction(() => window.seen.includes('one'));
  await page.context().setOffline(true);
  await page.context().setOffline(false);
  here.psql("select postbus.post('news', 'two')");
  await page.waitForFunction(() => window.seen.includes('two'));
  assert.deepEqual(await page.evaluate(() => window.seen), ['one', 'two']);
  await page.context().close();
});

test('the npm client shows a table: its rows, then every change, also over a cut connection', async () => {
  const page = await open(browser, 'about:blank');
  const client = readFileSync(fileURLToPath(source('web/client/dist/postbus.js')), 'utf8');
  await page.route('**/postbus.js', (route) => route.fulfill({ contentType: 'text/javascript', body: client }));
  await page.goto(here.gateway.url);
  await page.evaluate(async () => {
    const { connect } = await import('/postbus.js');
    const sockets = [];
    class Cuttable extends WebSocket { constructor(...how) { super(...how); sockets.push(this); } }
    window.cut = () => sockets.at(-1).close(4999);
    window.rows = new Map();
    window.kinds = [];
    window.bus = connect(location.origin, { WebSocket: Cuttable, backOff: { first: 20, longest: 200 } });
    window.bus.subscribe('table:public.orders', {
      snapshot: true,
      where: "customer like 'Snap%'",
      onEvent({ kind, payload }) {
        window.kinds.push(kind);
        if (kind === 'delete' || kind === 'leave') window.rows.delete(payload.data.id);
        else if (kind !== 'live') window.rows.set(payload.data.id, payload.data);
      },
      onReset: () => window.rows.clear(),
      onError: (error) => window.kinds.push(error.message),
    });
  });
  const shows = () => page.evaluate(() => [...window.rows.values()].map((r) => `${r.customer}|${r.quantity}`).sort());
  const holds = () => here.psql("select customer, quantity from orders where customer like 'Snap%' order by customer collate \"C\"").split('\n').filter(Boolean);
  const agree = (what) => until(what, async () => assert.deepEqual(await shows(), holds()) ?? true);
  await page.waitForFunction(() => window.kinds.some((k) => k === 'live' || k.includes(' ')));
  assert.deepEqual(await page.evaluate(() => window.kinds), ['row', 'row', 'live']);
  await agree('the rows');
  here.psql("insert into orders (customer, item, quantity, total) values ('Snap C', 'Stamp', 3, 1); update orders set quantity = 9 where customer = 'Snap A'; delete from orders where customer = 'Snap B'");
  await agree('the changes');
  await page.evaluate(() => window.cut());
  here.psql("insert into orders (customer, item, quantity, total) values ('Snap D', 'Stamp', 4, 1); update orders set customer = 'Other' where customer = 'Snap C'");
  await agree('what was missed');
  assert.deepEqual(await page.evaluate(() => window.kinds.filter((k) => k === 'row' || k === 'live')), ['row', 'row', 'live'], 'resumed, without the rows');
  assert.deepEqual(page.errors, []);
  await page.context().close();
});

// Each way in which a page of another origin can try. All of them must leave the channel silent.
const attempts = {
  'fetch GET /post': (url) => fetch(`${url}/post?channel=victim&payload=fetch`, { mode: 'no-cors' }).catch(() => {}),
  'fetch POST': (url) => fetch(`${url}/v1/channels/victim`, { method: 'POST', mode: 'no-cors', body: 'fetch-post' }).catch(() => {}),
  'an image': (url) => new Promise((resolve) => {
    const image = new Image();
    image.onload = image.onerror = resolve;
    image.src = `${url}/post?channel=victim&payload=image`;
  }),
  'a form in a frame': (url) => {
    const frame = document.body.appendChild(document.createElement('iframe'));
    frame.name = 'frame';
    const form = document.body.appendChild(document.createElement('form'));
    form.action = `${url}/v1/channels/victim`;
    form.method = 'post';
    form.target = 'frame';
    form.enctype = 'text/plain';
    form.submit();
  },
  'a beacon': (url) => navigator.sendBeacon(`${url}/v1/channels/victim`, 'beacon'),
};

const denied = async () => Number(/^postbus_http_denied_total ([0-9]+)$/m.exec((await here.gateway.get('/metrics')).body)[1]);

test('a page on another port posts nothing, whichever way it tries', async () => {
  const listener = await here.gateway.socket('/v1/channels/victim');
  const page = await open(browser, elsewhere.url);
  for (const [name, attempt] of Object.entries(attempts)) {
    const before = await denied();
    await page.evaluate(attempt, here.gateway.url);
    await until(`${name} is refused`, async () => (await denied()) > before);
    assert.deepEqual(listener.events, [], name);
  }
  // The control: what is ours passes, and after it nothing of the above has come.
  here.psql("select postbus.post('victim', 'control')");
  await listener.event('the control', (e) => e.payload === 'control');
  assert.deepEqual(listener.events.map((e) => e.payload), ['control']);
  await listener.close();
  await page.context().close();
});

test('a page on another port opens no WebSocket and no EventSource; the same code on our page does', async () => {
  const webSocket = (url) => new Promise((resolve) => {
    const ws = new WebSocket(`${url.replace('http', 'ws')}/v1/channels/victim`);
    ws.onopen = () => resolve('open');
    ws.onerror = () => resolve('refused');
  });
  const eventSource = (url) => new Promise((resolve) => {
    const source = new EventSource(`${url}/v1/channels/victim`);
    source.onopen = () => { source.close(); resolve('open'); };
    source.onerror = () => { source.close(); resolve('refused'); };
  });
  const reading = (url) => fetch(`${url}/v1/status`).then((answer) => (answer.ok ? 'open' : 'refused'), () => 'refused');
  for (const [from, wanted] of [[elsewhere.url, 'refused'], [here.gateway.url, 'open']]) {
    const page = await open(browser, from);
    for (const attempt of [webSocket, eventSource, reading]) assert.equal(await page.evaluate(attempt, here.gateway.url), wanted, `${attempt.name} from ${from}`);
    await page.context().close();
  }
});

test('a name that points at loopback (DNS rebinding) is refused on every method', async () => {
  for (const [method, path] of [['GET', '/'], ['GET', '/v1/status'], ['GET', '/post?channel=victim&payload=x'], ['POST', '/v1/channels/victim'], ['GET', '/wait?channel=victim']]) {
    const { status } = await here.gateway.request(method, path, { headers: { Host: 'rebound.example' }, ...(method === 'POST' ? { body: 'x' } : {}) });
    assert.equal(status, 403, `${method} ${path}`);
  }
  for (const headers of [{ Host: 'rebound.example' }, { Origin: 'http://evil.example' }, { 'Sec-Fetch-Site': 'cross-site' }]) {
    await assert.rejects(here.gateway.socket('/v1/ws', { headers }), { status: 403 });
    assert.equal((await here.gateway.get('/post?channel=victim&payload=x', { headers })).status, 403);
  }
  await until('the gateway still answers its own', async () => (await here.gateway.get('/v1/status')).status === 200);
});
