// Fan-out: one message to N subscribers, on one server core, beside a bare send() loop, nchan and Node's ws.
import { fanout_servers, start_arm } from './servers.mjs';

const deliveries_per_second = 50_000;
const counts = [100, 1000, 10_000];
const ceiling_share = { 100: 0.95, 1000: 0.95, 10_000: 0.9 };

export const fanout = {
  name: 'fanout',
  about: 'deliveries a second and latency to 100, 1,000 and 10,000 WebSockets',
  async run(bench, paths) {
    const arms = present(fanout_servers(paths), bench);
    if (!arms.postbus) return;
    const seconds = bench.quick ? { closed: 0.5, open: 1 } : { closed: 0.8, open: 1.5 };
    for (const count of counts) {
      const started = {};
      for (const [key, arm] of Object.entries(arms)) started[key] = await start_arm(arm, paths);
      const results = await bench.alternate(`${count} subscribers`, Object.keys(arms), (key) => one_round(bench, started[key].load, key, count, seconds));
      for (const arm of Object.values(started)) await arm.stop();
      rows(bench, arms, results, count);
    }
  },
};

function present(servers, bench) {
  for (const server of Object.values(servers)) if (!server.present) bench.note(`${server.name} is left out: ${server.absent}`);
  return Object.fromEntries(Object.entries(servers).filter(([, server]) => server.present));
}

async function one_round(bench, load, key, count, seconds) {
  await load.ask(`connect ${count}`);
  const measure = (command) => bench.quietly(`${key}, ${command}`, () => load.ask(command));
  const single = await measure(`closed 1 ${seconds.closed}`);
  const burst = await measure(`closed 32 ${seconds.closed}`);
  const paced = await measure(`open ${deliveries_per_second / count} ${seconds.open}`);
  await load.ask('disconnect');
  for (const phase of [single, burst, paced]) if (phase.missing > 0) bench.note(`${key}, ${count} subscribers: ${phase.missing} deliveries were missing`);
  return { single, burst, paced };
}

function rows(bench, arms, results, count) {
  const command = './dev bench fanout';
  const figures = (key, phase, figure) => results[key].map((round) => round[phase][figure]);
  const add = (rival, phase, figure, name, unit, target, invert) => {
    if (!arms[rival]) return;
    const noisy = [...results.postbus, ...results[rival]].some((round) => round[phase].noisy);
    bench.row({
      name: `${count} subscribers: ${name}`, unit, ours: figures('postbus', phase, figure), rival: figures(rival, phase, figure),
      rival_name: arms[rival].name, target, invert, noisy, command,
    });
  };
  const rate = 'deliveries/s';
  add('raw', 'single', 'per_second', 'one message in flight', rate, { at_least: ceiling_share[count] });
  add('raw', 'burst', 'per_second', '32 in flight', rate, count === 1000 ? { at_least: 10 } : undefined);
  add('nchan', 'burst', 'per_second', '32 in flight', rate, { at_least: 10 });
  add('node', 'burst', 'per_second', '32 in flight', rate, { at_least: 10 });
  add('nchan', 'paced', 'server_cores', 'CPU at 50,000 deliveries/s', 'cores', { at_most: 1 });
  add('nchan', 'paced', 'p99_us', 'p99 at 50,000 deliveries/s', 'us', { at_most: 1 });
}
