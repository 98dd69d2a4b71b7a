/** What an edit begins with and keeps. */

import { UsageError } from "../common/errors.js";
import { pythonFloat } from "../common/python_json.js";
import { sha256Hex } from "../common/sha256.js";

/**
 * @typedef {import("../bundle/bundle.js").Bundle} Bundle
 * @typedef {import("./size.js").Size} Size
 * @typedef {{ width: number, height: number, data: Uint8ClampedArray | Uint8Array }} Pixels
 *     an ImageData, whose alpha is ignored
 * @typedef {Float32Array | Pixels} Image [3, height, width] or one for each image of the call, -1
 *     black to 1 white; or pixels of that size
 *
 * @typedef {object} EditOptions
 * @property {Image} [initImage] image to begin with, with strength
 * @property {number} [strength] how much of it is new: 0 gives it back, 1 is text-to-image
 * @property {Image} [known] image whose pixels stay where the mask is 0, with mask
 * @property {Float32Array} [mask] [height, width] or one for each image, 1 new to 0 stays
 *
 * @typedef {{ image: Float32Array, mask: Float32Array }} Known mask: [images, 1, height, width], 1
 *     where the pixel stays
 *
 * @typedef {object} Edit
 * @property {Float32Array | undefined} init [images, 3, height, width]
 * @property {number} strength
 * @property {Known | undefined} known
 */

/**
 * Check arguments and repeat single images for the batch.
 *
 * @param {Bundle} bundle
 * @param {number} count images of the batch
 * @param {Size} size
 * @param {EditOptions} options
 * @returns {Edit}
 * @throws {UsageError} arguments that do not fit together, or the bundle
 */
export function makeEdit(bundle, count, size, { initImage, strength, known, mask }) {
  if ((initImage === undefined) !== (strength === undefined)) {
    throw new UsageError("initImage and strength belong together; give both or neither");
  }
  if ((known === undefined) !== (mask === undefined)) {
    throw new UsageError("known and mask belong together; give both or neither");
  }
  if (strength !== undefined && !(strength >= 0 && strength <= 1)) {
    const text = typeof strength === "number" ? pythonFloat(strength) : typeof strength;
    throw new UsageError(
      `strength must be from 0 (the image as it is) to 1 (a new one), got ${text}`,
    );
  }
  if (known !== undefined && bundle.manifest.formatVersion < 2) {
    throw new UsageError(
      `${bundle.name}: this bundle cannot edit images, because its step graph is of format ` +
        "version 1; re-run minit2i export",
    );
  }
  return {
    init: initImage && imagesOf("initImage", initImage, count, size),
    strength: strength ?? 1,
    known: known && mask && knownOf(known, mask, count, size),
  };
}

/**
 * The start state at t = 1 - strength, in place: t * image + (1 - t) * noise.
 *
 * @param {Edit} edit
 * @param {Float32Array} noise of the bundle's deviation
 */
export function begin({ init, strength }, noise) {
  if (!init) return;
  const t = Math.fround(1 - strength);
  const rest = Math.fround(strength);
  for (let i = 0; i < noise.length; i++) {
    noise[i] = Math.fround(t * init[i]) + Math.fround(rest * noise[i]);
  }
}

/**
 * The final state with the known pixels in it, whatever the table ends on.
 *
 * @param {Edit} edit
 * @param {Float32Array} state [images, 3, height, width]
 * @param {number} count images of the batch
 */
export function finish({ known }, state, count) {
  if (!known) return state;
  const plane = known.mask.length / count;
  return state.map((value, i) => {
    // A mask has one channel where an image has three.
    const place = Math.floor(i / (3 * plane)) * plane + (i % plane);
    return known.mask[place] === 1 ? known.image[i] : value;
  });
}

/**
 * What a record says of an image's edit; null where there is none.
 *
 * @param {Edit} edit
 * @param {number} index of the image
 * @param {number} count images of the batch
 */
export async function editRecord({ init, strength, known }, index, count) {
  if (!init && !known) return null;
  return {
    feather: 0,
    init_image: await digestOf(init, index, count),
    known: await digestOf(known?.image, index, count),
    mask: await digestOf(known?.mask, index, count),
    outpaint: null,
    strength: init ? strength : null,
  };
}

/**
 * @param {Float32Array | undefined} values
 * @param {number} index
 * @param {number} count
 */
async function digestOf(values, index, count) {
  if (!values) return null;
  const length = values.length / count;
  const one = values.slice(index * length, (index + 1) * length);
  return sha256Hex(new Uint8Array(one.buffer));
}

/**
 * @param {Image} image
 * @param {Float32Array} mask
 * @param {number} count
 * @param {Size} size
 * @returns {Known}
 */
function knownOf(image, mask, count, size) {
  const isOpen = repeated("mask", mask, count, size, 1);
  if (!isOpen.every((value) => value >= 0 && value <= 1)) {
    throw new UsageError("mask must hold values from 0 (stays) to 1 (new)");
  }
  const isEmpty = isOpen.every((value) => value === 0);
  if (isEmpty || isOpen.every((value) => value === 1)) {
    throw new UsageError(
      `mask is all ${isEmpty ? "0, so nothing" : "1, so everything"} would be new; mark a part ` +
        "of the image",
    );
  }
  return {
    image: imagesOf("known", image, count, size),
    mask: isOpen.map((value) => 1 - value),
  };
}

/**
 * @param {string} name
 * @param {Image} image
 * @param {number} count
 * @param {Size} size
 */
function imagesOf(name, image, count, size) {
  if (image instanceof Float32Array) return repeated(name, image, count, size, 3);
  const { width, height } = size;
  if (image?.width !== width || image.height !== height || image.data?.length !== 4 * width * height) {
    throw new UsageError(
      `${name} must be a Float32Array or an ImageData of ${width}x${height} pixels, got ` +
        `${image?.width}x${image?.height}`,
    );
  }
  const plane = width * height;
  const values = Float32Array.from({ length: 3 * plane }, (_, i) => {
    const byte = image.data[4 * (i % plane) + Math.floor(i / plane)];
    return Math.fround(byte / 127.5) - 1;
  });
  return repeated(name, values, count, size, 3);
}

/**
 * @param {string} name
 * @param {unknown} values
 * @param {number} count
 * @param {Size} size
 * @param {number} channels
 */
function repeated(name, values, count, { width, height }, channels) {
  const length = channels * height * width;
  if (!(values instanceof Float32Array) || ![length, count * length].includes(values.length)) {
    throw new UsageError(
      `${name} must be a Float32Array of ${length} values, [${channels}, ${height}, ${width}], ` +
        `or as many for each image, got ${values instanceof Float32Array ? values.length : typeof values}`,
    );
  }
  if (!values.every(Number.isFinite)) {
    throw new UsageError(`${name} must be finite, got NaN or infinity`);
  }
  if (values.length === count * length) return values;
  const all = new Float32Array(count * length);
  for (let image = 0; image < count; image += 1) all.set(values, image * length);
  return all;
}
