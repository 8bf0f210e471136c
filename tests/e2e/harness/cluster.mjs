// A private PostgreSQL for one test file: own folder, own port, gone at the end. PostgreSQL refuses root: as root it runs
// as the user postgres.
import { appendFileSync, chownSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import pg from 'pg';
import { Program, run, until } from './program.mjs';

/** A TCP port of 127.0.0.1 that was free a moment ago. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Where initdb and postgres are: POSTBUS_TEST_POSTGRES, the newest of Debian's, or those in PATH. */
function binaries() {
  if (process.env.POSTBUS_TEST_POSTGRES) return process.env.POSTBUS_TEST_POSTGRES;
  const root = '/usr/lib/postgresql';
  const majors = existsSync(root) ? readdirSync(root).filter((m) => existsSync(join(root, m, 'bin/postgres'))) : [];
  const newest = majors.sort((a, b) => Number(b) - Number(a))[0];
  return newest ? join(root, newest, 'bin') : run('pg_config', ['--bindir']).trim();
}

function serverUser() {
  if (process.getuid() !== 0) return {};
  const id = (flag) => Number(run('id', [flag, 'postgres']).trim());
  return { uid: id('-u'), gid: id('-g') };
}

export class Cluster {
  #databases = 0;

  /** `namespace`: the server runs in it and listens there; the test's own statements go by the socket in the file system. */
  static async start(settings = {}, { namespace, env } = {}) {
    const cluster = await Cluster.#place({ namespace, env });
    cluster.#run('initdb', '-D', cluster.data, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C.UTF-8', '--no-sync');
    cluster.#configure({
      wal_level: 'logical', fsync: 'off', max_slot_wal_keep_size: '256MB', log_min_messages: 'fatal', shared_buffers: '32MB', ...settings,
    });
    if (namespace) appendFileSync(join(cluster.data, 'pg_hba.conf'), 'host all all samenet trust\n');
    await cluster.up();
    return cluster;
  }

  /** A streaming standby of this server, from a base backup; what was a database here is one there. */
  async standby() {
    const copy = await this.backup();
    writeFileSync(join(copy.data, 'standby.signal'), '');
    copy.#configure({ primary_conninfo: `'host=${this.folder} port=${this.port} user=postgres'` });
    await copy.up();
    return copy;
  }

  /** A base backup of this server in a folder of its own, not started. */
  async backup() {
    const copy = await Cluster.#place({});
    copy.#run('pg_basebackup', '-D', copy.data, '-d', `host=${this.folder} port=${this.port} user=postgres`, '-X', 'stream', '-c', 'fast', '--no-sync');
    copy.#configure({});
    return copy;
  }

  /** Its files as they are now, server down, to be put back by `restore`. */
  save() {
    run('cp', ['-a', this.data, `${this.data}.saved`]);
  }

  restore() {
    rmSync(this.data, { recursive: true, force: true });
    run('mv', [`${this.data}.saved`, this.data]);
  }

  /** Has a base backup read its WAL to the end when it starts, as one from an archive does: it begins a timeline of its own. */
  recover() {
    writeFileSync(join(this.data, 'recovery.signal'), '');
    this.#configure({ restore_command: "'false'" });
  }

  static async #place({ namespace, env = {} }) {
    const cluster = new Cluster();
    cluster.namespace = namespace;
    cluster.env = env;
    cluster.host = namespace?.address ?? '127.0.0.1';
    cluster.folder = mkdtempSync('/tmp/postbus-e2e-pg-');
    cluster.user = serverUser();
    if (cluster.user.uid !== undefined) chownSync(cluster.folder, cluster.user.uid, cluster.user.gid);
    cluster.data = join(cluster.folder, 'data');
    cluster.port = await freePort();
    return cluster;
  }

  #run(program, ...args) {
    run(join(binaries(), program), args, { ...this.user, cwd: '/' });
  }

  /** Settings that win over what stands in the file already. */
  #configure(settings) {
    const all = { listen_addresses: `'${this.host}'`, port: this.port, unix_socket_directories: `'${this.folder}'`, ...settings };
    appendFileSync(join(this.data, 'postgresql.auto.conf'), Object.entries(all).map(([name, value]) => `${name} = ${value}\n`).join(''));
  }

  /** `settings`: of this run only. */
  async up(settings = {}) {
    const given = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
    const command = [...(this.namespace?.wrap(this.user) ?? []), join(binaries(), 'postgres'), '-D', this.data, ...given];
    this.server = new Program(command[0], command.slice(1), { ...(this.namespace ? {} : this.user), cwd: '/', env: { ...process.env, ...this.env } });
    await until('PostgreSQL accepts sessions', async () => {
      if (this.server.over) throw new Error(this.server.lines.join('\n'));
      await this.sql('postgres', 'select 1');
      return true;
    });
  }

  /** Kills the server with every session, as a crash does. Its children notice by themselves. */
  async kill() {
    await this.server.stop('SIGKILL');
  }

  /** Stops it in good order; its files stay, for `up`. */
  async down() {
    await this.server.stop('SIGINT');
  }

  async stop() {
    if (this.server) await this.down();
    rmSync(this.folder, { recursive: true, force: true });
  }

  url(database, user = 'postgres') {
    return `postgresql://${user}@${this.host}:${this.port}/${database}`;
  }

  /** By the socket in the file system: past every network. */
  socket(database) {
    return `postgresql://postgres@/${database}?host=${this.folder}&port=${this.port}`;
  }

  /** Where the test's own sessions go: past what lies between a gateway and the server. */
  near(database) {
    return this.namespace ? this.socket(database) : this.url(database);
  }

  /** A fresh database; its name. */
  async database() {
    const name = `e2e_${++this.#databases}`;
    await this.sql('postgres', `create database ${name}`);
    return name;
  }

  /** Runs statements as the superuser in a session of their own; the rows of the last one. */
  async sql(database, text, values) {
    const client = new pg.Client({ connectionString: this.near(database) });
    client.on('error', () => {});
    await client.connect();
    try {
      const answer = await client.query(text, values);
      return (Array.isArray(answer) ? answer.at(-1) : answer).rows;
    } finally {
      await client.end();
    }
  }

  /** What `psql -At` prints. */
  psql(database, text, ...more) {
    return run('psql', ['-X', '-At', '-v', 'ON_ERROR_STOP=1', ...more, '-c', text, this.near(database)]).trimEnd();
  }
}
