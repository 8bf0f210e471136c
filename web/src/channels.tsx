import { channelRates, status } from './status';
import { tryChannel } from './try_it';
import { count, shortPosition } from './words';

export function Channels() {
  const now = status.value;
  const channels = now?.channels ?? [];
  return (
    <section class="panel channels">
      <div class="head"><h2>Channels</h2><span class="quiet">busiest first{now ? `, ${now.listening} by LISTEN` : ''}</span></div>
      <div class="scroll">
        {channels.length === 0 ? <p class="empty">No channel is in use. A channel costs nothing and needs no set-up.</p> : (
          <table>
            <thead><tr><th scope="col">channel</th><th scope="col" class="number">listeners</th><th scope="col" class="number">rate</th><th scope="col" class="number">events</th><th scope="col">last</th></tr></thead>
            <tbody>
              {channels.map((c) => (
                <tr key={c.name}>
                  <th scope="row"><button type="button" class="link" title="try it below" onClick={() => tryChannel(c.name)}>{c.name}</button></th>
                  <td class="number">{count(c.listeners)}</td>
                  <td class="number">{count(channelRates.value.get(c.name) ?? 0)}<small> /s</small></td>
                  <td class="number">{count(c.events)}</td>
                  <td class="mono quiet" title={c.last ?? ''}>{c.last ? shortPosition(c.last) : ''}</td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </div>
    </section>
  );
}
