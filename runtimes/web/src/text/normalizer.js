/** The normalizer of a tokenizer.json: the steps that T5's have. */

import { JsonError } from "../common/errors.js";
import { brief } from "../common/json.js";
import { clusterEnd, unitsAt, whiteEnd, whiteStart } from "../common/unicode.js";

/** @typedef {(text: string) => string} Step */

const MAX_CLUSTER_BYTES = 5;
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * The rules of SentencePiece's character map: a double array that maps UTF-8 to UTF-8.
 *
 * Source: the format of the darts-clone library.
 */
export class Charsmap {
  #units;
  #texts;

  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const trieBytes = bytes.length < 4 ? 0 : view.getUint32(0, true);
    if (trieBytes === 0 || trieBytes % 4 !== 0 || trieBytes > bytes.length - 4) {
      throw new JsonError("precompiled_charsmap is corrupt");
    }
    this.#units = Uint32Array.from({ length: trieBytes / 4 }, (_, index) =>
      view.getUint32(4 + 4 * index, true),
    );
    this.#texts = bytes.subarray(4 + trieBytes);
  }

  /**
   * The tokenizers library looks up a short cluster at once and, unlike SentencePiece, takes the
   * shortest entry that starts it and drops the rest. Equal ids need the same here.
   *
   * @param {string} text
   * @returns {string}
   */
  apply(text) {
    let result = "";
    for (let at = 0; at < text.length; ) {
      const end = clusterEnd(text, at);
      const cluster = encoder.encode(text.slice(at, end));
      const whole = cluster.length <= MAX_CLUSTER_BYTES ? this.#find(cluster) : undefined;
      if (whole !== undefined) {
        result += whole;
        at = end;
      }
      while (at < end) {
        const one = text.slice(at, at + unitsAt(text, at));
        result += this.#find(encoder.encode(one)) ?? one;
        at += one.length;
      }
    }
    return result;
  }

  /** @param {Uint8Array} bytes */
  #find(bytes) {
    const units = this.#units;
    let node = offsetOf(units[0]);
    for (const byte of bytes) {
      node = (node ^ byte) >>> 0;
      if (node >= units.length || (units[node] & 0x800000ff) !== byte) return undefined;
      const hasLeaf = (units[node] >>> 8) & 1;
      node = (node ^ offsetOf(units[node])) >>> 0;
      if (hasLeaf) return this.#textAt(node < units.length ? units[node] & 0x7fffffff : Infinity);
    }
    return undefined;
  }

  /** @param {number} at */
  #textAt(at) {
    if (at >= this.#texts.length) return "";
    const end = this.#texts.indexOf(0, at);
    try {
      return decoder.decode(this.#texts.subarray(at, end < 0 ? undefined : end));
    } catch {
      throw new JsonError("precompiled_charsmap gives broken UTF-8");
    }
  }
}

/**
 * The steps of a normalizer in order, as one function.
 *
 * @param {any} value of tokenizer.json; null for none
 * @returns {Step}
 */
export function readNormalizer(value) {
  const steps = value === null ? [] : stepsOf(value);
  return (text) => steps.reduce((result, step) => step(result), text);
}

/**
 * @param {any} value
 * @returns {Step[]}
 */
function stepsOf(value) {
  switch (value?.type) {
    case "Sequence":
      return value.normalizers.flatMap(stepsOf);
    case "Precompiled": {
      const map = new Charsmap(decodeBase64(value.precompiled_charsmap));
      return [(text) => map.apply(text)];
    }
    case "Strip":
      return [
        ...(value.strip_left ? [stripLeft] : []),
        ...(value.strip_right ? [stripRight] : []),
      ];
    case "Replace":
      return [replaceStep(value.pattern, value.content)];
    default:
      throw new JsonError(`normalizer ${brief(value?.type)} is not one of a T5 tokenizer`);
  }
}

/**
 * @param {any} pattern
 * @param {any} content
 * @returns {Step}
 */
function replaceStep(pattern, content) {
  if (typeof content !== "string") throw new JsonError("normalizer.content must be text");
  if (pattern?.Regex === " {2,}") return (text) => text.replace(/ {2,}/g, () => content);
  if (typeof pattern?.String !== "string" || pattern.String === "") {
    throw new JsonError(`normalizer pattern ${brief(pattern)} is not one of a T5 tokenizer`);
  }
  return (text) => text.replaceAll(pattern.String, () => content);
}

/** @param {string} text */
function stripLeft(text) {
  return text.slice(whiteEnd(text, 0));
}

/** @param {string} text */
function stripRight(text) {
  return text.slice(0, whiteStart(text, 0, text.length));
}

/** @param {number} unit */
function offsetOf(unit) {
  return ((unit >>> 10) << ((unit & (1 << 9)) >>> 6)) >>> 0;
}

/** @param {any} text */
function decodeBase64(text) {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    throw new JsonError("precompiled_charsmap is not base64");
  }
}
