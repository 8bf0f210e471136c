// What came, newest first: changes, and everything that happened to the connection.
import { log } from './live';
import { clock } from './words';

export function Log() {
  const entries = log.value;
  return (
    <section class="panel log">
      <div class="head"><h2>Event log</h2><span class="quiet">newest first, a click shows the whole event</span></div>
      <ol class="scroll" tabIndex={0} aria-label="events">
        {entries.length === 0 && <li class="empty">Nothing yet.</li>}
        {entries.map((e) => (
          <li key={e.n}>
            {e.kind === 'change' ? (
              <details>
                <summary>
                  <time>{clock(e.at)}</time>
                  <span class={`action ${e.change.action}`}>{e.change.action}</span>
                  <span class="what">{e.change.data && 'id' in e.change.data && e.change.action !== 'DELETE' ? <b>{String(e.change.data.id)} </b> : null}{e.summary}</span>
                </summary>
                <pre>{e.id}{'\n'}{JSON.stringify(e.change, null, 2)}</pre>
              </details>
            ) : (
              <p class={`band ${e.kind}`}><time>{clock(e.at)}</time> {e.kind === 'connection' ? '' : <b>{e.kind}: </b>}{e.text}</p>
            )}
          </li>
        ))}
      </ol>
    </section>
  );
}
