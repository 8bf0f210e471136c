// The page at /, in a real browser: what commits is seen in every open window.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, open } from './harness/browser.mjs';
import { until } from './harness/program.mjs';
import { setting, withOrders } from './harness/setting.mjs';

const here = setting({ prepare: withOrders });
let browser;
before(async () => { browser = await launch(); });
after(() => browser?.close());

const order = (page, customer) => page.locator('.rows tbody tr', { hasText: customer });
const live = (page) => page.locator('.pill.green', { hasText: 'live' }).waitFor();
/** The page has subscribed to the table once the gateway counts its listeners. */
const following = (listeners) => until(`${listeners} windows follow the table`, async () => {
  const { channels } = await here.gateway.status();
  return channels.some((c) => c.name === 'table:public.orders' && c.listeners >= listeners);
});

test('INSERT, UPDATE and DELETE appear in two open windows', async () => {
  const windows = await Promise.all([open(browser, here.gateway.url), open(browser, here.gateway.url)]);
  await Promise.all(windows.map(live));
  await following(2);

  here.psql("insert into orders (customer, item, quantity, total) values ('Kate Insert', 'Stamp', 3, 4.50)");
  for (const page of windows) {
    await order(page, 'Kate Insert').waitFor();
    assert.match(await order(page, 'Kate Insert').innerText(), /Stamp\s+3\s+4\.50?\s+new/);
  }
  here.psql("update orders set status = 'paid' where customer = 'Kate Insert'");
  for (const page of windows) await order(page, 'Kate Insert').filter({ hasText: 'paid' }).waitFor();
  here.psql("delete from orders where customer = 'Kate Insert'");
  for (const page of windows) {
    await order(page, 'Kate Insert').waitFor({ state: 'detached' });
    for (const action of ['INSERT', 'UPDATE', 'DELETE']) await page.locator('.log .action', { hasText: action }).first().waitFor();
    assert.deepEqual(page.errors, []);
  }
  await Promise.all(windows.map((page) => page.context().close()));
});

test('a rolled back change appears nowhere', async () => {
  const page = await open(browser, here.gateway.url);
  await live(page);
  await following(1);
  here.psql("begin; insert into orders (customer, item, quantity, total) values ('Never Was', 'Stamp', 1, 1); rollback");
  here.psql("insert into orders (customer, item, quantity, total) values ('Really Is', 'Stamp', 1, 1)");
  await order(page, 'Really Is').waitFor();
  assert.equal(await order(page, 'Never Was').count(), 0);
  await page.context().close();
});

test('the page posts and listens, and shows the channel', async () => {
  const page = await open(browser, here.gateway.url);
  await live(page);
  await page.getByLabel('channel', { exact: true }).fill('parlour');
  await page.getByRole('button', { name: 'Listen', exact: true }).click();
  await page.getByText('listening on parlour').waitFor();
  await until('the gateway knows the listener', async () => (await here.gateway.status()).channels.some((c) => c.name === 'parlour' && c.listeners === 1));
  await page.getByLabel('message', { exact: true }).fill('posted by the page');
  await page.getByRole('button', { name: 'Post', exact: true }).click();
  await page.locator('.heard li', { hasText: 'posted by the page' }).waitFor();
  here.psql("select postbus.post('parlour', 'posted by psql')");
  await page.locator('.heard li', { hasText: 'posted by psql' }).waitFor();
  here.psql("notify parlour, 'plain NOTIFY'");
  await page.locator('.heard li', { hasText: 'plain NOTIFY' }).waitFor();
  await page.locator('.channels th', { hasText: 'parlour' }).waitFor();
  assert.deepEqual(page.errors, []);
  await page.context().close();
});

test("of a table's channel the page shows how to write a row, and offers no post", async () => {
  const page = await open(browser, here.gateway.url);
  await live(page);
  await page.getByLabel('channel', { exact: true }).fill('table:public.orders');
  await page.getByRole('button', { name: 'Listen', exact: true }).click();
  await page.getByText('listening on table:public.orders').waitFor();
  await page.locator('.lines pre', { hasText: 'insert into public.orders' }).waitFor();
  assert.equal(await page.getByRole('button', { name: 'Post', exact: true }).count(), 0);
  assert.doesNotMatch(await page.locator('.lines').innerText(), /postbus\.post|notify|curl -d/);
  here.psql("insert into orders (customer, item, quantity, total) values ('Heard Here', 'Stamp', 1, 1)");
  await page.locator('.heard li', { hasText: 'Heard Here' }).waitFor();
  await page.getByLabel('channel', { exact: true }).fill('parlour');
  await page.getByRole('button', { name: 'Post', exact: true }).waitFor();
  assert.deepEqual(page.errors, []);
  await page.context().close();
});

test('the page needs nothing from elsewhere and runs under a strict policy', async () => {
  const { headers, body } = await here.gateway.get('/');
  assert.match(headers['content-security-policy'] ?? '', /default-src 'self'/);
  assert.doesNotMatch(headers['content-security-policy'], /unsafe/);
  assert.doesNotMatch(body, /https?:\/\/|<script>|style=/);
  const page = await open(browser, 'about:blank');
  const asked = new Set();
  page.on('request', (request) => asked.add(new URL(request.url()).origin));
  await page.goto(here.gateway.url);
  await live(page);
  assert.deepEqual([...asked], [here.gateway.url]);
  assert.deepEqual(page.errors, []);
  await page.context().close();
});

test('a gateway that goes away and comes back is come back to, and nothing is missing', async () => {
  const page = await open(browser, here.gateway.url);
  await live(page);
  await following(1);
  const { Gateway } = await import('./harness/gateway.mjs');
  const { port } = here.gateway;
  await here.gateway.stop('SIGKILL');
  await page.locator('.pill.amber').waitFor();
  here.psql("insert into orders (customer, item, quantity, total) values ('Meanwhile', 'Stamp', 1, 1)");
  here.gateway = await Gateway.start(here.url, [], { port });
  await live(page);
  await following(1);
  await order(page, 'Meanwhile').waitFor();
  assert.equal(await page.locator('.band.gap, .band.reset').count(), 0);
  here.psql("insert into orders (customer, item, quantity, total) values ('After Restart', 'Stamp', 1, 1)");
  await order(page, 'After Restart').waitFor();
  await page.context().close();
});
