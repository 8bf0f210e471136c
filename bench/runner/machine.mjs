// What the machine says of its processes: CPU used, memory held, and how much of the CPU went to strangers.
import { readFileSync, readdirSync } from 'node:fs';
import { cpus } from 'node:os';

const ticks_per_second = 100; // USER_HZ, fixed in Linux's /proc interface

function stat_of(pid) {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return { parent: Number(fields[1]), ticks: fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0) };
  } catch {
    return null; // it has ended
  }
}

/** `root` and everything below it. */
export function tree(root) {
  const children = new Map();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const found = stat_of(name);
    if (!found) continue;
    if (!children.has(found.parent)) children.set(found.parent, []);
    children.get(found.parent).push(Number(name));
  }
  const all = [root];
  for (let i = 0; i < all.length; ++i) all.push(...(children.get(all[i]) ?? []));
  return all;
}

/** CPU seconds that the processes, and the children they have waited for, have used so far. */
function cpu_seconds(pids) {
  return pids.reduce((sum, pid) => sum + (stat_of(pid)?.ticks ?? 0), 0) / ticks_per_second;
}

/** The same to the nanosecond, for processes that live on; those that ended count by the ticks that their parent was told. */
export function exact_cpu_seconds(pids) {
  const read = (path) => readFileSync(path, 'latin1');
  let total = 0;
  for (const pid of pids) {
    try {
      for (const thread of readdirSync(`/proc/${pid}/task`)) total += Number(read(`/proc/${pid}/task/${thread}/schedstat`).split(' ')[0]) / 1e9;
      const text = read(`/proc/${pid}/stat`);
      const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
      total += (Number(fields[13]) + Number(fields[14])) / ticks_per_second;
    } catch {
      // it has just ended
    }
  }
  return total;
}

/** CPU seconds spent by the whole machine so far; stolen time is somebody else's too. */
function busy_seconds() {
  const [, user, nice, system, , , irq, softirq, steal] = readFileSync('/proc/stat', 'latin1').split('\n')[0].split(/\s+/).map(Number);
  return (user + nice + system + irq + softirq + steal) / ticks_per_second;
}

/** A moment; `foreign_cores(since)` is how many cores went to processes that are not ours since then. */
export function moment() {
  return { at: performance.now(), busy: busy_seconds(), own: cpu_seconds(tree(process.pid)) };
}
export function foreign_cores(since) {
  const now = moment();
  return Math.max(0, (now.busy - since.busy - (now.own - since.own)) / Math.max(0.001, (now.at - since.at) / 1000));
}

/** Bytes of user memory of these processes; shared pages count by their share (PSS). */
export function memory_bytes(pids) {
  return pids.reduce((sum, pid) => sum + Number(/^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1'))[1]) * 1024, 0);
}

export function describe_machine() {
  const model = /^model name\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'latin1'))?.[1] ?? 'unknown processor';
  const memory = Number(/^MemTotal:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'latin1'))[1]) / 1048576;
  const kernel = readFileSync('/proc/sys/kernel/osrelease', 'latin1').trim();
  return { cores: cpus().length, model, memory_gib: Math.round(memory), kernel };
}

/** Open files a process of ours may have. */
export function open_files() {
  return Number(/^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))[1]);
}

/** statfs types of file systems without a disk below: tmpfs, ramfs. */
export const memory_file_systems = new Set([0x01021994, 0x858458f6]);

export const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));
