// A child process whose output lines a test can wait for, and waiting for a condition.
import { spawn, spawnSync } from 'node:child_process';

/** Waits until `test` returns something truthy, and returns that. Fails with `what` and the last error past the deadline (ms). */
export async function until(what, test, deadline = 20_000) {
  const end = Date.now() + deadline;
  let last;
  for (;;) {
    try {
      const value = await test();
      if (value) return value;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (Date.now() > end) throw new Error(`${what}: not so within ${deadline} ms`, { cause: last });
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A promise's value, or an error that says what did not come. */
export async function within(what, promise, deadline = 20_000) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${deadline} ms`)), deadline);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

export class Program {
  /** Lines of stdout and of stderr so far, in order of arrival, without their ends. */
  lines = [];
  #waiting = new Set();

  constructor(command, args, options = {}) {
    this.name = command.split('/').pop();
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], ...options });
    for (const stream of [this.child.stdout, this.child.stderr]) this.#read(stream);
    this.ended = new Promise((resolve, reject) => {
      this.child.once('error', reject);
      this.child.once('close', (code, signal) => {
        resolve({ code, signal });
        this.over = true;
        this.#look();
      });
    });
    this.ended.catch(() => {});
  }

  #read(stream) {
    let rest = '';
    stream.setEncoding('utf8');
    stream.on('data', (text) => {
      const parts = (rest + text).split('\n');
      rest = parts.pop();
      this.lines.push(...parts);
      this.#look();
    });
    stream.on('end', () => {
      if (rest) this.lines.push(rest);
      this.#look();
    });
  }

  #look() {
    for (const waiter of this.#waiting) waiter();
  }

  get pid() {
    return this.child.pid;
  }

  write(text) {
    this.child.stdin.write(text);
  }

  /** The first line from number `from` on that matches, as a match of the pattern. */
  line(pattern, { from = 0, deadline = 20_000 } = {}) {
    return new Promise((resolve, reject) => {
      const done = (settle, value) => {
        clearTimeout(timer);
        this.#waiting.delete(look);
        settle(value);
      };
      const fail = (why) => done(reject, new Error(`${this.name}: no line ${pattern} ${why}; it said:\n${this.lines.slice(-40).join('\n')}`));
      const look = () => {
        for (let i = from; i < this.lines.length; ++i) {
          const match = this.lines[i].match(pattern);
          if (match) return done(resolve, match);
        }
        if (this.over) fail('before it ended');
      };
      const timer = setTimeout(() => fail(`within ${deadline} ms`), deadline);
      this.#waiting.add(look);
      look();
    });
  }

  /** Sends a signal and waits for the end. */
  async stop(signal = 'SIGTERM', deadline = 30_000) {
    if (!this.over) this.child.kill(signal);
    return within(`${this.name}: end after ${signal}`, this.ended, deadline);
  }
}

/** Runs a program to its end; what it printed, or an error that holds it. */
export function run(command, args, options = {}) {
  const { input, ...rest } = options;
  const done = spawnSync(command, args, { encoding: 'utf8', input, timeout: 60_000, maxBuffer: 64 << 20, ...rest });
  if (done.error) throw done.error;
  if (done.status !== 0) throw new Error(`${command} ${args.join(' ')}: exit ${done.status ?? done.signal}\n${done.stderr}${done.stdout}`);
  return done.stdout;
}
