// The servers of the fan-out bench, each on one core: how it is started, and how the driver talks to it.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { cpus } from 'node:os';
import { join } from 'node:path';

import { sleep, tree } from './machine.mjs';
import { free_port, program } from './processes.mjs';

// The bench itself refuses a machine with one core; its smoke test runs there too.
const [server_core, driver_core] = cpus().length > 1 ? [0, 1] : [];
const message_bytes = 200;

export async function answers(port, who) {
  for (let tries = 0; tries < 200; ++tries) {
    const open = await new Promise((done) => {
      const socket = connect(port, '127.0.0.1', () => done(socket.destroy() && true)).on('error', () => done(false));
    });
    if (open) return;
    if (who.over) break;
    await sleep(0.05);
  }
  throw new Error(`${who.reason()} (nothing listens on port ${port})`);
}

/** Our gateway over a hub in memory: no database behind it. */
function postbus(paths) {
  return {
    name: 'postbus',
    present: existsSync(join(paths.build, 'bench_gateway_memory')),
    absent: 'bench_gateway_memory is not built',
    async start() {
      const server = new program(join(paths.build, 'bench_gateway_memory'), [], { core: server_core });
      return { server, port: Number(await server.line()) };
    },
    driver: [
      ...['--subscribe', 'websocket', '--subscribe-path', '/v1/channels/bench?format=payload'],
      ...['--publish', 'websocket', '--publish-path', '/v1/ws', '--publish-subprotocol', 'postbus.v1'],
      ...['--publish-before', '{"id":1,"op":"post","channel":"bench","payload":"', '--publish-after', '"}'],
    ],
  };
}

/** The ceiling: a send() loop without a protocol; its messages are as long as a WebSocket frame of ours. */
function raw_send(paths) {
  const frame = message_bytes + 4;
  return {
    name: 'send() loop',
    present: true,
    async start() {
      const server = new program(join(paths.build, 'bench_raw_send'), [String(frame)], { core: server_core });
      return { server, port: Number(await server.line()) };
    },
    driver: ['--subscribe', 'raw', '--publish', 'raw', '--size', String(frame)],
  };
}

function nchan(paths) {
  const nginx = '/usr/sbin/nginx';
  const module = '/usr/lib/nginx/modules/ngx_nchan_module.so';
  return {
    name: 'nchan',
    processes: 2, // a master and its worker
    present: existsSync(nginx) && existsSync(module),
    absent: 'nginx-light and libnginx-mod-nchan are not installed',
    async start() {
      const port = await free_port();
      const dir = join(paths.temp, `nginx-${port}`);
      mkdirSync(dir);
      const template = readFileSync(new URL('../rivals/nchan.conf.in', import.meta.url), 'utf8');
      const values = { module, dir, port, files: 19_000, user: process.getuid() === 0 ? 'user root;' : '' };
      writeFileSync(join(dir, 'nginx.conf'), template.replace(/@(\w+)@/g, (_, name) => values[name]));
      const server = new program(nginx, ['-p', dir, '-c', join(dir, 'nginx.conf'), '-e', 'stderr'], { core: server_core });
      await answers(port, server);
      return { server, port };
    },
    driver: ['--subscribe', 'websocket', '--subscribe-path', '/subscribe', '--publish', 'post', '--publish-path', '/publish'],
  };
}

function node_ws() {
  return {
    name: 'node ws',
    present: existsSync(new URL('../rivals/node_modules/ws', import.meta.url)),
    absent: '`npm ci` has not run in bench/rivals',
    async start() {
      const server = new program(process.execPath, [new URL('../rivals/broadcast.mjs', import.meta.url).pathname], { core: server_core });
      return { server, port: Number(await server.line()) };
    },
    driver: ['--subscribe', 'websocket', '--subscribe-path', '/', '--publish', 'websocket', '--publish-path', '/publish'],
  };
}

export function fanout_servers(paths) {
  return { postbus: postbus(paths), raw: raw_send(paths), nchan: nchan(paths), node: node_ws() };
}

/** A started server with a driver of its own in front of it. */
export async function start_arm(arm, paths) {
  const { server, port } = await arm.start();
  let pids = tree(server.pid);
  while (pids.length < (arm.processes ?? 1)) {
    if (server.over) throw new Error(server.reason());
    await sleep(0.02);
    pids = tree(server.pid);
  }
  const load = new program(
    join(paths.build, 'bench_load'),
    ['--target', `127.0.0.1:${port}`, '--server', pids.join(','), ...arm.driver],
    { core: driver_core, input: true },
  );
  return {
    pids,
    load,
    port,
    async stop() {
      load.child.stdin.end();
      await load.stop();
      await server.stop();
    },
  };
}
