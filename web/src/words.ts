// How numbers, times and positions read on the page.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** A rate or a count: 0, 3.4, 870, 12.3 k, 4.1 M. */
export function count(n: number): string {
  if (n >= 1e6) return `${(n / 1e6).toFixed(1)} M`;
  if (n >= 1e4) return `${(n / 1e3).toFixed(1)} k`;
  if (n >= 10 || Number.isInteger(n)) return whole.format(n);
  return n.toFixed(1);
}

export function bytes(n: number): string {
  if (n >= 1 << 30) return `${(n / (1 << 30)).toFixed(1)} GB`;
  if (n >= 1 << 20) return `${(n / (1 << 20)).toFixed(1)} MB`;
  if (n >= 1 << 10) return `${(n / (1 << 10)).toFixed(0)} kB`;
  return `${n} B`;
}

export function milliseconds(ms: number): string {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(0)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return ms >= 10 || ms === 0 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}

export function duration(seconds: number): string {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** Local time of day with milliseconds. */
export function clock(at: Date): string {
  const two = (n: number) => String(n).padStart(2, '0');
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, '0')}`;
}

/** The part of a position that changes, `0a1b2c3d·3`, or `0a1b2c3d` for the end of a commit; the whole of it goes into a title. */
export function shortPosition(position: string): string {
  const [, lsn, index] = /^[0-9a-f]{8}-([0-9a-f]{16})-([0-9a-f]{8})$/.exec(position) ?? [];
  if (lsn === undefined || index === undefined) return position;
  const short = lsn.replace(/^0+(?=.{6})/, '');
  return index === '7fffffff' ? short : `${short}·${index.replace(/^0+(?=.)/, '')}`;
}

/** Digits after the point that a column of numbers needs, at most four. */
export function decimals(values: readonly unknown[]): number {
  const lengths = values.map((v) => (typeof v === 'number' ? (String(v).split('.')[1]?.length ?? 0) : 0));
  return Math.min(4, Math.max(0, ...lengths));
}

/** A value of a row as a person reads it. */
export function cell(value: unknown, digits = 0): string {
  if (typeof value === 'number') return Number.isInteger(value) && digits === 0 ? String(value) : value.toFixed(digits);
  if (value === null || value === undefined) return '';
  if (typeof value === 'string') {
    const time = /^\d{4}-\d\d-\d\dT(\d\d:\d\d:\d\d)/.exec(value);
    return time ? clock(new Date(value)).slice(0, 8) : value;
  }
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}
