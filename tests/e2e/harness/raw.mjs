// A TCP connection on which a test says exactly the bytes it wants.
import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { until, within } from './program.mjs';

export class Raw {
  received = Buffer.alloc(0);

  static open(gateway, options = {}) {
    return new Promise((resolve, reject) => {
      const raw = new Raw();
      raw.socket = connect({ port: gateway.port, host: '127.0.0.1', ...options });
      raw.closed = new Promise((done) => raw.socket.once('close', () => { raw.over = true; done(); }));
      raw.socket.on('data', (bytes) => { raw.received = Buffer.concat([raw.received, bytes]); });
      raw.socket.on('error', () => {});
      raw.socket.once('connect', () => resolve(raw));
      raw.socket.once('error', reject);
    });
  }

  send(bytes) {
    this.socket.write(bytes);
    return this;
  }

  get text() {
    return this.received.toString('latin1');
  }

  /** Statuses of the responses so far. */
  get statuses() {
    return [...this.text.matchAll(/HTTP\/1\.1 ([0-9]{3}) /g)].map((m) => Number(m[1]));
  }

  /** Waits for the end of the connection. */
  end(deadline) {
    return within('the gateway closes the connection', this.closed, deadline);
  }

  status(deadline) {
    return until('a response', () => this.statuses[0] ?? (this.over ? 'closed' : undefined), deadline);
  }

  destroy() {
    this.socket.destroy();
  }

  /** Opens a WebSocket by hand. */
  async upgrade(path) {
    this.send(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n` +
      `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\n\r\n`);
    await until('101', () => this.text.includes('\r\n\r\n'));
    if (this.statuses[0] !== 101) throw new Error(this.text);
    this.received = this.received.subarray(this.received.indexOf('\r\n\r\n') + 4);
    return this;
  }

  /** Whole frames received so far: {opcode, payload}. */
  get frames() {
    const frames = [];
    for (let at = 0; at + 2 <= this.received.length;) {
      let length = this.received[at + 1] & 0x7f, head = 2;
      if (length === 126) { length = this.received.readUInt16BE(at + 2); head = 4; }
      else if (length === 127) { length = Number(this.received.readBigUInt64BE(at + 2)); head = 10; }
      if (at + head + length > this.received.length) break;
      frames.push({ opcode: this.received[at] & 15, payload: this.received.subarray(at + head, at + head + length) });
      at += head + length;
    }
    return frames;
  }

  /** The code of the close frame that the gateway sent. */
  async closeCode(deadline) {
    const close = await until('a close frame', () => this.frames.find((f) => f.opcode === 8), deadline);
    return close.payload.length >= 2 ? close.payload.readUInt16BE(0) : 0;
  }
}

/** A WebSocket frame, masked as a client must unless told otherwise; `length` claims another length than the payload's. */
export function frame(opcode, payload = '', { fin = true, mask = true, rsv = 0, length } = {}) {
  const bytes = Buffer.from(payload);
  const claimed = length ?? bytes.length;
  const head = [(fin ? 0x80 : 0) | (rsv << 4) | opcode];
  const bit = mask ? 0x80 : 0;
  if (claimed < 126) head.push(bit | claimed);
  else if (claimed < 65_536) head.push(bit | 126, claimed >> 8, claimed & 255);
  else {
    const wide = Buffer.alloc(8);
    wide.writeBigUInt64BE(BigInt(claimed));
    head.push(bit | 127, ...wide);
  }
  if (!mask) return Buffer.concat([Buffer.from(head), bytes]);
  const key = randomBytes(4);
  return Buffer.concat([Buffer.from(head), key, bytes.map((b, i) => b ^ key[i & 3])]);
}
