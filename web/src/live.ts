// The page's one WebSocket: the connection's story, the change feed of the chosen table, and the rows it has shown.
import { batch, signal } from '@preact/signals';
import { connect, type Bus, type BusEvent, type Change, type State, type Subscription } from '../client/postbus';
import { token } from './access';

export type Row = Record<string, unknown>;

export interface LiveRow {
  key: string;
  row: Row;
  /** Grows with each change, so that a highlight starts again. */
  version: number;
  /** Columns the last change touched; null for a row that is new. */
  touched: ReadonlySet<string> | null;
  leaving: boolean;
  /** When this page was told, `performance.now()`. */
  since: number;
}

export type Entry =
  | { at: Date; kind: 'change'; change: Change; id: string | null; summary: string }
  | { at: Date; kind: 'connection' | 'gap' | 'reset'; text: string };

const entries_kept = 200;
const rows_kept = 500;

export const connection = signal<State>({ name: 'connecting', attempt: 1 });
export const table = signal<string | null>(null);
export const rows = signal<ReadonlyMap<string, LiveRow>>(new Map());
export const log = signal<readonly (Entry & { n: number })[]>([]);
export const changes = signal({ INSERT: 0, UPDATE: 0, DELETE: 0, TRUNCATE: 0 });
/** Milliseconds from commit to this page, of the last changes; only where both clocks are one. */
export const delays = signal<readonly number[]>([]);

let bus: Bus | undefined;
let feed: Subscription | undefined;
let entries = 0;
let opened = 0;
const oneClock = ['localhost', '127.0.0.1', '[::1]'].includes(location.hostname);

function note(entry: Entry): void {
  log.value = [{ ...entry, n: ++entries }, ...log.value].slice(0, entries_kept);
}

export function start(): Bus {
  bus = connect(new URL('.', location.href), {
    ...(token.value ? { token: token.value } : {}),
    onState(state) {
      if (state.name === 'open') {
        opened += 1;
        note({ at: new Date(), kind: 'connection', text: opened === 1 ? 'connected' : 'connected again, resuming after the last event seen' });
      } else if (state.name === 'waiting' && connection.value.name === 'open') {
        note({ at: new Date(), kind: 'connection', text: `connection lost (${state.code}${state.reason ? `: ${state.reason}` : ''})` });
      } else if (state.name === 'closed') {
        note({ at: new Date(), kind: 'connection', text: `refused by the gateway (${state.code}${state.reason ? `: ${state.reason}` : ''})` });
      }
      connection.value = state;
    },
  });
  return bus;
}

export const theBus = (): Bus => bus!;

/** Follows another table from now on; the rows of the last one go. */
export function follow(name: string): void {
  if (table.value === name) return;
  feed?.close();
  batch(() => {
    table.value = name;
    rows.value = new Map();
  });
  feed = theBus().subscribe<Change>(`table:${name}`, {
    onEvent: take,
    onGap: (gap) => note({ at: new Date(), kind: 'gap', text: `changes may be missing here: ${gap.reason}` }),
    onReset: (reset) => {
      rows.value = new Map();
      note({ at: new Date(), kind: 'reset', text: `positions start anew, rows dropped: ${reset.reason}` });
    },
    onError: (error) => note({ at: new Date(), kind: 'connection', text: error.message }),
  });
}

/** A feed does not name its key: `id` where there is one, else the row's first column. */
const keyOf = (row: Row): string => cellKey('id' in row ? row.id : Object.values(row)[0]);
const cellKey = (value: unknown): string => (typeof value === 'object' ? JSON.stringify(value) : String(value));

const same = (a: unknown, b: unknown): boolean => a === b || JSON.stringify(a) === JSON.stringify(b);
const short = (value: unknown): string => {
  const text = value === null ? 'null' : typeof value === 'object' ? JSON.stringify(value) : String(value);
  return text.length > 40 ? `${text.slice(0, 39)}…` : text;
};

function take(event: BusEvent<Change>): void {
  const change = event.payload;
  const next = new Map(rows.value);
  let summary = '';
  if (change.action === 'TRUNCATE' || change.data === null) {
    next.clear();
    summary = 'every row';
  } else {
    const data = change.data;
    const oldKey = change.old ? keyOf({ ...data, ...change.old }) : keyOf(data);
    const before = next.get(oldKey);
    if (change.action === 'DELETE') {
      summary = Object.entries(data).map(([name, value]) => `${name} ${short(value)}`).join(', ');
      if (before) {
        next.set(oldKey, { ...before, leaving: true, version: before.version + 1 });
        setTimeout(() => forget(oldKey), 900);
      }
    } else {
      // Columns the database did not send keep the value this page knows.
      const row: Row = { ...data };
      for (const name of change.unchanged ?? []) row[name] = before?.row[name];
      const known = before && !before.leaving ? before.row : undefined;
      const touched = known ? Object.keys(row).filter((name) => !same(known[name], row[name])) : null;
      summary = touched
        ? touched.map((name) => `${name} ${short(known![name])} → ${short(row[name])}`).join(', ') || 'no column changed'
        : Object.entries(row).filter(([name]) => name !== 'id').map(([, value]) => short(value)).join(' · ');
      if (oldKey !== keyOf(data)) next.delete(oldKey);
      next.set(keyOf(data), {
        key: keyOf(data), row, version: (before?.version ?? 0) + 1, leaving: false, since: performance.now(),
        touched: change.action === 'INSERT' ? null : new Set(touched ?? Object.keys(row)),
      });
    }
  }
  while (next.size > rows_kept) next.delete(next.keys().next().value!);
  const committed = new Date(event.at);
  batch(() => {
    rows.value = next;
    changes.value = { ...changes.value, [change.action]: changes.value[change.action] + 1 };
    if (oneClock) {
      const now = performance.timeOrigin + performance.now();
      delays.value = [...delays.value, Math.max(0, now - committed.getTime())].slice(-100);
    }
    note({ at: committed, kind: 'change', change, id: event.id, summary });
  });
}

function forget(key: string): void {
  if (!rows.value.get(key)?.leaving) return;
  const next = new Map(rows.value);
  next.delete(key);
  rows.value = next;
}
