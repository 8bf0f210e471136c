import '@preact/signals';
import { Channels } from './channels';
import { Header } from './header';
import { Log } from './log';
import { Rates } from './rates';
import { Rows } from './rows';
import { Tier } from './tier';
import { Tiles } from './tiles';
import { TokenForm } from './token_form';
import { TryIt } from './try_it';
import { tokenWanted } from './access';
import { status } from './status';

export function App() {
  const wanted = tokenWanted.value;
  return (
    <>
      <Header />
      <main>
        {wanted ? <TokenForm why={wanted} /> : (
          <>
            <Tier />
            <Tiles />
            <div class="columns">
              <div class="column wide">
                <Rows />
                <Rates />
              </div>
              <div class="column">
                <Log />
                <Channels />
              </div>
            </div>
            <TryIt />
          </>
        )}
      </main>
      <footer>
        <span>Postbus {status.value?.version ?? ''}</span>
        <a href="metrics">metrics</a>
        <a href="health/ready">readiness</a>
        <a href="v1/status">status as JSON</a>
      </footer>
    </>
  );
}
