/**
 * Strict JSON: no duplicate keys, no excessive nesting, and integers apart from other numbers, as
 * the bundle's rules and its checksums need them. Integers become bigint, other numbers number.
 */

import { JsonError } from "./errors.js";

/**
 * @typedef {null | boolean | string | number | bigint | JsonArray | JsonObject} Json
 * @typedef {Json[]} JsonArray
 * @typedef {{ [key: string]: Json }} JsonObject
 */

const MAX_DEPTH = 200;
const NUMBER = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/y;
const SPACE = /[ \t\n\r]*/y;
// A string is checked for its end and its control characters here; JSON.parse reads its escapes.
const STRING = /"(?:[^"\\\u0000-\u001f]|\\.)*"/y;
/** @type {Readonly<Record<string, Json>>} */
const WORDS = { true: true, false: false, null: null };
const WORD = /true|false|null/y;

/**
 * Parse UTF-8 JSON.
 *
 * @param {Uint8Array | string} data
 * @returns {Json}
 * @throws {JsonError} it says what is wrong and where
 */
export function parseJson(data) {
  const reader = new Reader(typeof data === "string" ? data : decodeUtf8(data));
  const value = reader.value(0);
  reader.end();
  return value;
}

/** @param {Uint8Array} data */
function decodeUtf8(data) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
  } catch {
    throw new JsonError("not UTF-8");
  }
}

class Reader {
  #text;
  #at = 0;

  /** @param {string} text */
  constructor(text) {
    this.#text = text;
  }

  /**
   * @param {number} depth
   * @returns {Json}
   */
  value(depth) {
    if (depth > MAX_DEPTH) throw new JsonError("nested too deeply");
    this.#take(SPACE);
    const first = this.#text[this.#at];
    if (first === "{") return this.#object(depth);
    if (first === "[") return this.#array(depth);
    if (first === '"') return this.#string();
    const word = this.#take(WORD);
    return word ? WORDS[word[0]] : this.#number();
  }

  end() {
    this.#take(SPACE);
    if (this.#at < this.#text.length) this.#fail("extra data");
  }

  /**
   * @param {number} depth
   * @returns {JsonObject}
   */
  #object(depth) {
    /** @type {JsonObject} */
    const result = Object.create(null);
    this.#list("}", () => {
      this.#take(SPACE);
      const key = this.#string();
      if (key in result) this.#fail(`duplicate key ${brief(key)}`);
      this.#take(SPACE);
      this.#expect(":");
      result[key] = this.value(depth + 1);
    });
    return result;
  }

  /**
   * @param {number} depth
   * @returns {JsonArray}
   */
  #array(depth) {
    /** @type {JsonArray} */
    const result = [];
    this.#list("]", () => result.push(this.value(depth + 1)));
    return result;
  }

  /**
   * @param {string} end
   * @param {() => void} item
   */
  #list(end, item) {
    this.#at++;
    this.#take(SPACE);
    if (this.#text[this.#at] !== end) {
      do item();
      while (this.#hasComma());
    }
    this.#expect(end);
  }

  #hasComma() {
    this.#take(SPACE);
    const found = this.#text[this.#at] === ",";
    this.#at += found ? 1 : 0;
    return found;
  }

  #string() {
    const match = this.#take(STRING);
    if (!match) return this.#fail("expected a string");
    try {
      return /** @type {string} */ (JSON.parse(match[0]));
    } catch {
      return this.#fail("broken escape in a string");
    }
  }

  #number() {
    const match = this.#take(NUMBER);
    if (!match) return this.#fail("expected a value");
    if (match[1] === undefined && match[2] === undefined) return BigInt(match[0]);
    const value = Number(match[0]);
    if (!Number.isFinite(value)) this.#fail(`${brief(match[0])} is too large a number`);
    return value;
  }

  /** @param {string} character */
  #expect(character) {
    if (this.#text[this.#at] !== character) this.#fail(`expected '${character}'`);
    this.#at++;
  }

  /** @param {RegExp} pattern a sticky one */
  #take(pattern) {
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#text);
    if (match) this.#at = pattern.lastIndex;
    return match;
  }

  /**
   * @param {string} reason
   * @returns {never}
   */
  #fail(reason) {
    const line = this.#text.slice(0, this.#at).split("\n").length;
    throw new JsonError(`${reason} at line ${line}`);
  }
}

/**
 * @param {Json | undefined} value
 * @param {string} where dotted path of the value, for the error
 * @returns {JsonObject}
 */
export function asObject(value, where) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    return unexpected("an object", value, where);
  }
  return value;
}

/**
 * @param {Json | undefined} value
 * @param {string} where
 * @returns {JsonArray}
 */
export function asArray(value, where) {
  return Array.isArray(value) ? value : unexpected("a list", value, where);
}

/**
 * @param {Json | undefined} value
 * @param {string} where
 * @returns {string}
 */
export function asText(value, where) {
  return typeof value === "string" ? value : unexpected("text", value, where);
}

/**
 * @param {Json | undefined} value
 * @param {string} where
 * @returns {number} a safe integer
 */
export function asInteger(value, where) {
  const number = typeof value === "bigint" ? Number(value) : NaN;
  return Number.isSafeInteger(number) ? number : unexpected("an integer", value, where);
}

/**
 * An integer may stand where a number is expected.
 *
 * @param {Json | undefined} value
 * @param {string} where
 * @returns {number}
 */
export function asNumber(value, where) {
  return typeof value === "number" ? value : asInteger(value, where);
}

/**
 * Refuse unknown and missing fields.
 *
 * @param {JsonObject} value
 * @param {string} where
 * @param {readonly string[]} required
 * @param {readonly string[]} [optional]
 */
export function expectFields(value, where, required, optional = []) {
  const names = Object.keys(value);
  const unknown = names.filter((name) => !required.includes(name) && !optional.includes(name));
  const missing = required.filter((name) => !(name in value));
  if (unknown.length || missing.length) {
    throw new JsonError(
      `${where}: unknown fields [${unknown.sort().slice(0, 8)}], missing fields [${missing.sort()}]`,
    );
  }
}

/** @param {unknown} value */
export function brief(value) {
  const text = typeof value === "bigint" ? String(value) : (JSON.stringify(value) ?? "nothing");
  return text.length <= 60 ? text : `${text.slice(0, 57)}...`;
}

/**
 * @param {string} expected
 * @param {Json | undefined} value
 * @param {string} where
 * @returns {never}
 */
function unexpected(expected, value, where) {
  const actual = value !== null && typeof value === "object" ? "a list or an object" : brief(value);
  throw new JsonError(`${where}: expected ${expected}, got ${actual}`);
}
