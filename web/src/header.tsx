import { useEffect, useState } from 'preact/hooks';
import { connection } from './live';
import { status, trouble } from './status';
import { nextTheme, theme } from './theme';
import { duration } from './words';

/** Counts a wait down, so that one sees the page coming back. */
function Waiting({ delay }: { delay: number }) {
  const [left, setLeft] = useState(delay);
  useEffect(() => {
    const until = performance.now() + delay;
    const timer = setInterval(() => setLeft(Math.max(0, until - performance.now())), 100);
    return () => clearInterval(timer);
  }, [delay]);
  return <>connection lost, back in {(left / 1000).toFixed(1)} s</>;
}

function Connection() {
  const state = connection.value;
  const ready = status.value?.ready ?? true;
  if (state.name === 'open' && trouble.value) return <span class="pill amber" title={trouble.value}>live, status late</span>;
  if (state.name === 'open' && !ready) return <span class="pill amber" title={status.value?.problem}>gateway without database</span>;
  if (state.name === 'open') return <span class="pill green">live</span>;
  if (state.name === 'waiting') return <span class="pill amber"><Waiting delay={state.delay} /></span>;
  if (state.name === 'closed') return <span class="pill red">refused ({state.code})</span>;
  return <span class="pill amber">{state.attempt > 1 ? `connecting, attempt ${state.attempt}` : 'connecting'}</span>;
}

const themes = { system: '◐ system', light: '○ light', dark: '● dark' };

export function Header() {
  const now = status.value;
  return (
    <header>
      <div class="brand">
        <img src="favicon.svg" alt="" width="30" height="30" />
        <h1>Postbus</h1>
        {now && <span class="quiet">{now.version}, up {duration(now.uptime_s)}</span>}
      </div>
      <div class="right">
        <span role="status"><Connection /></span>
        <button type="button" class="plain" onClick={nextTheme} title="change the colours">{themes[theme.value]}</button>
      </div>
    </header>
  );
}
