// The processes a run starts. Each is ours from start to end: ended by its own handle, also when the runner is interrupted.
import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';

const running = new Set();

/** A started program. `lines` are awaited one by one with `line()`. */
export class program {
  constructor(command, args, { core, env, input = false, cwd, stop_with = 'SIGTERM' } = {}) {
    const [file, ...rest] = core === undefined ? [command, ...args] : ['taskset', '-c', String(core), command, ...args];
    this.name = command.split('/').at(-1);
    this.command = `${command} ${args.join(' ')}`;
    this.errors = '';
    this.stop_with = stop_with;
    this.child = spawn(file, rest, { stdio: [input ? 'pipe' : 'ignore', 'pipe', 'pipe'], env: { ...process.env, ...env }, cwd });
    this.child.stderr.on('data', (bytes) => (this.errors = (this.errors + bytes).slice(-8000)));
    this.waiting = [];
    this.unread = [];
    createInterface({ input: this.child.stdout }).on('line', (line) => (this.waiting.length ? this.waiting.shift().done(line) : this.unread.push(line)));
    this.ended = new Promise((done) => {
      this.child.on('error', (problem) => {
        this.errors += problem.message;
        done(-1);
      });
      this.child.on('close', (code) => done(code));
    }).then((code) => {
      running.delete(this);
      this.over = true;
      for (const one of this.waiting.splice(0)) one.failed(new Error(this.reason()));
      return code;
    });
    running.add(this);
  }
  get pid() {
    return this.child.pid;
  }
  reason() {
    return `${this.name} ended: ${this.errors.trim() || 'without a word'}`;
  }
  line(seconds = 60) {
    if (this.unread.length) return Promise.resolve(this.unread.shift());
    if (this.over) return Promise.reject(new Error(this.reason()));
    return new Promise((done, failed) => {
      const timer = setTimeout(() => failed(new Error(`${this.name} said nothing for ${seconds} s. ${this.errors}`)), seconds * 1000);
      const settle = (then) => (value) => {
        clearTimeout(timer);
        then(value);
      };
      this.waiting.push({ done: settle(done), failed: settle(failed) });
    });
  }
  /** Sends one command and parses the line of JSON that answers it. */
  async ask(command, seconds) {
    this.child.stdin.write(`${command}\n`);
    return JSON.parse(await this.line(seconds));
  }
  /** What it prints until it ends; an exit status other than 0 is an error. */
  async output() {
    const code = await this.ended;
    if (code !== 0) throw new Error(`${this.command}: exit ${code}. ${this.errors}`);
    return this.unread.join('\n');
  }
  async stop() {
    if (this.over) return;
    this.child.kill(this.stop_with);
    const timer = setTimeout(() => this.child.kill('SIGKILL'), 15_000);
    await this.ended;
    clearTimeout(timer);
  }
}

/** Runs a program to its end and returns what it printed. */
export function output(command, args, options) {
  return new program(command, args, options).output();
}

export async function stop_all() {
  await Promise.all([...running].map((one) => one.stop()));
}

/** A port that was free a moment ago, for servers that cannot be given port 0. */
export function free_port() {
  return new Promise((done, failed) => {
    const server = createServer();
    server.on('error', failed);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
}
