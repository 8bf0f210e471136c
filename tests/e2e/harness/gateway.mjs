// `postbus serve` as a child process, and short ways to its doors.
import { mkdtempSync, rmSync } from 'node:fs';
import http from 'node:http';
import { fileURLToPath } from 'node:url';
import { WebSocket } from 'ws';
import { Program, until, within } from './program.mjs';

export const binary = process.env.POSTBUS_BINARY ?? fileURLToPath(new URL('../../../build/release/postbus', import.meta.url));

export class Gateway {
  /** Starts it on a free port against `database` (a URL) and waits until it says where it listens. */
  static async start(database, args = [], { port = 0, scheme = 'http', ready = true, wrap = [], env = {} } = {}) {
    const gateway = new Gateway();
    gateway.data = mkdtempSync('/tmp/postbus-e2e-data-');
    const command = [...wrap, binary, 'serve', ...(database ? ['--db', database] : []), '--data', gateway.data,
      ...(args.includes('--listen') ? [] : ['--port', String(port)]), ...args];
    gateway.program = new Program(command[0], command.slice(1), { env: { ...process.env, ...env } });
    const [, address] = await gateway.program.line(new RegExp(`${scheme}://([0-9.]+:[0-9]+)`));
    gateway.host = address;
    gateway.port = Number(address.split(':')[1]);
    gateway.url = `${scheme}://${address}`;
    gateway.ws = gateway.url.replace(/^http/, 'ws');
    if (ready && scheme === 'http') await gateway.ready();
    return gateway;
  }

  ready(deadline) {
    return until('the gateway is ready', async () => (await this.get('/health/ready')).status === 200, deadline);
  }

  get pid() {
    return this.program.pid;
  }

  async stop(signal = 'SIGTERM') {
    const end = await this.program.stop(signal);
    rmSync(this.data, { recursive: true, force: true });
    return end;
  }

  /** One request on a connection of its own; {status, headers, body}. */
  request(method, path, { headers = {}, body, timeout = 20_000 } = {}) {
    return new Promise((resolve, reject) => {
      const request = http.request({ host: '127.0.0.1', port: this.port, method, path, headers, agent: false, timeout }, (answer) => {
        const parts = [];
        answer.on('data', (part) => parts.push(part));
        answer.once('error', reject);
        answer.once('end', () => resolve({ status: answer.statusCode, headers: answer.headers, body: Buffer.concat(parts).toString() }));
      });
      request.once('timeout', () => request.destroy(new Error(`${method} ${path}: no answer within ${timeout} ms`)));
      request.once('error', reject);
      request.end(body);
    });
  }

  get(path, options) {
    return this.request('GET', path, options);
  }

  post(channel, body, headers = {}) {
    return this.request('POST', `/v1/channels/${encodeURIComponent(channel)}`, { body, headers });
  }

  /** GET /v1/status, parsed. */
  async status() {
    const { body } = await this.get('/v1/status');
    return JSON.parse(body);
  }

  /** A WebSocket, once it is open. */
  socket(path, options) {
    return Socket.open(this.ws + path, options);
  }

  /** An SSE stream, once its header is here. */
  stream(path, headers = {}) {
    return Stream.open(this, path, headers);
  }
}

/** A WebSocket that keeps what came. */
export class Socket {
  frames = [];

  static async open(url, { protocols = [], deadline, ...options } = {}) {
    const socket = new Socket();
    socket.ws = new WebSocket(url, protocols, options);
    socket.ws.on('error', () => {});
    socket.ws.on('message', (data) => socket.frames.push(data.toString()));
    socket.closed = new Promise((resolve) => socket.ws.once('close', (code, reason) => resolve({ code, reason: reason.toString() })));
    const opened = new Promise((resolve, reject) => {
      socket.ws.once('open', resolve);
      socket.ws.once('unexpected-response', (_request, answer) => reject(Object.assign(new Error(`refused with ${answer.statusCode}`), { status: answer.statusCode })));
      socket.ws.once('error', reject);
    });
    try {
      await within(`WebSocket to ${url}`, opened, deadline);
    } catch (error) {
      // Whoever gave up does not come back to it: once the network lets it open it would keep the test's process alive.
      socket.ws.terminate();
      throw error;
    }
    return socket;
  }

  get events() {
    return this.frames.map((text) => JSON.parse(text));
  }

  send(value) {
    this.ws.send(typeof value === 'string' ? value : JSON.stringify(value));
  }

  /** The first frame, as JSON, that `test` accepts. */
  event(what, test, deadline) {
    return until(what, () => this.events.find(test), deadline);
  }

  close() {
    this.ws.close();
    return this.closed;
  }
}

/** A server-sent event stream that keeps what came: {id, event, data}. */
export class Stream {
  events = [];
  comments = 0;
  over = false;

  static open(gateway, path, headers) {
    return new Promise((resolve, reject) => {
      const stream = new Stream();
      const request = http.get({ host: '127.0.0.1', port: gateway.port, path, agent: false, headers: { Accept: 'text/event-stream', ...headers } }, (answer) => {
        stream.status = answer.statusCode;
        stream.headers = answer.headers;
        stream.request = request;
        let rest = '';
        answer.setEncoding('utf8');
        answer.on('data', (text) => {
          const blocks = (rest + text).split('\n\n');
          rest = blocks.pop();
          for (const block of blocks) stream.#take(block);
        });
        answer.once('close', () => { stream.over = true; });
        answer.once('error', () => {});
        resolve(stream);
      });
      request.once('error', reject);
    });
  }

  #take(block) {
    const event = { event: 'message', data: [] };
    for (const line of block.split('\n')) {
      const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
      if (field === '') this.comments += 1;
      else if (field === 'data') event.data.push(value);
      else event[field] = value;
    }
    if (event.id !== undefined) this.position = event.id;
    if (event.data.length > 0) this.events.push({ ...event, data: event.data.join('\n') });
    if (event.retry !== undefined) this.retry = Number(event.retry);
  }

  event(what, test, deadline) {
    return until(what, () => this.events.find(test), deadline);
  }

  close() {
    this.request.destroy();
  }
}
