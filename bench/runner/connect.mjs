// 10,000 WebSockets: what one costs in memory, how fast they are accepted, and what they cost while nothing happens.
import { memory_bytes, sleep } from './machine.mjs';
import { fanout_servers, start_arm } from './servers.mjs';

const count = 10_000;

export const connect = {
  name: 'connect',
  about: 'memory, handshakes and idle CPU of 10,000 WebSockets',
  async run(bench, paths) {
    const servers = fanout_servers(paths);
    if (!servers.postbus.present) return bench.note(`connect is left out: ${servers.postbus.absent}`);
    const keys = ['postbus', ...(servers.nchan.present ? ['nchan'] : [])];
    const results = await bench.alternate('10,000 sockets', keys, (key) => one_round(bench, servers[key], key, paths), bench.fewer_rounds);
    const figures = (key, figure) => results[key].map((round) => round[figure]);
    const command = './dev bench connect';
    const rival = (figure) => (results.nchan ? { rival: figures('nchan', figure), rival_name: 'nchan' } : {});
    bench.row({ name: 'handshakes, 10,000 at once', unit: '1/s', ours: figures('postbus', 'rate'), ...rival('rate'), target: { at_least: 0.75 }, command,
      noisy: Object.values(results).flat().some((round) => round.noisy) });
    bench.row({ name: 'user memory of an idle WebSocket', unit: 'bytes', ours: figures('postbus', 'bytes'), target: { at_most: 1500 }, command });
    if (results.nchan) bench.row({ name: 'the same beside nchan', unit: 'bytes', ours: figures('postbus', 'bytes'), ...rival('bytes'), command });

    // Long enough to hold one round of the gateway's pings (every 25 s).
    bench.progress('10,000 idle sockets');
    const arm = await start_arm(servers.postbus, paths);
    await arm.load.ask(`connect ${count}`);
    const idle = await arm.load.ask(`idle ${bench.quick ? 5 : 27}`);
    await arm.stop();
    bench.row({ name: `10,000 idle WebSockets${bench.quick ? '' : ', pings included'}`, unit: '% of a core', ours: [idle.server_cores * 100], target: { at_most: 1 }, command });
  },
};

async function one_round(bench, server, key, paths) {
  const arm = await start_arm(server, paths);
  await arm.load.ask('connect 100'); // what a server sets up once is not the 10,000's
  await arm.load.ask('disconnect');
  await sleep(0.2);
  const before = memory_bytes(arm.pids);
  let bytes;
  const rates = [];
  const round = await bench.quietly(`${key}, ${count} handshakes`, async () => {
    const opened = await arm.load.ask(`connect ${count}`);
    rates.push(opened.per_second);
    if (bytes === undefined) {
      await arm.load.ask('idle 0.3');
      bytes = (memory_bytes(arm.pids) - before) / count;
    }
    await arm.load.ask('disconnect');
    await sleep(0.3);
    return opened;
  });
  await arm.stop();
  return { rate: round.per_second, bytes, noisy: round.noisy };
}
