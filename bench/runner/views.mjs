// What a row change costs when many are subscribed to filtered feeds: CPU of decode, routing, derivation and publishing per
// change, for 1, 1,000 and 100,000 equality-filtered subscriptions (bench_views, one thread, prepared frames, no sockets).
import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { output } from './processes.mjs';

const counts = [1, 1_000, 100_000];
const workloads = [
  { receiving: '1', name: 'one of them concerned', target: { at_least: 0.83 } },
  { receiving: 'all', name: 'each concerned in turn', target: undefined },
];

export const views = {
  name: 'views',
  about: 'CPU per row change with 1, 1,000 and 100,000 filtered subscriptions',
  async run(bench, paths) {
    const program = join(paths.build, 'bench_views');
    if (!existsSync(program)) return bench.note('views is left out: bench_views is not built');
    const changes = bench.quick ? 100_000 : 1_000_000;
    for (const { receiving, name, target } of workloads) {
      const results = await bench.alternate(`views, ${name}`, counts.map(String), (count) =>
        bench.quietly(`${count} views, ${name}`, async () => {
          const ran = JSON.parse(await output(program, ['--changes', String(changes), '--views', count, '--receiving', receiving]));
          return { per_second: 1e9 / ran.ns_per_change };
        }),
      );
      for (const count of counts.slice(1))
        bench.row({
          name: `row changes, ${count.toLocaleString('en')} filtered subscriptions, ${name}`, unit: 'changes/s', ours: results[count].map((one) => one.per_second),
          rival: results[1].map((one) => one.per_second), rival_name: '1 subscription', target, command: './dev bench views', noisy: Object.values(results).flat().some((one) => one.noisy),
        });
    }
  },
};
