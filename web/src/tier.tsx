import { limited, status } from './status';
import { bytes, shortPosition } from './words';

const words: Record<string, string> = { wal: 'the WAL, by logical decoding', notify: 'NOTIFY only' };

/** How commits reach this gateway, and the exact fix where it could be better. */
export function Tier() {
  const now = status.value;
  if (limited.value) return <section class="tier lower"><p>This token may listen, but the gateway's figures need one with <code>admin = true</code>.</p></section>;
  if (!now) return null;
  const { name, reason, fix } = now.tier ?? { name: 'nothing yet', reason: 'The database has not been reached.' };
  const full = !fix && !reason && !now.problem;
  return (
    <section class={full ? 'tier' : 'tier lower'} aria-label="database">
      <dl>
        <div><dt>reads</dt><dd><b>{words[name] ?? name}</b></dd></div>
        {now.slot && <div><dt>slot</dt><dd class="mono">{now.slot.name}</dd></div>}
        {now.slot && <div><dt>keeps WAL</dt><dd>{bytes(now.slot.retained_bytes)}</dd></div>}
        <div><dt>head</dt><dd class="mono" title={now.head}>{shortPosition(now.head)}</dd></div>
        <div><dt>history in memory</dt><dd>{bytes(now.history_bytes)}</dd></div>
      </dl>
      {now.problem && <p>Not ready: {now.problem}</p>}
      {reason && <p>{reason}{fix && <> To mend it: <code>{fix}</code></>}</p>}
    </section>
  );
}
