// What most test files share: one cluster and one gateway for the file, with a watched table of orders.
import { after, before } from 'node:test';
import { readFileSync } from 'node:fs';
import { Cluster } from './cluster.mjs';
import { Gateway } from './gateway.mjs';

export const source = (path) => new URL(`../../../${path}`, import.meta.url);
export const text = (path) => readFileSync(source(path), 'utf8');

/** True in `./dev soak`: full sizes. */
export const soak = Boolean(process.env.POSTBUS_SOAK);
export const size = (small, full) => (soak ? full : small);

/** Starts a cluster and a gateway before the file's tests and stops them after. */
export function setting({ args = [], settings = {}, prepare = async () => {} } = {}) {
  const here = {
    sql: (statements, values) => here.cluster.sql(here.database, statements, values),
    psql: (statements, ...more) => here.cluster.psql(here.database, statements, ...more),
  };
  before(async () => {
    here.cluster = await Cluster.start(settings);
    here.database = await here.cluster.database();
    here.url = here.cluster.url(here.database);
    here.gateway = await Gateway.start(here.url, args);
    await prepare(here);
  });
  after(async () => {
    await here.gateway?.stop();
    await here.cluster?.stop();
  });
  return here;
}

/** Creates the orders example's table and watches it. */
export const withOrders = async (here) => {
  await here.sql(text('examples/orders/orders.sql'));
};
