// Shows that the fan-out driver and our gateway agree: small counts, every delivery accounted for, nothing timed.
// node bench/runner/smoke_test.mjs BUILD_FOLDER
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { stop_all } from './processes.mjs';
import { fanout_servers, start_arm } from './servers.mjs';

const paths = { build: process.argv[2], temp: mkdtempSync(join(tmpdir(), 'postbus-bench-')) };
try {
  const { postbus, raw } = fanout_servers(paths);
  for (const server of [postbus, raw]) {
    const arm = await start_arm(server, paths);
    for (const count of [1, 20]) {
      await arm.load.ask(`connect ${count}`);
      for (const phase of ['closed 1 0.1', 'closed 32 0.1', 'open 200 0.1']) {
        const result = await arm.load.ask(phase);
        assert.equal(result.missing, 0, `${server.name}, ${count} subscribers, ${phase}: ${result.missing} deliveries are missing`);
        assert.ok(result.per_second > 0);
      }
      await arm.load.ask('disconnect');
    }
    await arm.stop();
  }
} finally {
  await stop_all();
  rmSync(paths.temp, { recursive: true, force: true });
}
console.log('every delivery was accounted for');
