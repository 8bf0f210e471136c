import { render } from 'preact';
import { App } from './app';
import { start } from './live';
import { followStatus } from './status';
import { startTheme } from './theme';

startTheme();
start();
void followStatus();
render(<App />, document.getElementById('page')!);
