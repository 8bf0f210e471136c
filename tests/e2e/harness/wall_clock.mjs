// A wall clock of a process that a test can set while it runs (wall_clock.cpp, preloaded). The steady clock goes on.
import { chmodSync, closeSync, copyFileSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { binary } from './gateway.mjs';

export class WallClock {
  constructor() {
    this.folder = mkdtempSync('/tmp/postbus-e2e-clock-');
    chmodSync(this.folder, 0o755);  // PostgreSQL's user is another one
    const shim = join(this.folder, 'wall_clock.so'), file = join(this.folder, 'seconds');
    copyFileSync(join(dirname(binary), 'e2e_wall_clock.so'), shim);
    this.file = openSync(file, 'w+', 0o644);
    this.set(0);
    this.env = { LD_PRELOAD: shim, WALL_CLOCK_FILE: file };
  }

  /** From now on the process is this many hours ahead of the true time. */
  set(hours) {
    this.hours = hours;
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(Math.round(hours * 3600)));
    writeSync(this.file, bytes, 0, 8, 0);
  }

  /** How far an event's time lies from the true time, in hours. */
  static ahead(event) {
    return (Date.parse(event.at) - Date.now()) / 3_600_000;
  }

  remove() {
    closeSync(this.file);
    rmSync(this.folder, { recursive: true, force: true });
  }
}
