// A client of a Postbus gateway: every subscription and post of a program over one WebSocket (/v1/ws, subprotocol
// postbus.v1).
//
// What it promises: after a lost connection it comes back by itself (with back-off and jitter) and every subscription
// resumes after the last event it was given. Where events may be missing all the same, `onGap` is called; where positions
// start anew, `onReset`. Loss is never silent. What it does not promise: exactly one delivery of an event (use `event.id`
// to drop a repeat), and that a post whose answer was lost did not happen (`post` rejects with `unknown: true`).

export type Kind =
  | 'message' | 'insert' | 'update' | 'delete' | 'truncate' | 'row' | 'live' | 'enter' | 'leave' | 'schema' | 'task'
  | 'value' | 'gap' | 'reset';

/** One event. `id` is its position: opaque, ordered, and what `after` takes; null before the `live` of a snapshot. */
export interface BusEvent<Payload = unknown> {
  id: string | null;
  channel: string;
  kind: Kind;
  /** Commit time, RFC 3339. */
  at: string;
  payload: Payload;
}

/** Payload of the events of a table's channel, `table:<schema>.<table>`. */
export interface Change<Row = Record<string, unknown>> {
  schema: string;
  table: string;
  action: 'INSERT' | 'UPDATE' | 'DELETE' | 'TRUNCATE';
  /** The row; for DELETE what is known of it (its key, by default); null for TRUNCATE. */
  data: Row | null;
  /** What is known of the row before. */
  old?: Partial<Row>;
  /** Columns the database did not send because the UPDATE left them as they were. */
  unchanged?: string[];
  /** A filtered feed that was asked to: whether the row matches, or matched, cannot be known. */
  maybe?: true;
  xid: number;
}

/** Payload of kind `row`: one row of a snapshot. */
export interface SnapshotRow<Row = Record<string, unknown>> { schema: string; table: string; action: 'ROW'; data: Row }
/** Payload of kind `live`: how many rows there were. */
export interface Live { rows: number }

export interface Gap { from: string; to: string; reason: string }
/** `position` is null where the connection broke in a snapshot, which starts over. */
export interface Reset { position: string | null; reason: string }

/** RFC 9457 problem details, as the gateway sends them. */
export interface Problem { type?: string; title?: string; status?: number; detail?: string; [more: string]: unknown }

/** What failed calls reject with. */
export class BusError extends Error {
  override name = 'BusError';
  constructor(
    message: string,
    readonly problem?: Problem,
    /** True when the request was sent and its answer lost: it may have happened. */
    readonly unknown = false,
  ) {
    super(message);
  }
}

/** The part of the WebSocket interface that is used; the browser's, Node's own (22 and later) and `ws` have it. */
export interface Socket {
  readonly readyState: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}
export type SocketClass = new (url: string, protocols?: string | string[]) => Socket;

export type State =
  | { name: 'connecting'; attempt: number }
  | { name: 'open' }
  /** Lost; the next attempt starts in `delay` milliseconds. */
  | { name: 'waiting'; delay: number; code: number; reason: string }
  /** Over: `close()` was called, or the gateway refused us in a way that coming back does not mend. */
  | { name: 'closed'; code: number; reason: string };

export interface ConnectOptions {
  token?: string;
  /** A WebSocket class, where the platform has none (Node before 22: `import WebSocket from 'ws'`). */
  WebSocket?: SocketClass;
  onState?: (state: State) => void;
  /** First and longest wait before coming back, milliseconds. */
  backOff?: { first: number; longest: number };
  /** How long one request may take, milliseconds. */
  deadline?: number;
}

export interface SubscribeOptions<Payload> {
  /** Of a table's channel: only rows that match this filter, as in `status = 'open' and total > 100` (docs/filters.md). */
  where?: string;
  /** Of a table's channel: only these columns. */
  columns?: string[];
  /** Take also what cannot be known for sure; such payloads carry `maybe: true`. */
  maybe?: boolean;
  /**
   * Of a table's channel: its rows first (kind `row`), with changes that they do not hold yet, then `live`, then every change. Nothing
   * before `live` has an id. When it is interrupted there, or cannot be resumed, `onReset` is called (reason `snapshot`) and the rows
   * come again. Together with `after` it resumes and gives no rows.
   */
  snapshot?: boolean;
  /** Resume after this position; `beginning` for the oldest event the gateway still has; from now on when left out. */
  after?: string;
  onEvent?: (event: BusEvent<Payload>) => void;
  /** Events may be missing; delivery goes on. */
  onGap?: (gap: Gap) => void;
  /** Positions start anew: drop what was derived from earlier events. */
  onReset?: (reset: Reset) => void;
  /**
   * The gateway has confirmed the subscription (again, after each reconnect): nothing after `position` is missed. Empty where a snapshot
   * begins: its position is that of `live`.
   */
  onReady?: (position: string) => void;
  /** The gateway refused the subscription. It is over. */
  onError?: (error: BusError) => void;
}

export interface Subscription {
  readonly channel: string;
  /** The position after which it would resume: worth storing to resume in another process. None while a snapshot is not complete. */
  readonly position: string | undefined;
  close(): void;
}

interface Frame {
  id?: number | string | null;
  sub?: number;
  ok?: { position?: string };
  error?: Problem;
  channel?: string;
  kind?: Kind;
  at?: string;
  payload?: unknown;
}

interface Call {
  frame: Record<string, unknown>;
  sent: boolean;
  timer: ReturnType<typeof setTimeout>;
  resolve(ok: { position?: string }): void;
  reject(error: BusError): void;
}

class Listener implements Subscription {
  position: string | undefined;
  number = 0;
  /** Something of a snapshot was given that is not complete. */
  partial = false;
  constructor(readonly channel: string, readonly options: SubscribeOptions<any>, private readonly leave: (l: Listener) => void) {
    this.position = options.after;
  }
  close(): void {
    this.leave(this);
  }
}

/** These closes will not mend by coming back: malformed, unauthorised, forbidden. */
const isFinal = (code: number): boolean => code === 4400 || code === 4401 || code === 4403;

/** A connection to one gateway; see `connect`. */
export class Bus {
  #url: string;
  #options: ConnectOptions;
  #Socket: SocketClass;
  #socket: Socket | undefined;
  #state: State = { name: 'connecting', attempt: 1 };
  #attempt = 0;
  #next = 1;
  #calls = new Map<number, Call>();
  #listeners = new Set<Listener>();
  #byNumber = new Map<number, Listener>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(gateway: string | URL, options: ConnectOptions = {}) {
    const url = new URL('v1/ws', String(gateway).replace(/\/?$/, '/'));
    url.protocol = url.protocol.replace('http', 'ws');
    if (options.token) url.searchParams.set('access_token', options.token);
    const Socket = options.WebSocket ?? (globalThis as { WebSocket?: SocketClass }).WebSocket;
    if (!Socket) throw new BusError("this platform has no WebSocket: pass one, { WebSocket } from 'ws'");
    this.#url = url.href;
    this.#options = options;
    this.#Socket = Socket;
    this.#open();
  }

  get state(): State {
    return this.#state;
  }

  /** Listens on a channel until `close()` of the subscription; survives lost connections. */
  subscribe<Payload = unknown>(channel: string, options: SubscribeOptions<Payload>): Subscription {
    const listener = new Listener(channel, options, (l) => this.#leave(l));
    this.#listeners.add(listener);
    if (this.#isOpen()) this.#enter(listener);
    return listener;
  }

  /** Posts one message; resolves with the position from which on it is visible. Waits for the connection, up to the deadline. */
  async post(channel: string, payload: unknown): Promise<string | undefined> {
    const ok = await this.#call({ op: 'post', channel, payload });
    return ok.position;
  }

  /** Ends everything. Requests without an answer are rejected. */
  close(): void {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#lost('closed by this program', true);
    this.#enterState({ name: 'closed', code: 1000, reason: 'closed by this program' });
    socket?.close(1000);
  }

  #isOpen(): boolean {
    return this.#state.name === 'open';
  }

  #enterState(state: State): void {
    this.#state = state;
    this.#options.onState?.(state);
  }

  #open(): void {
    this.#attempt += 1;
    this.#enterState({ name: 'connecting', attempt: this.#attempt });
    const socket = new this.#Socket(this.#url, 'postbus.v1');
    this.#socket = socket;
    socket.onopen = () => {
      if (socket !== this.#socket) return;
      this.#attempt = 0;
      this.#enterState({ name: 'open' });
      for (const listener of this.#listeners) this.#enter(listener);
      for (const call of this.#calls.values()) if (!call.sent) this.#send(call);
    };
    socket.onmessage = (event) => {
      if (socket === this.#socket) this.#take(JSON.parse(event.data) as Frame);
    };
    socket.onerror = () => {};
    socket.onclose = (event) => {
      if (socket !== this.#socket) return;
      const code: number = event.code ?? 1006;
      const reason: string = event.reason ?? '';
      this.#lost('the connection was lost', isFinal(code));
      if (isFinal(code)) {
        this.#enterState({ name: 'closed', code, reason });
        return;
      }
      const { first, longest } = this.#options.backOff ?? { first: 250, longest: 15_000 };
      const delay = Math.round(Math.min(longest, first * 2 ** this.#attempt) * (0.5 + Math.random() / 2));
      this.#enterState({ name: 'waiting', delay, code, reason });
      this.#timer = setTimeout(() => this.#open(), delay);
    };
  }

  /** Rejects what was sent and can have no answer any more; what was not sent waits for the next connection, unless that was the last. */
  #lost(why: string, last: boolean): void {
    this.#socket = undefined;
    this.#byNumber.clear();
    for (const [id, call] of this.#calls) {
      if (!call.sent && !last) continue;
      this.#calls.delete(id);
      clearTimeout(call.timer);
      call.reject(new BusError(`${why} before the gateway answered`, undefined, call.sent));
    }
  }

  #enter(listener: Listener): void {
    if (listener.partial) {
      listener.partial = false;
      listener.options.onReset?.({ position: null, reason: 'snapshot' });
      if (!this.#listeners.has(listener)) return;  // closed by onReset
    }
    const id = this.#next++;
    listener.number = id;
    this.#byNumber.set(id, listener);
    const frame: Record<string, unknown> = { id, op: 'subscribe', channel: listener.channel };
    if (listener.position !== undefined) frame.after = listener.position;
    const { where, columns, maybe, snapshot } = listener.options;
    Object.assign(frame, { where, columns, maybe: maybe || undefined, snapshot: snapshot || undefined });
    this.#socket!.send(JSON.stringify(frame));
  }

  #leave(listener: Listener): void {
    if (!this.#listeners.delete(listener)) return;
    this.#byNumber.delete(listener.number);
    if (this.#isOpen()) this.#socket!.send(JSON.stringify({ id: this.#next++, op: 'unsubscribe', sub: listener.number }));
  }

  #call(request: Record<string, unknown>): Promise<{ position?: string }> {
    return new Promise((resolve, reject) => {
      if (this.#state.name === 'closed') {
        reject(new BusError(`the connection is closed: ${this.#state.reason || this.#state.code}`));
        return;
      }
      const id = this.#next++;
      const timer = setTimeout(() => {
        this.#calls.delete(id);
        reject(new BusError('the gateway did not answer in time', undefined, call.sent));
      }, this.#options.deadline ?? 10_000);
      const call: Call = { frame: { id, ...request }, sent: false, timer, resolve, reject };
      this.#calls.set(id, call);
      if (this.#isOpen()) this.#send(call);
    });
  }

  #send(call: Call): void {
    call.sent = true;
    this.#socket!.send(JSON.stringify(call.frame));
  }

  #take(frame: Frame): void {
    if (frame.kind !== undefined) {
      const listener = this.#byNumber.get(frame.sub!);
      if (listener) this.#deliver(listener, frame);
      return;
    }
    const id = frame.id as number;
    const listener = this.#byNumber.get(id);
    if (listener && frame.error?.code === 'table_changed') {
      this.#byNumber.delete(id);
      this.#enter(listener);  // the filter is read anew, and goes on after the last position
    } else if (listener && frame.error?.code === 'start_over') {
      this.#byNumber.delete(id);
      listener.position = undefined;  // the reset has been told
      this.#enter(listener);
    } else if (listener && frame.error) {
      this.#byNumber.delete(id);
      this.#listeners.delete(listener);
      listener.options.onError?.(new BusError(describe(frame.error), frame.error));
    } else if (listener) {
      // `beginning` stays until the first event: what is replayed from there is still to come.
      if (listener.position === undefined || listener.position === 'now') listener.position = frame.ok?.position;
      listener.options.onReady?.(frame.ok?.position ?? '');
    }
    const call = this.#calls.get(id);
    if (!call) return;
    this.#calls.delete(id);
    clearTimeout(call.timer);
    if (frame.error) call.reject(new BusError(describe(frame.error), frame.error));
    else call.resolve(frame.ok ?? {});
  }

  #deliver(listener: Listener, frame: Frame): void {
    const { id, channel, kind, at, payload } = frame;
    listener.position = (id as string | null) ?? undefined;
    listener.partial = id === null && kind !== 'reset';
    if (kind === 'gap') listener.options.onGap?.(payload as Gap);
    else if (kind === 'reset') listener.options.onReset?.(payload as Reset);
    else listener.options.onEvent?.({ id: id as string | null, channel: channel!, kind: kind!, at: at!, payload });
  }
}

const describe = (problem: Problem): string => problem.detail ?? problem.title ?? 'the gateway refused the request';

/** Connects to a gateway, for example `http://127.0.0.1:7432`, and stays connected until `close()`. */
export function connect(gateway: string | URL, options: ConnectOptions = {}): Bus {
  return new Bus(gateway, options);
}
