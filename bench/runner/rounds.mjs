// Rounds of alternating arms, and what is made of them. A measurement during which strangers used more than a bound of CPU
// is thrown away and made again, a bounded number of times; what was never quiet is marked as noisy.
import { foreign_cores, moment } from './machine.mjs';

export const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

export class session {
  constructor({ rounds, quick, foreign_bound, retries, progress }) {
    Object.assign(this, { rounds, quick, foreign_bound, retries_left: retries, progress });
    this.fewer_rounds = Math.min(rounds, 3); // where a round is long
    this.discarded = 0;
    this.noisy = 0;
    this.rows = [];
    this.notes = [];
  }

  /** Runs `measure` until it went undisturbed, at most three times; its result gets `foreign` and `noisy`. */
  async quietly(label, measure) {
    let best;
    for (let attempt = 0; attempt < 3; ++attempt) {
      const before = moment();
      const result = await measure();
      result.foreign = foreign_cores(before);
      if (!best || result.foreign < best.foreign) best = result;
      if (best.foreign <= this.foreign_bound) break;
      if (attempt === 2 || this.retries_left <= 0) {
        best.noisy = true;
        ++this.noisy;
        break;
      }
      --this.retries_left;
      ++this.discarded;
      this.progress(`${label}: ${result.foreign.toFixed(2)} cores went to strangers, once more`);
    }
    return best;
  }

  /** One round after the other, the arms in an order that rotates: results[arm] is the list of what run(arm, round) gave. */
  async alternate(label, arms, run, rounds = this.rounds) {
    const results = Object.fromEntries(arms.map((arm) => [arm, []]));
    for (let round = 0; round < rounds; ++round) {
      for (let i = 0; i < arms.length; ++i) {
        const arm = arms[(i + round) % arms.length];
        this.progress(`${label}: round ${round + 1} of ${rounds}, ${arm}`);
        results[arm].push(await run(arm, round));
      }
    }
    return results;
  }

  /**
   * One row of the table. `ours` and `rival` are lists of one value per round; the ratio is the median of the rounds' own
   * ratios, since the arms of one round saw the same weather. Without a rival the target is for the value itself.
   */
  row({ name, unit, ours, rival, rival_name, target, invert = false, noisy = false, command }) {
    const made = { name, unit, ours: spread(ours), command, noisy };
    if (rival) {
      made.rival = { name: rival_name, ...spread(rival) };
      made.ratio = spread(ours.map((value, i) => (invert ? rival[i] / value : value / rival[i])));
    }
    const judged = rival ? made.ratio.median : made.ours.median;
    if (target) {
      made.target = target;
      made.pass = target.at_least !== undefined ? judged >= target.at_least : judged <= target.at_most;
    }
    this.rows.push(made);
    return made;
  }
  note(text) {
    this.notes.push(text);
  }
}

function spread(values) {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values), rounds: values };
}
