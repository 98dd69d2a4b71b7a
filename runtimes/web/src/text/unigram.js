/** The unigram model: the best way to cut a text into pieces of a vocabulary. */

import { JsonError } from "../common/errors.js";
import { unitsAt } from "../common/unicode.js";

const UNKNOWN_PENALTY = 10;

export class Unigram {
  /** @type {Map<string, number>} */
  #ids = new Map();
  // Most code units of a piece that begins with a code unit.
  #longest = new Uint16Array(0x10000);
  #pieces;
  #scores;
  #unknownId;
  #unknownScore;

  /** @param {any} value "model" of tokenizer.json */
  constructor(value) {
    if (value?.type !== "Unigram" || value.byte_fallback) {
      throw new JsonError("model is not Unigram without byte fallback, so not T5's");
    }
    const pairs = value.vocab;
    if (!Array.isArray(pairs) || !pairs.length || !pairs.every(isPair)) {
      throw new JsonError("vocab needs pairs of a piece and a score");
    }
    this.#pieces = pairs.map(([piece]) => /** @type {string} */ (piece));
    this.#scores = Float64Array.from(pairs, ([, score]) => score);
    this.#pieces.forEach((piece, id) => this.#add(piece, id));
    this.#unknownId = value.unk_id;
    if (!Number.isInteger(value.unk_id) || !(value.unk_id in pairs)) {
      throw new JsonError("unk_id is outside the vocab");
    }
    this.#unknownScore = this.#scores.reduce((a, b) => Math.min(a, b)) - UNKNOWN_PENALTY;
  }

  /** @param {number} id */
  piece(id) {
    return this.#pieces[id] ?? "";
  }

  /** @param {string} piece */
  find(piece) {
    return this.#ids.get(piece);
  }

  /**
   * @param {string} text
   * @param {number[]} ids the ids of the pieces are appended
   */
  encode(text, ids) {
    const best = this.#paths(text);
    /** @type {number[]} */
    const backwards = [];
    let unknownEnd = 0; // where an open run of unknown characters ends, 0: none is open
    /** @param {number} start */
    const closeRun = (start) => {
      if (unknownEnd > 0) {
        backwards.push(this.find(text.slice(start, unknownEnd)) ?? this.#unknownId);
      }
      unknownEnd = 0;
    };
    for (let end = text.length; end > 0; end = best.starts[end]) {
      if (best.ids[end] === this.#unknownId) {
        unknownEnd ||= end;
      } else {
        closeRun(end);
        backwards.push(best.ids[end]);
      }
    }
    closeRun(0);
    while (backwards.length) ids.push(/** @type {number} */ (backwards.pop()));
  }

  /**
   * For each end in the text, the last piece of the best path to it.
   *
   * @param {string} text
   */
  #paths(text) {
    const size = text.length + 1;
    const best = {
      ids: new Int32Array(size),
      scores: new Float64Array(size).fill(-Infinity),
      starts: new Int32Array(size),
    };
    best.scores[0] = 0;
    for (let start = 0; start < text.length; start += unitsAt(text, start)) {
      this.#relax(text, start, best);
    }
    return best;
  }

  /**
   * @param {string} text
   * @param {number} start
   * @param {{ ids: Int32Array, scores: Float64Array, starts: Int32Array }} best
   */
  #relax(text, start, best) {
    /**
     * @param {number} end
     * @param {number} id
     * @param {number} score
     */
    const offer = (end, id, score) => {
      // Only a better score replaces: of equals the earlier start stays, as in Python.
      if (score > best.scores[end]) {
        best.ids[end] = id;
        best.scores[end] = score;
        best.starts[end] = start;
      }
    };
    const character = unitsAt(text, start);
    const limit = Math.min(this.#longest[text.charCodeAt(start)], text.length - start);
    let hasSingle = false;
    for (let length = 1; length <= limit; length++) {
      const id = this.#ids.get(text.slice(start, start + length));
      if (id === undefined) continue;
      offer(start + length, id, this.#scores[id] + best.scores[start]);
      hasSingle ||= length === character;
    }
    if (!hasSingle) {
      offer(start + character, this.#unknownId, this.#unknownScore + best.scores[start]);
    }
  }

  /**
   * @param {string} piece
   * @param {number} id
   */
  #add(piece, id) {
    if (piece === "") return;
    this.#ids.set(piece, id);
    const first = piece.charCodeAt(0);
    this.#longest[first] = Math.max(this.#longest[first], piece.length);
  }
}

/** @param {unknown} entry */
function isPair(entry) {
  return (
    Array.isArray(entry) &&
    entry.length === 2 &&
    typeof entry[0] === "string" &&
    typeof entry[1] === "number"
  );
}
