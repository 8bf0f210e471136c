// Builds the page (src → dist, which the binary embeds) and the npm client (client/postbus.ts → client/dist).
//   node build.mjs            both
//   node build.mjs --client   the client alone
//   node build.mjs --check    fails when dist is not what src builds to
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, cpSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = fileURLToPath(new URL('.', import.meta.url));
const at = (...path) => join(here, ...path);

async function buildClient() {
  await build({ entryPoints: [at('client/postbus.ts')], outfile: at('client/dist/postbus.js'), format: 'esm', target: 'es2022', logLevel: 'warning' });
  execFileSync(process.execPath, [at('node_modules/typescript/bin/tsc'), '-p', at('client/tsconfig.json')], { stdio: 'inherit' });
}

async function buildPage(folder) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  await build({
    entryPoints: { app: at('src/main.tsx'), style: at('src/style.css') },
    outdir: folder, bundle: true, minify: true, format: 'esm', target: ['es2022', 'chrome110', 'firefox110', 'safari16'],
    jsx: 'automatic', jsxImportSource: 'preact', legalComments: 'eof', logLevel: 'warning',
  });
  for (const name of ['index.html', 'favicon.svg']) cpSync(at('src', name), join(folder, name));
}

function differences(a, b) {
  const names = new Set([...readdirSync(a), ...readdirSync(b)]);
  const read = (folder, name) => { try { return readFileSync(join(folder, name), 'utf8'); } catch { return undefined; } };
  return [...names].filter((name) => read(a, name) !== read(b, name));
}

const mode = process.argv[2];
if (mode === '--check') {
  const fresh = mkdtempSync(join(tmpdir(), 'postbus-page-'));
  await buildPage(fresh);
  const stale = differences(at('dist'), fresh);
  rmSync(fresh, { recursive: true });
  if (stale.length > 0) {
    console.error(`web/dist is not what web/src builds to (${stale.join(', ')}): run "npm run build" in web/ and commit the result`);
    process.exit(1);
  }
} else {
  await buildClient();
  if (mode !== '--client') await buildPage(at('dist'));
}
