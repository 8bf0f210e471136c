// The live table: rows of the followed table as changes brought them.
import { useEffect } from 'preact/hooks';
import { changes, follow, rows, table, type LiveRow } from './live';
import { limited, status } from './status';
import { cell, decimals } from './words';

const shown = 16;
/** A highlight is for what has just happened, not for a row that comes back into view. */
const fresh = (row: LiveRow): boolean => performance.now() - row.since < 1600;
const numeric = (value: unknown): boolean => typeof value === 'number';

function Cell({ row, column, digits, first }: { row: LiveRow; column: string; digits: number; first: boolean }) {
  const value = row.row[column];
  const text = cell(value, digits);
  const classes = [numeric(value) ? 'number' : '', row.touched?.has(column) && fresh(row) && !row.leaving ? 'touched' : ''].join(' ').trim();
  // A new key makes a new element, which starts its highlight again.
  const key = row.touched?.has(column) ? `${column}:${row.version}` : column;
  if (first) return <th key={key} scope="row" class={classes}>{text}</th>;
  return (
    <td key={key} class={classes} title={text.length > 24 ? text : undefined}>
      {column === 'status' ? <span class={`state s-${text}`}>{text}</span> : text}
    </td>
  );
}

function Waiting() {
  const now = status.value;
  if (!now?.watched || now.watched.length > 0) return <p class="empty">Rows appear here as they change.</p>;
  return (
    <div class="empty">
      <p>No table is watched yet. In psql:</p>
      <pre>select postbus.watch('orders');</pre>
      <p>or start the gateway with <code>--demo</code>.</p>
    </div>
  );
}

export function Rows() {
  const watched = status.value?.watched ?? [];
  const names = limited.value ? ['public.orders'] : watched.map((w) => w.table);
  useEffect(() => {
    // A table that appears later (the demo's, at its first start) is followed as soon as it is there.
    if (table.value === null && names.length > 0) follow(names.find((n) => n === 'public.orders') ?? names[0]!);
  }, [names.join()]);

  const all = [...rows.value.values()];
  const columns = [...new Set(all.flatMap((r) => Object.keys(r.row)))];
  const byKey = all.sort((a, b) => b.key.localeCompare(a.key, 'en', { numeric: true }));
  const digits = new Map(columns.map((c) => [c, decimals(all.map((r) => r.row[c]))]));
  const tally = changes.value;
  return (
    <section class="panel rows">
      <div class="head">
        <h2>
          {names.length > 1
            ? <select aria-label="table" value={table.value ?? ''} onChange={(e) => follow(e.currentTarget.value)}>{names.map((n) => <option key={n}>{n}</option>)}</select>
            : table.value ?? 'Live table'}
        </h2>
        <span class="quiet">{all.length > 0 ? `${all.filter((r) => !r.leaving).length} rows changed since this page was opened` : 'live'}</span>
        <span class="tally">
          <span class="action INSERT">{tally.INSERT} INSERT</span><span class="action UPDATE">{tally.UPDATE} UPDATE</span><span class="action DELETE">{tally.DELETE} DELETE</span>
        </span>
      </div>
      <div class="scroll">
        {all.length === 0 ? <Waiting /> : (
          <table>
            <thead><tr>{columns.map((c) => <th key={c} scope="col" class={numeric(byKey[0]?.row[c]) ? 'number' : ''}>{c.replaceAll('_', ' ')}</th>)}</tr></thead>
            <tbody>
              {byKey.slice(0, shown).map((r) => (
                <tr key={r.key} class={r.leaving ? 'leaving' : r.touched === null && fresh(r) ? 'entering' : ''}>
                  {columns.map((c, i) => <Cell key={c} row={r} column={c} digits={digits.get(c)!} first={i === 0} />)}
                </tr>
              ))}
            </tbody>
          </table>
        )}
        {all.length > shown && <p class="quiet more">and {all.length - shown} more</p>}
      </div>
    </section>
  );
}
