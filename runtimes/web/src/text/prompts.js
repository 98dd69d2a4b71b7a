/** Prompts: one text, or a weighted mix of several that generate one image together. */

import { UsageError } from "../common/errors.js";
import { FLOAT_MAX } from "../bundle/table.js";

export class Mix {
  /**
   * Each text is a branch of its own; their estimates of the clean image are summed by weight.
   *
   * @param {readonly (readonly [string, number])[]} parts texts and weights; the weights are
   *     divided by their sum, which is not 0
   * @throws {UsageError} no parts, or weights outside these rules
   */
  constructor(parts) {
    const isPairs =
      Array.isArray(parts) &&
      parts.every((part) => Array.isArray(part) && typeof part[1] === "number");
    if (!isPairs || parts.length === 0) {
      throw new UsageError("a mix must be pairs of a text and a number, at least one");
    }
    this.parts = parts;
    const sum = parts.reduce((total, [, weight]) => total + weight, 0);
    /** The weights divided by their sum. */
    this.shares = parts.map(([, weight]) => weight / sum);
    // The graph takes float32, where a larger share would become infinity; NaN fails too.
    if (!this.shares.every((share) => Math.abs(share) <= FLOAT_MAX)) {
      const weights = parts.map(([, weight]) => weight);
      throw new UsageError(
        `mix weights must be finite numbers whose sum is not 0, got ${weights.join(", ")}`,
      );
    }
  }
}

/** @typedef {string | Mix} Prompt */

/**
 * One prompt or several, as mixes with the same shares.
 *
 * @param {Prompt | readonly Prompt[]} prompts
 * @returns {Mix[]}
 * @throws {UsageError} no prompt, or other types
 */
export function asMixes(prompts) {
  const items = Array.isArray(prompts) ? prompts : [prompts];
  if (items.length === 0) {
    throw new UsageError("expected at least one prompt (it may be empty), got none");
  }
  const mixes = items.map((item) => {
    if (item instanceof Mix) return item;
    if (typeof item === "string") return new Mix([[item, 1]]);
    throw new UsageError(`prompts must be a string, a Mix or a list of them, got ${typeof item}`);
  });
  const differs = mixes.findIndex(({ shares }) => shares.join() !== mixes[0].shares.join());
  if (differs >= 0) {
    throw new UsageError(
      `prompt ${differs} has weights ${mixes[differs].shares}, but prompt 0 has ` +
        `${mixes[0].shares}; generate prompts of other weights in another call`,
    );
  }
  return mixes;
}
