/** States to pixels. */

import { RuntimeFailure } from "../common/errors.js";

/**
 * clamp(x, -1, 1) * 127.5 + 128, at most 255, truncated.
 *
 * @param {Float32Array} state [images, 3, height, width], -1 black to 1 white
 * @param {import("./size.js").Size} size
 * @returns {Uint8Array[]} each [height, width, 3]
 * @throws {RuntimeFailure} NaN or infinity
 */
export function toPixels(state, { width, height }) {
  const plane = width * height;
  const images = [];
  for (let start = 0; start < state.length; start += 3 * plane) {
    const pixels = new Uint8Array(3 * plane);
    for (let i = 0; i < 3 * plane; i++) {
      const value = state[start + i];
      if (!Number.isFinite(value)) throw overflow(images.length);
      const clamped = Math.min(Math.max(value, -1), 1);
      // In float32, as every other runtime does.
      const scaled = Math.fround(Math.fround(clamped * 127.5) + 128);
      pixels[(i % plane) * 3 + Math.floor(i / plane)] = Math.min(scaled, 255);
    }
    images.push(pixels);
  }
  return images;
}

/**
 * @param {Uint8Array} pixels [height, width, 3]
 * @returns {Uint8ClampedArray<ArrayBuffer>} [height, width, 4], opaque, as ImageData takes it
 */
export function toRgba(pixels) {
  const rgba = new Uint8ClampedArray((pixels.length / 3) * 4).fill(255);
  for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
    rgba.set(pixels.subarray(from, from + 3), to);
  }
  return rgba;
}

/** @param {number} index */
function overflow(index) {
  return new RuntimeFailure(
    `image ${index} of the batch holds NaN or infinity; use a higher precision (fp32) and run ` +
      "minit2i verify",
  );
}
