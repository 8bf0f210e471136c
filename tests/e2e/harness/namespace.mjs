// A network namespace of a test's own, joined to ours by one cable (a veth pair) that can be cut so that neither end is told.
import { spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { run } from './program.mjs';

const ip = (...args) => run('ip', args, { stdio: 'pipe' });

export class Namespace {
  static #made = 0;

  /** Why there can be none here, or undefined. */
  static obstacle() {
    if (process.getuid() !== 0) return 'network namespaces need root';
    const name = `pb-try-${process.pid}`;
    const made = spawnSync('ip', ['netns', 'add', name], { encoding: 'utf8' });
    if (made.error) return 'iproute2 is not installed';
    if (made.status !== 0) return `no network namespaces here: ${made.stderr.trim()}`;
    ip('netns', 'del', name);
    return undefined;
  }

  static make() {
    const made = new Namespace();
    const id = `${process.pid}-${++Namespace.#made}`;  // the kernel takes its time to forget the one before
    made.name = `pb-${id}`;
    // 198.18.0.0/15 is set aside for tests of networks (RFC 2544).
    const net = `198.18.${randomInt(256)}`, first = 4 * randomInt(64);
    made.outside = `${net}.${first + 1}`;
    made.address = `${net}.${first + 2}`;
    ip('netns', 'add', made.name);
    try {
      const [near, far] = [`pbn${id}`, `pbf${id}`];
      made.far = far;
      ip('link', 'add', near, 'type', 'veth', 'peer', 'name', far, 'netns', made.name);
      ip('addr', 'add', `${made.outside}/30`, 'dev', near);
      ip('link', 'set', near, 'up');
      ip('-n', made.name, 'addr', 'add', `${made.address}/30`, 'dev', far);
      ip('-n', made.name, 'link', 'set', far, 'up');
      ip('-n', made.name, 'link', 'set', 'lo', 'up');
    } catch (error) {
      made.remove();
      throw error;
    }
    return made;
  }

  /** What stands before a command for it to run inside, as the user with these ids. */
  wrap({ uid, gid }) {
    const user = uid === undefined ? [] : ['setpriv', '--reuid', String(uid), '--regid', String(gid), '--clear-groups'];
    return ['ip', 'netns', 'exec', this.name, ...user];
  }

  /**
   * From now on nothing that is sent inside arrives, without a word to anybody: what comes in is not even acknowledged.
   * `unplugged`: both ends of the cable see that it is gone, as when a switch dies.
   */
  cut({ unplugged = false } = {}) {
    this.unplugged = unplugged;
    if (unplugged) ip('-n', this.name, 'link', 'set', this.far, 'down');
    else ip('-n', this.name, 'route', 'add', 'blackhole', `${this.outside}/32`);
  }

  mend() {
    if (this.unplugged) ip('-n', this.name, 'link', 'set', this.far, 'up');
    else ip('-n', this.name, 'route', 'del', 'blackhole', `${this.outside}/32`);
  }

  /** The cable goes with the namespace, once what ran inside has ended. */
  remove() {
    ip('netns', 'del', this.name);
  }
}
