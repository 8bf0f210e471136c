// A TCP relay to PostgreSQL that knows its sessions by their application_name and can stop passing bytes on without
// closing anything: both kernels go on acknowledging, so that only those who expect an answer can notice.
import { connect, createServer } from 'node:net';

export class Relay {
  #links = new Set();

  static start(port) {
    return new Promise((resolve, reject) => {
      const relay = new Relay();
      relay.server = createServer({ allowHalfOpen: true }, (client) => relay.#join(client, port));
      relay.server.once('error', reject);
      relay.server.listen(0, '127.0.0.1', () => {
        relay.port = relay.server.address().port;
        resolve(relay);
      });
    });
  }

  #join(client, port) {
    const link = { client, server: connect(port, '127.0.0.1'), frozen: false, start: '' };
    this.#links.add(link);
    const pass = (from, to) => {
      from.on('data', (bytes) => {
        if (link.frozen) return;
        if (from === client && link.start.length < 4096) link.start += bytes.toString('latin1');
        to.write(bytes);
      });
      from.on('end', () => { if (!link.frozen) to.end(); });
      from.on('error', () => {});
      from.on('close', () => {
        if (!link.frozen) to.destroy();
        if (client.destroyed && link.server.destroyed) this.#links.delete(link);
      });
    };
    pass(client, link.server);
    pass(link.server, client);
  }

  /** Sessions that are open now, by application_name ('' where none was given). */
  sessions() {
    return [...this.#links].filter((l) => !l.frozen).map((l) => /application_name\0([^\0]*)\0/.exec(l.start)?.[1] ?? '');
  }

  /** Stops passing bytes on the sessions of this name, for ever; new sessions are not touched. The number of them. */
  freeze(name) {
    let frozen = 0;
    for (const link of this.#links) {
      if (link.frozen || !link.start.includes(`application_name\0${name}\0`)) continue;
      link.frozen = true;
      ++frozen;
    }
    return frozen;
  }

  stop() {
    for (const { client, server } of this.#links) { client.destroy(); server.destroy(); }
    return new Promise((resolve) => this.server.close(resolve));
  }
}
