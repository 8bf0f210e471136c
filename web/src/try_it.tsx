// Post and listen from the page, and the same from elsewhere as lines to copy.
import { signal } from '@preact/signals';
import { useEffect, useState } from 'preact/hooks';
import type { BusEvent, Subscription } from '../client/postbus';
import { theBus } from './live';
import { clock } from './words';

const channel = signal('hello');
type Heard = { n: number; at: Date; text: string; kind: string };
const heard = signal<readonly Heard[]>([]);
const listening = signal<string | null>(null);
const refused = signal<string | null>(null);
let subscription: Subscription | undefined;
let n = 0;

function hear(kind: string, text: string, at = new Date()): void {
  heard.value = [{ n: ++n, at, kind, text }, ...heard.value].slice(0, 50);
}

function listen(name: string): void {
  subscription?.close();
  heard.value = [];
  refused.value = null;
  listening.value = name;
  subscription = theBus().subscribe(name, {
    onEvent: (e: BusEvent) => hear(e.kind, typeof e.payload === 'string' ? e.payload : JSON.stringify(e.payload), new Date(e.at)),
    onGap: (gap) => hear('gap', `messages may be missing here: ${gap.reason}`),
    onReset: (reset) => hear('reset', `positions start anew: ${reset.reason}`),
    onError: (error) => { refused.value = error.message; listening.value = null; },
  });
}

function stop(): void {
  subscription?.close();
  listening.value = null;
}

/** Puts a channel into the panel and listens on it. */
export function tryChannel(name: string): void {
  channel.value = name;
  listen(name);
  document.getElementById('try')?.scrollIntoView({ behavior: 'smooth', block: 'nearest' });
}

const shell = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`;
const identifier = (text: string): string => `"${text.replaceAll('"', '""')}"`;
const named = (part: string): string => (/^[a-z_][a-z0-9_]*$/.test(part) ? part : identifier(part));

/** The table whose feed the channel is, as SQL writes it; undefined for any other channel. */
function tableOf(name: string): string | undefined {
  if (!name.startsWith('table:')) return undefined;
  const [schema, ...rest] = name.slice('table:'.length).split('.');
  return [schema, ...(rest.length > 0 ? [rest.join('.')] : [])].map((part) => named(part ?? '')).join('.');
}

function lines(name: string): { title: string; text: string }[] {
  const base = new URL('.', location.href).href.replace(/\/$/, '');
  const path = `/v1/channels/${encodeURIComponent(name)}`;
  const table = tableOf(name);
  return [
    { title: 'curl: listen', text: `curl -N -H 'Accept: text/event-stream' ${shell(base + path)}` },
    ...(table === undefined ? [
      { title: 'curl: post', text: `curl -d 'hello from curl' ${shell(base + path)}` },
    ] : [
      { title: 'curl: its rows, then every change', text: `curl -N -H 'Accept: text/event-stream' ${shell(`${base}/v1/tables/${encodeURIComponent(name.slice('table:'.length))}?snapshot=true`)}` },
    ]),
    { title: 'curl: wait for one', text: `curl ${shell(`${base}/wait?channel=${encodeURIComponent(name)}`)}` },
    ...(table === undefined ? [
      { title: 'psql: post', text: `select postbus.post(${literal(name)}, 'hello from psql');` },
      { title: 'psql: notify', text: `notify ${identifier(name)}, 'hello from NOTIFY';` },
    ] : [
      { title: 'psql: write a row', text: `insert into ${table} (…) values (…);` },
    ]),
    { title: 'browser', text: `const ws = new WebSocket(${JSON.stringify(`${base.replace(/^http/, 'ws')}${path}?format=payload`)});\nws.onmessage = e => console.log(e.data);` },
  ];
}

function Copy({ title, text }: { title: string; text: string }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return (
    <div class="copy">
      <span class="quiet">{title}</span>
      <pre>{text}</pre>
      {navigator.clipboard && <button type="button" class="plain" onClick={copy} aria-label={`copy: ${title}`}>{done ? 'copied' : 'copy'}</button>}
    </div>
  );
}

function Post() {
  const [payload, setPayload] = useState('hello from the page');
  const [answer, setAnswer] = useState<{ ok: boolean; text: string } | null>(null);
  const post = async (event: Event) => {
    event.preventDefault();
    try {
      await theBus().post(channel.value, payload);
      setAnswer({ ok: true, text: `posted at ${clock(new Date())}` });
    } catch (error) {
      setAnswer({ ok: false, text: (error as Error).message });
    }
  };
  return (
    <form class="post" onSubmit={post}>
      <label>message <input value={payload} onInput={(e) => setPayload(e.currentTarget.value)} /></label>
      <button type="submit">Post</button>
      <output class={answer?.ok === false ? 'bad' : 'quiet'}>{answer?.text}</output>
    </form>
  );
}

export function TryIt() {
  const name = channel.value;
  useEffect(() => () => subscription?.close(), []);
  return (
    <section class="panel try" id="try">
      <div class="head"><h2>Try it</h2><span class="quiet">one channel, many ways in</span></div>
      <div class="halves">
        <div>
          <form class="post" onSubmit={(e) => { e.preventDefault(); listening.value === name ? stop() : listen(name); }}>
            <label>channel <input value={name} maxLength={255} required onInput={(e) => (channel.value = e.currentTarget.value)} /></label>
            <button type="submit" class={listening.value === name ? 'stop' : ''}>{listening.value === name ? 'Stop' : 'Listen'}</button>
            <output class={refused.value ? 'bad' : 'quiet'}>{refused.value ?? (listening.value ? `listening on ${listening.value}` : '')}</output>
          </form>
          {tableOf(name) === undefined ? <Post /> : <p class="quiet">Nobody posts here: who writes a row of the table is heard.</p>}
          <ol class="heard" aria-label="messages heard" tabIndex={0}>
            {heard.value.length === 0 && <li class="empty">{listening.value ? 'Waiting for a message.' : 'Messages appear here while you listen.'}</li>}
            {heard.value.map((h) => <li key={h.n} class={h.kind}><time>{clock(h.at)}</time> <span>{h.text}</span></li>)}
          </ol>
        </div>
        <div class="lines">{lines(name).map((l) => <Copy key={l.title} {...l} />)}</div>
      </div>
    </section>
  );
}
