import { useState } from 'preact/hooks';
import { useToken } from './access';

export function TokenForm({ why }: { why: string }) {
  const [text, setText] = useState('');
  return (
    <section class="panel token">
      <h2>{why}</h2>
      <form onSubmit={(e) => { e.preventDefault(); useToken(text.trim()); }}>
        <label>Token <input type="password" autocomplete="off" value={text} onInput={(e) => setText(e.currentTarget.value)} required /></label>
        <button type="submit">Use it in this window</button>
      </form>
      <p class="quiet">The page needs a token that may listen on what it shows. It is kept until this window is closed and sent to this gateway only.</p>
    </section>
  );
}
