// Ten thousand `/wait` requests on as many channels: what they cost PostgreSQL and those who post.
import { cluster, gateway } from './cluster.mjs';
import { sleep } from './machine.mjs';

const many = 10_000;
const path = '/wait?channel=place-{}&loop=true';
const script = `\\set place random(0, ${many - 1})
select postbus.post('place-' || :place, '@T${'1'.padStart(19, '0')}');
`;

/** Every channel has its waiter once a message to the last one comes through. */
async function in_place(front, load, count) {
  const limit = performance.now() + 30_000;
  for (;;) {
    await front.get(`/post?channel=place-${count - 1}&payload=@T${'1'.padStart(19, '0')}`);
    const heard = await load.ask('idle 0.3');
    if (heard.deliveries > 0) return;
    if (performance.now() > limit) throw new Error('no waiter of the last channel has heard anything in 30 s');
  }
}

/** PostgreSQL does not tell what another session listens to; the gateway's sessions bear names. */
async function sessions_of(database, name) {
  return Number(await database.sql(`select count(*) from pg_stat_activity where datname = 'bench' and application_name ${name}`));
}

export const waiters = {
  name: 'waiters',
  about: 'the rate of posts while 10,000 clients wait on 10,000 channels, beside one waiter',
  async run(bench, paths) {
    const database = await cluster.shared(paths);
    const front = await gateway.start(database);
    const seconds = bench.quick ? 1 : 4;
    const sessions = [];
    const all_sessions = [];
    const results = await bench.alternate('waiters', ['many', 'one'], async (arm) => {
      const count = arm === 'many' ? many : 1;
      const load = front.listeners('wait', path);
      await load.ask(`connect ${count}`);
      await in_place(front, load, count);
      if (arm === 'many') {
        sessions.push(await sessions_of(database, `= 'postbus listener'`));
        all_sessions.push(await sessions_of(database, `like 'postbus%'`));
      }
      const result = await bench.quietly(`${arm}`, async () => {
        const [ran, heard] = await Promise.all([database.pgbench(script, { clients: 8, seconds }), load.ask(`idle ${seconds + 1}`)]);
        if (arm === 'many' && heard.deliveries !== ran.transactions) bench.note(`10,000 waiters: ${ran.transactions} posts, ${heard.deliveries} had arrived one second later`);
        return ran;
      });
      await load.stop();
      await sleep(0.5);
      return result;
    }, bench.fewer_rounds);
    const rates = (arm) => results[arm].map((one) => one.per_second);
    bench.row({
      name: 'posts while 10,000 wait on 10,000 channels', unit: 'transactions/s', ours: rates('many'), rival: rates('one'), rival_name: 'one waiter', target: { at_least: 0.9 },
      command: './dev bench waiters', noisy: [...results.many, ...results.one].some((one) => one.noisy),
    });
    bench.row({ name: 'sessions that LISTEN for the 10,000', unit: 'sessions', ours: sessions, target: { at_most: 1 }, command: './dev bench waiters' });
    bench.row({ name: 'sessions of the gateway in all', unit: 'sessions', ours: all_sessions, command: './dev bench waiters' });
    for (const line of await front.stop()) bench.note(`the gateway said: ${line}`);
  },
};
