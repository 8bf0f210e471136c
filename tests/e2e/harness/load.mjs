// Writers and listeners that go on through every outage, and note what is certain.
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';

const again_ms = 20;

/**
 * Commits and rolls back until told to end: transactions of one to three messages `WRITER:N`, savepoints that are rolled back
 * among them. `make(client, message)` makes one of them. `url()` is where the database is now.
 */
export class Writer {
  committed = [];      ///< the commit was acknowledged
  undone = new Set();  ///< rolled back
  n = 0;

  constructor(number, { url, make, chance }) {
    Object.assign(this, { number, url, make, chance });
  }

  async run() {
    let client;
    while (!this.over) {
      try {
        if (!client) {
          client = new pg.Client({ connectionString: this.url(), connectionTimeoutMillis: 5000 });
          client.on('error', () => {});
          await client.connect();
        }
        await this.#transaction(client);
        if (this.rest) await pause(this.rest);
      } catch {
        client?.end().catch(() => {});
        client = undefined;
        await pause(again_ms);
      }
    }
    await client?.end();
  }

  async #transaction(client) {
    const messages = Array.from({ length: 1 + Math.floor(this.chance() * 3) }, () => `${this.number}:${++this.n}`);
    const undo = this.chance() < 0.3;
    if (undo) for (const m of messages) this.undone.add(m);
    await client.query('begin');
    for (const m of messages) {
      await this.make(client, m);
      if (this.chance() < 0.2) {
        const lost = `${this.number}:${++this.n}`;
        this.undone.add(lost);
        await client.query('savepoint s');
        await this.make(client, lost);
        await client.query('rollback to s');
      }
    }
    await client.query(undo ? 'rollback' : 'commit');
    if (!undo) this.committed.push(...messages);
  }
}

/** Messages whose commit was acknowledged, of all of them. */
export const committed = (writers) => writers.flatMap((w) => w.committed);

/** Listens on one path by WebSocket and resumes after the last position it saw. `gateway()` is the gateway of now. */
export class Listener {
  events = [];
  notices = [];  ///< gaps and resets

  constructor(path, { gateway, name = path }) {
    Object.assign(this, { path, gateway, name });
  }

  async run() {
    while (!this.over) {
      try {
        const query = this.position ? `?after=${this.position}` : '';
        const socket = await this.gateway().socket(this.path + query);
        let taken = 0;
        const take = () => {
          for (; taken < socket.frames.length; ++taken) {
            const event = JSON.parse(socket.frames[taken]);
            (event.kind === 'gap' || event.kind === 'reset' ? this.notices : this.events).push(event);
            this.position = event.id;
          }
        };
        socket.ws.on('message', take);
        this.open = socket;
        await socket.closed;
        take();
      } catch {
        await pause(again_ms);
      }
    }
  }

  get listens() {
    return this.open?.ws.readyState === 1;
  }

  stop() {
    this.over = true;
    this.open?.ws.terminate();
  }
}
