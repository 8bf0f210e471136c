// What a feed costs the writers of its table: single-row inserts from eight sessions.
import { cluster, gateway } from './cluster.mjs';

const marker = `@T${'1'.padStart(19, '0')}`;
const tables = `
create table plain_orders (id serial primary key, email text, total bigint);
create table watched_orders (id serial primary key, email text, total bigint);
create table trigger_orders (id serial primary key, email text, total bigint);
create function notify_event() returns trigger as $$
declare
  data json;
begin
  if tg_op = 'DELETE' then data = row_to_json(old); else data = row_to_json(new); end if;
  perform pg_notify('events', json_build_object('table', tg_table_name, 'action', tg_op, 'data', data)::text);
  return null;
end;
$$ language plpgsql;
create trigger notify_order_event after insert or update or delete on trigger_orders for each row execute procedure notify_event();
`; // the hand-written trigger that many start with (examples/orders): one NOTIFY per row, in the writer's own transaction
const insert = (table) => `insert into ${table} (email, total) values ('${marker}@example.com', 1000);\n`;

export const writers = {
  name: 'writers',
  about: 'single-row inserts into a watched table, an unwatched one and one with a NOTIFY trigger',
  async run(bench, paths) {
    const database = await cluster.shared(paths);
    const front = await gateway.start(database);
    await database.sql(tables);
    await database.sql(`select postbus.watch('watched_orders')`);
    const feed = front.listeners('websocket', '/v1/tables/watched_orders');
    const events = front.listeners('websocket', '/v1/channels/events?format=payload');
    await feed.ask('connect 1');
    await events.ask('connect 1');
    const heard_by = { watched_orders: feed, trigger_orders: events };
    const seconds = bench.quick ? 1 : 3;
    const results = await bench.alternate('writers', ['watched_orders', 'plain_orders', 'trigger_orders'], (table) =>
      bench.quietly(table, async () => {
        const [ran, heard] = await Promise.all([database.pgbench(insert(table), { clients: 8, seconds }), heard_by[table]?.ask(`idle ${seconds + 1}`)]);
        if (heard && heard.deliveries !== ran.transactions) bench.note(`${table}: ${ran.transactions} rows, ${heard.deliveries} changes had arrived one second later`);
        return ran;
      }),
    );
    const row = (rival, rival_name, name, target) =>
      bench.row({
        name, unit: 'rows/s', ours: results.watched_orders.map((one) => one.per_second), rival: results[rival].map((one) => one.per_second), rival_name, target,
        command: './dev bench writers', noisy: [...results.watched_orders, ...results[rival]].some((one) => one.noisy),
      });
    row('plain_orders', 'unwatched', 'inserts into a watched table, 8 clients', { at_least: 0.8 });
    row('trigger_orders', 'NOTIFY trigger', 'inserts into a watched table, 8 clients');
    await feed.stop();
    await events.stop();
    for (const line of await front.stop()) bench.note(`the gateway said: ${line}`);
  },
};
