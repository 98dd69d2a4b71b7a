/**
 * SHA-256. Browsers have it on pages over https and on localhost alone, so that a page over plain
 * http needs one of its own.
 *
 * Source: FIPS 180-4.
 */

const BLOCK_BYTES = 64;

/**
 * Digest of bytes, as 64 hexadecimal digits.
 *
 * @param {Uint8Array} bytes
 * @returns {Promise<string>}
 */
export async function sha256Hex(bytes) {
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) return sha256(bytes);
  const digest = await subtle.digest("SHA-256", /** @type {BufferSource} */ (bytes));
  return hex(new Uint8Array(digest));
}

/**
 * Digest of UTF-8 text.
 *
 * @param {string} text
 */
export function sha256Text(text) {
  return sha256Hex(new TextEncoder().encode(text));
}

/**
 * The same digest without the browser's help.
 *
 * @param {Uint8Array} bytes
 * @returns {string}
 */
export function sha256(bytes) {
  const state = fractions(8, 1 / 2);
  const constants = fractions(64, 1 / 3);
  const words = new Uint32Array(64);
  const numWhole = bytes.length - (bytes.length % BLOCK_BYTES);
  for (let at = 0; at < numWhole; at += BLOCK_BYTES) {
    compress(state, constants, words, bytes, at);
  }
  const end = lastBlocks(bytes.subarray(numWhole), bytes.length);
  for (let at = 0; at < end.length; at += BLOCK_BYTES) {
    compress(state, constants, words, end, at);
  }
  const digest = new DataView(new ArrayBuffer(32));
  state.forEach((word, index) => digest.setUint32(4 * index, word));
  return hex(new Uint8Array(digest.buffer));
}

/**
 * First 32 bits of the fractions of a root of the first primes.
 *
 * @param {number} count
 * @param {number} power
 */
function fractions(count, power) {
  const result = new Uint32Array(count);
  for (let candidate = 2, index = 0; index < count; candidate++) {
    let divisor = 2;
    while (candidate % divisor !== 0) divisor++;
    if (divisor !== candidate) continue;
    const root = candidate ** power;
    result[index++] = Math.floor((root - Math.floor(root)) * 2 ** 32);
  }
  return result;
}

/**
 * @param {Uint8Array} rest less than a block
 * @param {number} numBytes of the complete message
 */
function lastBlocks(rest, numBytes) {
  const size = rest.length < BLOCK_BYTES - 8 ? BLOCK_BYTES : 2 * BLOCK_BYTES;
  const end = new Uint8Array(size);
  end.set(rest);
  end[rest.length] = 0x80;
  const view = new DataView(end.buffer);
  view.setUint32(size - 8, Math.floor(numBytes / 2 ** 29));
  view.setUint32(size - 4, (numBytes * 8) >>> 0);
  return end;
}

/**
 * @param {Uint32Array} state
 * @param {Uint32Array} constants
 * @param {Uint32Array} words scratch
 * @param {Uint8Array} bytes
 * @param {number} at start of the block
 */
function compress(state, constants, words, bytes, at) {
  for (let i = 0; i < 16; i++) {
    const j = at + 4 * i;
    words[i] = (bytes[j] << 24) | (bytes[j + 1] << 16) | (bytes[j + 2] << 8) | bytes[j + 3];
  }
  for (let i = 16; i < 64; i++) {
    const x = words[i - 15];
    const y = words[i - 2];
    const s0 = rotate(x, 7) ^ rotate(x, 18) ^ (x >>> 3);
    const s1 = rotate(y, 17) ^ rotate(y, 19) ^ (y >>> 10);
    words[i] = (words[i - 16] + s0 + words[i - 7] + s1) | 0;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i++) {
    const s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
    const t1 = (h + s1 + ((e & f) ^ (~e & g)) + constants[i] + words[i]) | 0;
    const s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
    const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + t1) | 0, c, b, a, (t1 + t2) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((word, index) => {
    state[index] += word;
  });
}

/**
 * @param {number} word
 * @param {number} count
 */
function rotate(word, count) {
  return (word >>> count) | (word << (32 - count));
}

/** @param {Uint8Array} bytes */
function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
