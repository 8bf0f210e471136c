// Random input that can be repeated: POSTBUS_SEED=… repeats a run.
export const seed = Number(process.env.POSTBUS_SEED ?? Math.floor(Math.random() * 2 ** 32));

/** A generator of numbers in [0, 1) (mulberry32). */
export function random(from = seed) {
  let state = from >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
