// What came, newest first: changes, and everything that happened to the connection.
import { Component } from 'preact';
import { log, type Entry } from './live';
import { clock } from './words';

/** One line. It never changes, so it is drawn once, and its whole event only when asked for. */
class Line extends Component<{ entry: Entry }, { open: boolean }> {
  override state = { open: false };
  override shouldComponentUpdate(_props: unknown, next: { open: boolean }): boolean {
    return next.open !== this.state.open;
  }
  override render() {
    const e = this.props.entry;
    if (e.kind !== 'change')
      return <p class={`band ${e.kind}`}><time>{clock(e.at)}</time> {e.kind === 'connection' ? '' : <b>{e.kind}: </b>}{e.text}</p>;
    const { action, data } = e.change;
    return (
      <details onToggle={(event) => this.setState({ open: event.currentTarget.open })}>
        <summary>
          <time>{clock(e.at)}</time>
          <span class={`action ${action}`}>{action}</span>
          <span class="what">{data && 'id' in data && action !== 'DELETE' ? <b>{String(data.id)} </b> : null}{e.summary}</span>
        </summary>
        {this.state.open && <pre>{e.id}{'\n'}{JSON.stringify(e.change, null, 2)}</pre>}
      </details>
    );
  }
}

export function Log() {
  const entries = log.value;
  return (
    <section class="panel log">
      <div class="head"><h2>Event log</h2><span class="quiet">newest first, a click shows the whole event</span></div>
      <ol class="scroll" tabIndex={0} aria-label="events">
        {entries.length === 0 && <li class="empty">Nothing yet.</li>}
        {entries.map((e) => <li key={e.n}><Line entry={e} /></li>)}
      </ol>
    </section>
  );
}
