/** What the tokenizer needs of Unicode, fixed here because browsers differ in their versions. */

import { UsageError } from "./errors.js";
import { JOINERS } from "./joiners.js";

// White_Space of Unicode, as Rust's char::is_whitespace; \s of JavaScript has U+FEFF and lacks
// U+0085.
const WHITE_SPACE = ranges(
  "9-d 20-20 85-85 a0-a0 1680-1680 2000-200a 2028-2029 202f-202f 205f-205f 3000-3000",
);
// Control of Annex 29 up to U+FFFF: nothing joins these. Those beyond have four bytes, so that no
// cluster they could start is short.
const CONTROLS = ranges(
  "0-1f 7f-9f ad-ad 61c-61c 180e-180e 200b-200b 200e-200f 2028-202e 2060-206f feff-feff fff0-fffb",
);
// Prepend of Annex 29: they take the next character into their cluster.
const PREPENDED = ranges(
  "600-605 6dd-6dd 70f-70f 890-891 8e2-8e2 d4e-d4e 110bd-110bd 110cd-110cd 111c2-111c3 " +
    "113d1-113d1 1193f-1193f 11941-11941 11a3a-11a3a 11a84-11a89 11d46-11d46 11f02-11f02",
);

/**
 * Refuse text that has no UTF-8 form, or a NUL character, which ends a string in C.
 *
 * @param {unknown} text
 * @param {number} index of the prompt, for the error
 * @returns {string}
 */
export function checkText(text, index) {
  const prompt = `prompt ${index}`;
  if (typeof text !== "string") {
    throw new UsageError(`${prompt} must be a string, got ${text === null ? "null" : typeof text}`);
  }
  const characters = Array.from(text);
  const bad = characters.findIndex((one) => one === "\0" || /^[\ud800-\udfff]$/.test(one));
  if (bad >= 0 && characters[bad] === "\0") {
    throw new UsageError(`${prompt} has a NUL character at position ${bad}; remove it`);
  }
  if (bad >= 0) {
    throw new UsageError(
      `${prompt} is not valid Unicode at position ${bad}; pass text without half a surrogate pair`,
    );
  }
  return text;
}

/** @param {number} code */
export function isWhiteSpace(code) {
  return inRanges(code, WHITE_SPACE);
}

/**
 * Where white space that begins at a place ends.
 *
 * @param {string} text
 * @param {number} start
 */
export function whiteEnd(text, start) {
  // White space is in the basic plane: one code unit a character.
  while (start < text.length && isWhiteSpace(text.charCodeAt(start))) start++;
  return start;
}

/**
 * Where white space that ends at a place begins, but not before a floor.
 *
 * @param {string} text
 * @param {number} floor
 * @param {number} end
 */
export function whiteStart(text, floor, end) {
  while (end > floor && isWhiteSpace(text.charCodeAt(end - 1))) end--;
  return end;
}

/**
 * Code units of the character at a place.
 *
 * @param {string} text
 * @param {number} at
 */
export function unitsAt(text, at) {
  return codeAt(text, at) > 0xffff ? 2 : 1;
}

/**
 * Where the grapheme cluster that begins at a place ends, as far as it matters to short ones.
 *
 * @param {string} text
 * @param {number} at
 */
export function clusterEnd(text, at) {
  let code = codeAt(text, at);
  let end = at + unitsAt(text, at);
  if (code === 0x0d && text[end] === "\n") return end + 1;
  while (inRanges(code, PREPENDED) && end < text.length) {
    const next = codeAt(text, end);
    if (inRanges(next, CONTROLS)) return end;
    code = next;
    end += unitsAt(text, end);
  }
  if (inRanges(code, CONTROLS)) return end;
  while (end < text.length && inRanges(codeAt(text, end), JOINERS)) end += unitsAt(text, end);
  return end;
}

/**
 * @param {string} text
 * @param {number} at
 */
function codeAt(text, at) {
  return /** @type {number} */ (text.codePointAt(at));
}

/**
 * @param {number} code
 * @param {Uint32Array} table first and last of each range, in order
 */
function inRanges(code, table) {
  let low = 0;
  let high = table.length / 2;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (table[2 * middle + 1] < code) low = middle + 1;
    else high = middle;
  }
  return 2 * low < table.length && table[2 * low] <= code;
}

/** @param {string} text */
function ranges(text) {
  return Uint32Array.from(text.split(/[ -]/), (digits) => parseInt(digits, 16));
}
