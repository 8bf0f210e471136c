import uPlot from 'uplot';
import { useEffect, useRef } from 'preact/hooks';
import { series, window_s } from './status';
import { colours } from './theme';
import { count } from './words';

const height = 190;

function draw(into: HTMLElement): uPlot {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour('--quiet'), grid: { stroke: colour('--line'), width: 1 }, ticks: { show: false }, font: `11px ${colour('--sans')}` };
  return new uPlot({
    width: into.clientWidth,
    height,
    padding: [10, 12, 0, 0],
    cursor: { y: false, points: { size: 6 } },
    legend: { live: true },
    scales: { x: { range: () => { const now = Date.now() / 1000; return [now - window_s, now]; } }, y: { range: (_u, _low, high) => [0, Math.max(5, (high ?? 0) * 1.15)] } },
    axes: [
      { ...axis, space: 90, values: (_u, at) => at.map((t) => new Date(t * 1000).toLocaleTimeString('en-GB')) },
      { ...axis, size: 46, values: (_u, values) => values.map((v) => count(v)) },
    ],
    series: [
      { value: (_u, t) => (t == null ? '–' : new Date(t * 1000).toLocaleTimeString('en-GB')), label: 'time' },
      { label: 'events in /s', stroke: colour('--accent-line'), fill: colour('--accent-soft'), width: 2, points: { show: false }, value: (_u, v) => (v == null ? '–' : count(v)) },
      { label: 'deliveries /s', stroke: colour('--blue'), width: 2, points: { show: false }, value: (_u, v) => (v == null ? '–' : count(v)) },
    ],
  }, series.value, into);
}

export function Rates() {
  const into = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const palette = colours.value;
  const data = series.value;
  useEffect(() => {
    const made = draw(into.current!);
    chart.current = made;
    const observer = new ResizeObserver(() => made.setSize({ width: into.current!.clientWidth, height }));
    observer.observe(into.current!);
    return () => {
      observer.disconnect();
      made.destroy();
    };
  }, [palette]);
  useEffect(() => {
    const u = chart.current!;
    u.setData(data);
    // The legend tells the latest figures until the pointer asks for others.
    if (u.cursor.idx == null && data[0].length > 0) u.setLegend({ idx: data[0].length - 1 });
  }, [data, palette]);
  return (
    <section class="panel rates">
      <div class="head"><h2>Message rates</h2><span class="quiet">the last two minutes</span></div>
      <div class="chart" ref={into} />
    </section>
  );
}
