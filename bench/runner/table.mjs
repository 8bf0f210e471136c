// The table: one line per row, aligned.

function number(value) {
  const size = Math.abs(value);
  if (!Number.isFinite(value)) return 'n/a';
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(size >= 1e5 ? 0 : 1)}k`;
  if (size >= 100) return value.toFixed(0);
  if (size >= 1) return value.toFixed(2);
  return value.toFixed(size >= 0.01 || size === 0 ? 3 : 4);
}

const span = ({ median, min, max }) => `${number(median)} (${number(min)}-${number(max)})`;

const verdict = (row) => (row.pass === undefined ? '-' : row.pass ? 'pass' : 'SHORT') + (row.noisy ? ' noisy' : '');

function target(row) {
  if (!row.target) return '-';
  const { at_least, at_most } = row.target;
  const unit = row.rival ? 'x' : '';
  return at_least !== undefined ? `>= ${at_least}${unit}` : `<= ${at_most}${unit}`;
}

export function table(rows) {
  const head = ['what', 'unit', 'Postbus', 'beside it', 'ratio', 'target', 'verdict', 'repeat with'];
  const lines = rows.map((row) => [
    row.name,
    row.unit,
    span(row.ours),
    row.rival ? `${row.rival.name}: ${span(row.rival)}` : '-',
    row.ratio ? span(row.ratio) : '-',
    target(row),
    verdict(row),
    row.command,
  ]);
  const widths = head.map((title, i) => Math.max(title.length, ...lines.map((line) => line[i].length)));
  const line = (cells) => cells.map((cell, i) => cell.padEnd(widths[i])).join('  ').trimEnd();
  return [line(head), widths.map((width) => '-'.repeat(width)).join('  '), ...lines.map(line)].join('\n');
}
