// How long a killed gateway is away: from the start of the new process to the first event that a listener which resumes
// after its last position is given, while others go on posting. Nothing may be missing and nothing come twice.
import http from 'node:http';

import { cluster, gateway } from './cluster.mjs';
import { sleep } from './machine.mjs';

const channel = 'restart';
const rate = 500; // posts a second, of one session: the order of the numbers is the order of the commits
const retry = 0.01;
const script = `select postbus.post('${channel}', '@T' || lpad(nextval('restart_number')::text, 19, '0'));\n`;
/** Single small messages on a channel without a listener: what fills the resume window with most to do. */
const backlog = (transactions) => `
set synchronous_commit = off;
do $$ begin for i in 1..${transactions} loop perform postbus.post('window', repeat('x', 200)); commit; end loop; end $$;`;
const full_window = 256 * 2 ** 20;

/** Follows the channel over server-sent events, comes back at once when the connection breaks, resumes after its last position. */
class follower {
  constructor(port) {
    this.port = port;
    this.last = 0; // number of the last message
    this.#connect();
  }
  /** When the next message came. */
  async next() {
    this.arrived = undefined;
    await this.#until(() => this.arrived);
    return this.arrived;
  }
  cut() {
    return this.#until(() => !this.connected);
  }
  /** After all that was posted came the message that says so. */
  async ended() {
    await this.#until(() => this.last === 'end');
    this.last = 0;
  }
  stop() {
    this.over = true;
    this.request.destroy();
  }

  async #until(reached) {
    for (const limit = performance.now() + 120_000; !reached(); ) {
      if (this.wrong) throw new Error(this.wrong);
      if (performance.now() > limit) throw new Error(`after message ${this.last} nothing came for two minutes`);
      await sleep(0.005);
    }
  }
  #connect() {
    if (this.over) return;
    const again = () => {
      this.connected = false;
      setTimeout(() => this.#connect(), retry * 1000);
    };
    const headers = { accept: 'text/event-stream', ...(this.position ? { 'last-event-id': this.position } : {}) };
    this.request = http.get({ port: this.port, host: '127.0.0.1', path: `/v1/channels/${channel}`, headers, agent: false }, (answer) => {
      let held = '';
      answer.setEncoding('utf8');
      answer.on('data', (text) => {
        held += text;
        for (let end = held.indexOf('\n\n'); answer.statusCode === 200 && end !== -1; end = held.indexOf('\n\n')) {
          this.#take(held.slice(0, end));
          held = held.slice(end + 2);
        }
      });
      answer.once('close', again);
      answer.on('error', () => {});
      this.connected = answer.statusCode === 200;
    });
    this.request.once('error', again);
  }
  #take(event) {
    this.position = /^id: (.*)$/m.exec(event)?.[1] ?? this.position;
    if (!/^(data|event):/m.test(event)) return; // a comment, or where it begins
    const message = /^data: (@T(\d{19})|end)$/m.exec(event);
    const number = message?.[2] ? Number(message[2]) : 'end';
    if (!message || (number !== 'end' && number !== this.last + 1)) this.wrong ??= `after message ${this.last} came: ${event}`;
    this.last = number;
    this.arrived ??= performance.now();
  }
}

/** Kills the gateway in the middle of the posts and starts another in its place at once. */
async function one_restart(database, at, listener) {
  const load = database.pgbench_program(script, { clients: 1, seconds: 600, args: ['--rate', String(rate)] });
  await listener.next(); // what was posted before has been read
  await sleep(1);
  await at.front.kill();
  await listener.cut(); // what the old one had sent has been read
  const started = performance.now();
  at.front = gateway.launch(database, at.front.port);
  const seconds = ((await listener.next()) - started) / 1000;
  await sleep(1);
  await load.stop();
  await database.sql(`select postbus.post('${channel}', 'end'); select setval('restart_number', 1, false)`);
  await listener.ended();
  return { seconds };
}

export const restart = {
  name: 'restart',
  about: 'a killed gateway: from its new start to the first event of a listener that resumes',
  async run(bench, paths) {
    const database = await cluster.start(paths); // one whose slot holds nothing that others wrote
    const at = { front: await gateway.start(database) };
    await database.sql('create sequence restart_number');
    const listener = new follower(at.front.port);
    try {
      await measure(bench, database, at, listener);
    } finally {
      listener.stop();
    }
    for (const line of await at.front.stop()) bench.note(`the gateway said: ${line}`);
    await database.stop();
  },
};

async function measure(bench, database, at, listener) {
  const row = async (name, target, rounds) => {
    const results = await bench.alternate(name, ['restart'], () => bench.quietly(name, () => one_restart(database, at, listener)), rounds);
    bench.row({ name, unit: 's', ours: results.restart.map((one) => one.seconds), target, command: './dev bench restart', noisy: results.restart.some((one) => one.noisy) });
  };
  await row('restart to the first resumed event', { at_most: 1 }, bench.rounds);

  const wal = async () => Number(await database.sql(`select pg_current_wal_insert_lsn() - confirmed_flush_lsn from pg_replication_slots`));
  const wanted = bench.quick ? full_window / 10 : full_window;
  let transactions = 0;
  for (const limit = performance.now() + 240_000; (await wal()) < wanted; transactions += 50_000) {
    bench.progress(`restart: filling the window, ${transactions} messages so far`);
    if (performance.now() > limit) throw new Error('the window is not full after four minutes, and it keeps five');
    await database.script(backlog(50_000));
  }
  await row(`the same, ${bench.quick ? 'a tenth of ' : ''}the window full of small messages`, undefined, bench.fewer_rounds);
  bench.note(`restart: the window held ${Math.round((await wal()) / 2 ** 20)} MB, some ${transactions.toLocaleString('en')} messages of 200 bytes`);
}
