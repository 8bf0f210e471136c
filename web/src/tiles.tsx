import { delays } from './live';
import { rates, status } from './status';
import { count, milliseconds } from './words';

function Tile({ name, value, unit, title }: { name: string; value: string; unit?: string; title: string }) {
  return (
    <div class="tile" title={title}>
      <span class="name">{name}</span>
      <span class="value">{value}{unit && <small> {unit}</small>}</span>
    </div>
  );
}

/** Half of the last changes came at least this fast. */
function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)]!;
}

export function Tiles() {
  const now = status.value;
  const rate = rates.value;
  return (
    <section class="tiles" aria-label="figures">
      <Tile name="events in" value={now ? count(rate.in) : '–'} unit="/s" title="events read from the database, per second" />
      <Tile name="deliveries" value={now ? count(rate.out) : '–'} unit="/s" title="events handed to sockets, one per subscriber and event" />
      <Tile name="commit to page" value={delays.value.length > 0 ? milliseconds(median(delays.value)) : '–'}
        title="median of the last 100 changes, from commit time to this page; shown only where both run on one machine" />
      <Tile name="lag" value={now?.lag_ms == null ? '–' : milliseconds(now.lag_ms)} title="now minus the commit time of the last applied commit while behind, else 0" />
      <Tile name="sockets" value={now ? count(now.sockets) : '–'} title="open client connections" />
      <Tile name="subscriptions" value={now ? count(now.subscriptions) : '–'} title="live subscriptions" />
    </section>
  );
}
