/** The size of a request's images. */

import { UsageError } from "../common/errors.js";

/**
 * @typedef {import("../bundle/bundle.js").Bundle} Bundle
 * @typedef {{ width: number, height: number }} Size pixels
 */

/**
 * Check a size; without one, the bundle's.
 *
 * @param {Bundle} bundle
 * @param {readonly [number, number]} [size] width and height in pixels
 * @returns {Size}
 * @throws {UsageError} no such size, or not one of the bundle's
 */
export function sizeOf({ name, manifest }, size) {
  const { imageWidth, imageHeight, patchSize } = manifest.model;
  if (size === undefined) return { width: imageWidth, height: imageHeight };
  if (!Array.isArray(size) || size.length !== 2 || !size.every(Number.isInteger)) {
    throw new UsageError(`size must be [width, height] in pixels, got ${size}`);
  }
  const [width, height] = size;
  const text = `${width}x${height}`;
  if (width === imageWidth && height === imageHeight) return { width, height };
  if (!manifest.sideBounds) {
    throw new UsageError(
      `size is ${text}, but ${name} has images of ${imageWidth}x${imageHeight} alone; export it ` +
        "with --sides MIN-MAX",
    );
  }
  const [least, most] = manifest.sideBounds;
  if (width % patchSize !== 0 || height % patchSize !== 0) {
    throw new UsageError(
      `size is ${text}, but both sides must be multiples of the patch of ${patchSize} pixels`,
    );
  }
  if (Math.min(width, height) < least || Math.max(width, height) > most) {
    throw new UsageError(`size is ${text}, but sides of ${name} are ${least} to ${most} pixels`);
  }
  return { width, height };
}
