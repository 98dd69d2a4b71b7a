/**
 * The start noise of every runtime and language: Philox4x32-10 and Box-Muller.
 *
 * Element i of the flattened array is output i % 4 of block i / 4. docs/reference/bundle.md has the
 * definition.
 *
 * Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), and its Random123
 * library for the constants; Box and Muller 1958.
 */

import { UsageError } from "./errors.js";

export const GENERATOR = "philox4x32-10/box-muller";

const NUM_ROUNDS = 10;
const SEED_LIMIT = 1n << 64n;

/**
 * Unit normal noise that depends on the seed, the stream and the element index only.
 *
 * @param {number | bigint} seed 0 to 2**64 - 1; a bigint above 2**53 - 1
 * @param {number} count
 * @param {number} [stream] 0 is the start noise; row k of a stochastic table takes stream k + 1
 * @returns {Float32Array} [count]
 */
export function standardNoise(seed, count, stream = 0) {
  const key = checkSeed(seed);
  const low = Number(key & 0xffffffffn);
  const high = Number(key >> 32n);
  const noise = new Float32Array(count);
  const words = new Uint32Array(4);
  for (let block = 0; 4 * block < count; block++) {
    words.set([block >>> 0, Math.floor(block / 2 ** 32), stream, 0]);
    philox(words, low, high);
    boxMuller(words, noise, 4 * block);
  }
  return noise;
}

/**
 * Each image's own noise, one after the other.
 *
 * @param {readonly bigint[]} seeds one for each image
 * @param {number} count values of an image
 * @param {number} [stream]
 * @returns {Float32Array} [seeds, count]
 */
export function batchNoise(seeds, count, stream = 0) {
  const noise = new Float32Array(seeds.length * count);
  seeds.forEach((seed, index) => noise.set(standardNoise(seed, count, stream), index * count));
  return noise;
}

/**
 * A seed as a bigint.
 *
 * @param {unknown} seed
 * @returns {bigint}
 */
export function checkSeed(seed) {
  const exact = typeof seed === "bigint" || Number.isSafeInteger(seed);
  const value = exact ? BigInt(/** @type {number | bigint} */ (seed)) : -1n;
  if (value < 0n || value >= SEED_LIMIT) {
    throw new UsageError(
      `seed must be an integer from 0 to 2**64 - 1 (a bigint above 2**53 - 1), got ${String(seed)}`,
    );
  }
  return value;
}

/**
 * Ten rounds of Philox4x32, in place.
 *
 * @param {Uint32Array} words [4], the counter
 * @param {number} low key word
 * @param {number} high key word
 */
function philox(words, low, high) {
  let [c0, c1, c2, c3] = words;
  for (let round = 0; round < NUM_ROUNDS; round++) {
    const high0 = multiplyHigh(0xd2511f53, c0);
    const high2 = multiplyHigh(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [
      (high2 ^ c1 ^ low) >>> 0,
      Math.imul(0xcd9e8d57, c2) >>> 0,
      (high0 ^ c3 ^ high) >>> 0,
      Math.imul(0xd2511f53, c0) >>> 0,
    ];
    low = (low + 0x9e3779b9) >>> 0;
    high = (high + 0xbb67ae85) >>> 0;
  }
  words.set([c0, c1, c2, c3]);
}

/**
 * The upper 32 bits of a product of two 32-bit words, from 16-bit halves.
 *
 * @param {number} a
 * @param {number} b
 */
function multiplyHigh(a, b) {
  const a1 = a >>> 16;
  const a0 = a & 0xffff;
  const b1 = b >>> 16;
  const b0 = b & 0xffff;
  const cross = a1 * b0 + ((a0 * b0) >>> 16);
  const low = (cross & 0xffff) + a0 * b1;
  return a1 * b1 + Math.floor(cross / 0x10000) + Math.floor(low / 0x10000);
}

/**
 * @param {Uint32Array} words [4]
 * @param {Float32Array} noise written from `at` on, as far as it reaches
 * @param {number} at
 */
function boxMuller(words, noise, at) {
  for (const pair of [0, 2]) {
    // The half keeps the uniform number above 0, where the logarithm is finite.
    const radius = Math.sqrt(-2 * Math.log((words[pair] + 0.5) * 2 ** -32));
    const angle = 2 * Math.PI * ((words[pair + 1] + 0.5) * 2 ** -32);
    // Writes past the end of a typed array are ignored: a last partial block is cut.
    noise[at + pair] = radius * Math.cos(angle);
    noise[at + pair + 1] = radius * Math.sin(angle);
  }
}
