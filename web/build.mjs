// Builds the page (src → dist, which the binary embeds) and the npm client (client/postbus.ts → client/dist).
//   node build.mjs            both
//   node build.mjs --client   the client alone
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, cpSync } from 'node:fs';
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

await buildClient();
if (process.argv[2] !== '--client') await buildPage(at('dist'));
