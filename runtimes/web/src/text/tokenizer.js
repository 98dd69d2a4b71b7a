/**
 * T5's tokenizer, by the rules of the Rust library that Python uses. The JavaScript package of its
 * makers does not read the character map (findings/hf_tokenizers_js_normalizer.sh).
 */

import { BundleError, JsonError } from "../common/errors.js";
import { brief } from "../common/json.js";
import { checkText, unitsAt, isWhiteSpace, whiteEnd, whiteStart } from "../common/unicode.js";
import { readNormalizer } from "./normalizer.js";
import { Unigram } from "./unigram.js";

/**
 * @typedef {object} Encoded
 * @property {number[]} ids at most the prompt length, the last one is the end token
 * @property {boolean} truncated whether the rest of the text was cut off
 *
 * @typedef {object} AddedToken
 * @property {string} content
 * @property {number} id
 * @property {boolean} lstrip
 * @property {boolean} rstrip
 *
 * @typedef {object} PreTokenizer
 * @property {boolean} splitsWords at white space
 * @property {boolean} splitsPieces at the replacement
 * @property {string} replacement of a space
 * @property {string} scheme "always", "first" or "never"
 */

const TAIL_CHARACTERS = 20;

export class Tokenizer {
  #added;
  #model;
  #normalize;
  #pre;

  /**
   * @param {any} value parsed tokenizer.json
   * @param {number} promptLength most tokens of a prompt, end token included
   */
  constructor(value, promptLength) {
    this.promptLength = promptLength;
    this.#normalize = readNormalizer(value.normalizer);
    this.#model = new Unigram(value.model);
    this.#added = readAddedTokens(value.added_tokens);
    this.#pre = readPreTokenizer(value.pre_tokenizer);
    this.eosId = this.#specialId("</s>");
    this.padId = this.#specialId("<pad>");
  }

  /**
   * Read tokenizer.json.
   *
   * @param {Uint8Array} bytes
   * @param {number} promptLength
   * @param {string} where its path, for the error
   * @throws {BundleError} it is not a T5 tokenizer
   */
  static parse(bytes, promptLength, where) {
    try {
      return new Tokenizer(JSON.parse(new TextDecoder().decode(bytes)), promptLength);
    } catch (error) {
      const reason = error instanceof JsonError ? ` (${error.message})` : "";
      const message = `${where}: not a tokenizer${reason}; re-run minit2i export`;
      throw new BundleError(message, { cause: error });
    }
  }

  /**
   * Token ids of a prompt; an empty one is the end token alone.
   *
   * @param {string} text
   * @param {number} [index] of the prompt, for the error
   * @returns {Encoded}
   * @throws {UsageError} a NUL character or half a surrogate pair
   */
  encode(text, index = 0) {
    checkText(text, index);
    /** @type {number[]} */
    const ids = [];
    let done = 0;
    for (let at = 0; at < text.length; ) {
      const token = this.#added.find(({ content }) => text.startsWith(content, at));
      if (!token) {
        at++;
        continue;
      }
      const start = token.lstrip ? whiteStart(text, done, at) : at;
      this.#encodePlain(text.slice(done, start), done === 0, ids);
      ids.push(token.id);
      at += token.content.length;
      if (token.rstrip) at = whiteEnd(text, at);
      done = at;
    }
    this.#encodePlain(text.slice(done), done === 0, ids);
    const limit = this.promptLength - 1;
    return { ids: [...ids.slice(0, limit), this.eosId], truncated: ids.length > limit };
  }

  /**
   * One line that says where a prompt was cut, or nothing.
   *
   * @param {Encoded} encoded
   * @param {number} index of the prompt
   */
  notice(encoded, index) {
    if (!encoded.truncated) return undefined;
    const pieces = encoded.ids.slice(0, -1).map((id) => this.#content(id));
    const text = pieces.join("").replaceAll(this.#pre.replacement, " ");
    const tail = Array.from(text).slice(-TAIL_CHARACTERS).join("");
    return `prompt ${index} was cut to ${this.promptLength} tokens: '...${tail}'`;
  }

  /** @param {number} id */
  #content(id) {
    return this.#added.find((token) => token.id === id)?.content ?? this.#model.piece(id);
  }

  /** @param {string} content */
  #specialId(content) {
    const token = this.#added.find((one) => one.content === content);
    const id = token?.id ?? this.#model.find(content);
    if (id === undefined) throw new JsonError(`has no token ${content}, so it is not T5's`);
    return id;
  }

  /**
   * @param {string} text
   * @param {boolean} isFirst
   * @param {number[]} ids
   */
  #encodePlain(text, isFirst, ids) {
    const normal = this.#normalize(text);
    if (!this.#pre.splitsWords) {
      this.#encodeWord(normal, isFirst, ids);
      return;
    }
    for (let start = whiteEnd(normal, 0); start < normal.length; ) {
      let end = start;
      while (end < normal.length && !isWhiteSpace(normal.charCodeAt(end))) {
        end += unitsAt(normal, end);
      }
      this.#encodeWord(normal.slice(start, end), isFirst, ids);
      start = whiteEnd(normal, end);
    }
  }

  /**
   * @param {string} word
   * @param {boolean} isFirst
   * @param {number[]} ids
   */
  #encodeWord(word, isFirst, ids) {
    if (word === "") return;
    const { replacement, scheme, splitsPieces } = this.#pre;
    let text = word.replaceAll(" ", () => replacement);
    const prepends = scheme === "always" || (scheme === "first" && isFirst);
    if (prepends && !text.startsWith(replacement)) text = replacement + text;
    for (let start = 0; start < text.length; ) {
      const next = splitsPieces ? text.indexOf(replacement, start + 1) : -1;
      const end = next < 0 ? text.length : next;
      this.#model.encode(text.slice(start, end), ids);
      start = end;
    }
  }
}

/**
 * @param {any} values
 * @returns {AddedToken[]}
 */
function readAddedTokens(values) {
  if (!Array.isArray(values)) throw new JsonError("added_tokens must be a list");
  for (const { content, id, single_word, normalized } of values) {
    const plain = typeof content === "string" && content !== "" && Number.isInteger(id);
    if (!plain || single_word || normalized) {
      throw new JsonError(`added token ${brief(content)} is matched in a way that T5's are not`);
    }
  }
  // Where two start at the same place, the longer one is meant.
  return [...values].sort((a, b) => b.content.length - a.content.length);
}

/**
 * @param {any} value
 * @returns {PreTokenizer}
 */
function readPreTokenizer(value) {
  const items = value?.type === "Sequence" ? value.pretokenizers : [value];
  const splitsWords = items.length === 2 && items[0]?.type === "WhitespaceSplit";
  const last = items[items.length - 1];
  if (last?.type !== "Metaspace" || items.length > (splitsWords ? 2 : 1)) {
    throw new JsonError(`pre_tokenizer ${brief(last?.type)} is not one of a T5 tokenizer`);
  }
  const scheme = last.prepend_scheme ?? ((last.add_prefix_space ?? true) ? "always" : "never");
  const isKnown = ["always", "first", "never"].includes(scheme);
  // Which word is the first one depends on white space that is gone after the split.
  if (!isKnown || !last.replacement || (splitsWords && scheme === "first")) {
    throw new JsonError("pre_tokenizer Metaspace has settings that T5's does not have");
  }
  const splitsPieces = last.split ?? true;
  return { splitsWords, splitsPieces, replacement: last.replacement, scheme };
}
