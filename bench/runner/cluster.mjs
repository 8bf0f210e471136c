// A PostgreSQL of our own for the length of a run, with the slow-sync shim in it, and the gateway in front of it.
import { chmodSync, chownSync, copyFileSync, existsSync, mkdtempSync, readdirSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { memory_file_systems, sleep } from './machine.mjs';
import { free_port, output, program } from './processes.mjs';

const settings = `
wal_level = logical
max_slot_wal_keep_size = 4GB
max_connections = 100
fsync = on
synchronous_commit = on
listen_addresses = ''
checkpoint_timeout = 1h
max_wal_size = 8GB
autovacuum = off
log_min_messages = fatal
`; // no checkpoint and no vacuum within a measurement; everything else as PostgreSQL ships

function newest_postgres() {
  const root = '/usr/lib/postgresql';
  const versions = existsSync(root) ? readdirSync(root).filter((name) => existsSync(join(root, name, 'bin/initdb'))) : [];
  if (!versions.length) throw new Error('PostgreSQL is not installed (postgresql-15)');
  return join(root, versions.sort((a, b) => Number(b) - Number(a))[0], 'bin');
}

export class cluster {
  /** The one cluster of this run, started by the first group that needs it. */
  static shared(paths) {
    return (paths.cluster ??= cluster.start(paths));
  }
  static async start(paths) {
    const made = new cluster();
    made.paths = paths;
    made.bin = newest_postgres();
    made.dir = mkdtempSync(join(paths.temp, 'postgres-'));
    made.data = join(made.dir, 'data');
    if (memory_file_systems.has(statfsSync(paths.temp).type)) throw new Error(`${paths.temp} is in memory, where a WAL sync costs nothing: set TMPDIR to a folder on a disk`);
    const shim = join(made.dir, 'slow_sync.so');
    copyFileSync(join(paths.build, 'bench_slow_sync.so'), shim);
    made.delay_file = join(made.dir, 'delay');
    made.slow_sync(0);
    chmodSync(paths.temp, 0o755);
    made.as = [];
    if (process.getuid() === 0) {
      // PostgreSQL refuses root.
      const [uid, gid] = await Promise.all(['-u', '-g'].map(async (flag) => Number(await output('id', [flag, 'postgres']))));
      chownSync(made.dir, uid, gid);
      made.as = ['setpriv', '--reuid', String(uid), '--regid', String(gid), '--clear-groups'];
    }
    await made.server_program('initdb', ['-D', made.data, '-A', 'trust', '-U', 'postgres', '-E', 'UTF8', '--locale=C', '-N']).ended;
    writeFileSync(join(made.data, 'postgresql.auto.conf'), settings);
    made.server = made.server_program('postgres', ['-D', made.data, '-k', made.dir], { LD_PRELOAD: shim, SLOW_SYNC_FILE: made.delay_file });
    for (let tries = 0; ; ++tries) {
      try {
        await made.sql('select 1', 'postgres');
        break;
      } catch (problem) {
        if (made.server.over) throw new Error(made.server.reason());
        if (tries === 200) throw problem;
        await sleep(0.05);
      }
    }
    await made.sql('create database bench', 'postgres');
    return made;
  }

  server_program(name, args, env) {
    const [command, ...rest] = [...this.as, join(this.bin, name), ...args];
    return new program(command, rest, { env, cwd: this.dir, stop_with: 'SIGINT' });
  }
  get url() {
    return `postgresql:///bench?host=${encodeURIComponent(this.dir)}&user=postgres`;
  }
  get conninfo() {
    return `host=${this.dir} user=postgres dbname=bench`;
  }
  /** Each WAL sync takes this much longer from now on. */
  slow_sync(microseconds) {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(microseconds);
    writeFileSync(this.delay_file, bytes, { flag: existsSync(this.delay_file) ? 'r+' : 'w' });
  }
  sql(text, database = 'bench') {
    return output(join(this.bin, 'psql'), ['-X', '-A', '-t', '-q', '-v', 'ON_ERROR_STOP=1', '-h', this.dir, '-U', 'postgres', '-d', database, '-c', text]);
  }
  /** Statements each in a transaction of its own, as psql sends them from a file. */
  script(text) {
    const file = join(this.dir, `script-${++this.scripts}.sql`);
    writeFileSync(file, text);
    return output(join(this.bin, 'psql'), ['-X', '-A', '-t', '-q', '-v', 'ON_ERROR_STOP=1', '-h', this.dir, '-U', 'postgres', '-d', 'bench', '-f', file]);
  }
  async pgbench_tables(scale) {
    await output(join(this.bin, 'pgbench'), ['-h', this.dir, '-U', 'postgres', '-i', '-q', '-s', String(scale), 'bench']);
    await this.sql('checkpoint');
  }
  /** pgbench with a script, started. */
  pgbench_program(script, { clients, seconds, args = [] }) {
    const file = join(this.dir, `script-${++this.scripts}.sql`);
    writeFileSync(file, script);
    return new program(join(this.bin, 'pgbench'), [
      ...['-h', this.dir, '-U', 'postgres', '-n', '-M', 'prepared', '-c', String(clients), '-j', '2', '-T', String(seconds), '-f', file, ...args, 'bench'],
    ]);
  }
  /** Transactions a second of a pgbench script. */
  async pgbench(script, options) {
    const text = await this.pgbench_program(script, options).output();
    return { per_second: Number(/tps = ([\d.]+)/.exec(text)[1]), transactions: Number(/actually processed: (\d+)/.exec(text)[1]) };
  }
  async stop() {
    await this.server.stop();
  }
  scripts = 0;
}

/** `postbus serve` on a cluster; loops as many as it takes by itself. */
export class gateway {
  static async start(cluster, options = []) {
    const made = gateway.launch(cluster, await free_port(), options);
    await made.ready();
    return made;
  }
  /** Started, and perhaps not listening yet. */
  static launch(cluster, port, options = []) {
    const made = new gateway();
    made.build = cluster.paths.build;
    made.port = port;
    made.server = new program(join(cluster.paths.build, 'postbus'), ['--db', cluster.url, 'serve', '--port', String(port), ...options]);
    return made;
  }
  async ready() {
    for (let tries = 0; ; ++tries) {
      if (this.server.over) throw new Error(this.server.reason());
      const ready = await this.get('/health/ready').catch(() => undefined);
      if (ready?.ok) return;
      if (tries === 300) throw new Error(`the gateway is not ready: ${this.server.errors}`);
      await sleep(0.05);
    }
  }
  get address() {
    return `127.0.0.1:${this.port}`;
  }
  get(path) {
    return fetch(`http://${this.address}${path}`, { headers: { connection: 'close' } });
  }
  /** Subscribers of the gateway, counted by a driver: `websocket`, `stream` or `wait`. */
  listeners(kind, path) {
    return new program(join(this.build, 'bench_load'), ['--target', this.address, '--subscribe', kind, '--subscribe-path', path], { input: true });
  }
  async kill() {
    this.server.child.kill('SIGKILL');
    await this.server.ended;
  }
  async stop() {
    await this.server.stop();
    // Healing, losses, cut-off readers: a figure taken meanwhile is not what it seems.
    return this.server.errors.split('\n').filter((line) => / (warning|error) /.test(line));
  }
}
