// What the gateway says of itself: GET /v1/status once a second, and the rates between two answers.
import { signal } from '@preact/signals';
import { authorised, token, tokenWanted } from './access';

export interface ChannelStatus { name: string; listeners: number; events: number; last: string | null }
export interface Watched { table: string; notify: string | null; columns: string[] | null }

/** What the database's side says (tier, lag, slot, watched tables) is left out while it has never been reached. */
export interface Status {
  version: string;
  schema_version?: number;
  tier?: { name: string; reason?: string | null; fix?: string | null };
  ready: boolean;
  /** Why it is not ready. */
  problem?: string;
  epoch: string;
  head: string;
  /** null: nobody knows, the WAL is not read at the moment. */
  lag_ms?: number | null;
  slot?: { name: string; retained_bytes: number } | null;
  sockets: number;
  subscriptions: number;
  events_in: number;
  events_out: number;
  posts: number;
  uptime_s: number;
  channels: ChannelStatus[];
  listening: number;
  history_bytes: number;
  watched?: Watched[];
  demo: boolean;
}

export interface Rates { in: number; out: number; posts: number }

/** Seconds the chart shows. */
export const window_s = 120;

export const status = signal<Status | null>(null);
/** True when the token may listen but not see the gateway's figures. */
export const limited = signal(false);
/** Why the last question had no answer, or null. */
export const trouble = signal<string | null>(null);
export const rates = signal<Rates>({ in: 0, out: 0, posts: 0 });
/** Events per second of each channel. */
export const channelRates = signal<ReadonlyMap<string, number>>(new Map());
/** One point a second: time (s), events in/s, deliveries/s. A null is a second without an answer. */
export const series = signal<[number[], (number | null)[], (number | null)[]]>([[], [], []]);

let previous: { at: number; answer: Status } | undefined;

function take(answer: Status): void {
  const at = performance.now() / 1000;
  const before = previous;
  previous = { at, answer };
  status.value = answer;
  // A gateway that was restarted counts from 0 again: no rate across that.
  if (!before || answer.uptime_s < before.answer.uptime_s) return;
  const per = (now: number, then: number) => Math.max(0, (now - then) / (at - before.at));
  rates.value = {
    in: per(answer.events_in, before.answer.events_in),
    out: per(answer.events_out, before.answer.events_out),
    posts: per(answer.posts, before.answer.posts),
  };
  const then = new Map(before.answer.channels.map((c) => [c.name, c.events]));
  channelRates.value = new Map(answer.channels.map((c) => [c.name, per(c.events, then.get(c.name) ?? c.events)]));
  point(rates.value.in, rates.value.out);
}

function point(eventsIn: number | null, eventsOut: number | null): void {
  const keep = <T,>(values: T[], value: T) => [...values, value].slice(-window_s);
  const [times, ins, outs] = series.value;
  series.value = [keep(times, Date.now() / 1000), keep(ins, eventsIn), keep(outs, eventsOut)];
}

async function ask(): Promise<void> {
  try {
    const answer = await fetch('v1/status', { headers: authorised(), cache: 'no-store', signal: AbortSignal.timeout(5000) });
    if (answer.status === 401) tokenWanted.value = token.value ? 'The gateway does not accept this token.' : 'The gateway wants a token.';
    if (answer.status === 403) limited.value = true;
    if (!answer.ok) throw new Error(`the gateway answered ${answer.status}`);
    take((await answer.json()) as Status);
    tokenWanted.value = null;
    limited.value = false;
    trouble.value = null;
  } catch (error) {
    trouble.value = error instanceof TypeError ? 'the gateway cannot be reached' : (error as Error).message;
    previous = undefined;
    if (series.value[0].length > 0) point(null, null);
  }
}

export async function followStatus(): Promise<never> {
  for (;;) {
    await ask();
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
