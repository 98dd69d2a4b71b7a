/** Texts to the text encoder's output, and to the denoiser's tokens. */

/**
 * @typedef {import("../engine/engine.js").Engine} Engine
 * @typedef {import("../engine/engine.js").Tensor} Tensor
 * @typedef {import("./tokenizer.js").Tokenizer} Tokenizer
 * @typedef {import("./tokenizer.js").Encoded} Encoded
 * @typedef {import("./prompts.js").Mix} Mix
 *
 * @typedef {object} Branches
 * @property {boolean} guided whether there is an unconditional branch
 * @property {string} [negative] prompt of that branch; without one it is a mask of zeros
 * @property {Float32Array | null} conditions [4], a student's
 */

const BATCH_SIZE = 32;

/** Token embeddings of texts. */
export class Embeddings {
  /**
   * @param {Float32Array} values [texts, tokens, width], zero at padding
   * @param {readonly number[]} shape of values
   * @param {readonly number[]} lengths real tokens of each text
   */
  constructor(values, shape, lengths) {
    this.values = values;
    this.shape = shape;
    this.lengths = lengths;
  }

  /**
   * Mean over each text's real tokens, scaled to length 1, summed in float64.
   *
   * @returns {Float32Array[]} a vector for each text
   */
  pooled() {
    const [, tokens, width] = this.shape;
    return this.lengths.map((length, text) => {
      const sum = new Float64Array(width);
      for (let i = 0; i < length * width; i++) {
        sum[i % width] += this.values[text * tokens * width + i];
      }
      // The mean and the sum have one direction, and only that remains.
      const norm = Math.sqrt(sum.reduce((total, value) => total + value * value, 0));
      return Float32Array.from(sum, (value) => value / norm);
    });
  }
}

/**
 * Token ids of texts, with a warning for each that is cut.
 *
 * @param {Tokenizer} tokenizer
 * @param {readonly string[]} texts
 * @param {(line: string) => void} [onWarning]
 * @returns {Encoded[]}
 */
export function tokenize(tokenizer, texts, onWarning) {
  return texts.map((text, index) => {
    const encoded = tokenizer.encode(text, index);
    const notice = tokenizer.notice(encoded, index);
    if (notice) onWarning?.(notice);
    return encoded;
  });
}

/**
 * Encode texts in batches of similar length.
 *
 * @param {Engine} engine
 * @param {Tokenizer} tokenizer
 * @param {readonly Encoded[]} encoded
 * @param {number} [length] tokens of each text with its padding; default: the longest text's
 * @returns {Promise<Embeddings>}
 */
export async function encode(engine, tokenizer, encoded, length) {
  const order = encoded.map((_, index) => index);
  order.sort((a, b) => encoded[a].ids.length - encoded[b].ids.length);
  const numTokens = length ?? encoded[order[order.length - 1]].ids.length;
  let values = new Float32Array();
  let width = 0;
  for (let start = 0; start < order.length; start += BATCH_SIZE) {
    const places = order.slice(start, start + BATCH_SIZE);
    const batch = places.map((place) => encoded[place].ids);
    const output = await encodeBatch(engine, tokenizer, batch);
    const [, batchTokens, batchWidth] = output.shape;
    width = batchWidth;
    if (values.length === 0) values = new Float32Array(encoded.length * numTokens * width);
    places.forEach((place, text) => {
      const begin = text * batchTokens * width;
      const real = output.values.subarray(begin, begin + batch[text].length * width);
      values.set(real, place * numTokens * width);
    });
  }
  const lengths = encoded.map(({ ids }) => ids.length);
  return new Embeddings(values, [encoded.length, numTokens, width], lengths);
}

/**
 * Adapted tokens of every branch: those of the prompts' parts, then the unconditional one.
 *
 * @param {Engine} engine
 * @param {Tokenizer} tokenizer
 * @param {readonly Mix[]} prompts one for each image
 * @param {Branches} branches
 * @param {(line: string) => void} [onWarning]
 * @returns {Promise<Tensor>} [branches, images, adapted tokens, hidden]
 */
export async function branchTokens(engine, tokenizer, prompts, branches, onWarning) {
  const { guided, negative } = branches;
  const parts = prompts[0].parts.map((_, part) => prompts.map((mix) => mix.parts[part][0]));
  const texts = parts.flat();
  const numTexts = texts.length + (guided ? 1 : 0);
  if (guided && negative !== undefined) texts.push(negative);
  const encoded = tokenize(tokenizer, texts, onWarning);
  const { promptLength } = tokenizer;
  const sequences = await encode(engine, tokenizer, encoded, promptLength);
  const adapted = await engine.adapt(
    padded(sequences, numTexts),
    maskOf(encoded, numTexts, promptLength),
    branches.conditions && repeated(branches.conditions, numTexts),
  );
  const [, ...sizes] = adapted.shape;
  const values = guided ? repeatLast(adapted, prompts.length) : adapted.values;
  const numBranches = parts.length + (guided ? 1 : 0);
  return { values, shape: [numBranches, prompts.length, ...sizes] };
}

/**
 * @param {Engine} engine
 * @param {Tokenizer} tokenizer
 * @param {readonly number[][]} batch
 */
async function encodeBatch(engine, tokenizer, batch) {
  const longest = Math.max(...batch.map((ids) => ids.length));
  const ids = new BigInt64Array(batch.length * longest).fill(BigInt(tokenizer.padId));
  const mask = new BigInt64Array(ids.length);
  batch.forEach((sequence, text) => {
    ids.set(sequence.map(BigInt), text * longest);
    mask.fill(1n, text * longest, text * longest + sequence.length);
  });
  return engine.encode(ids, mask, batch.length);
}

/**
 * Without a negative prompt the unconditional branch is zeros under a mask of zeros.
 *
 * @param {Embeddings} sequences
 * @param {number} numTexts
 * @returns {Tensor}
 */
function padded({ values, shape }, numTexts) {
  const all = new Float32Array(numTexts * shape[1] * shape[2]);
  all.set(values);
  return { values: all, shape: [numTexts, shape[1], shape[2]] };
}

/**
 * @param {readonly Encoded[]} encoded
 * @param {number} numTexts
 * @param {number} length
 */
function maskOf(encoded, numTexts, length) {
  const mask = new BigInt64Array(numTexts * length);
  encoded.forEach(({ ids }, text) => mask.fill(1n, text * length, text * length + ids.length));
  return mask;
}

/**
 * @param {Float32Array} values
 * @param {number} count
 */
function repeated(values, count) {
  const all = new Float32Array(values.length * count);
  for (let i = 0; i < count; i++) all.set(values, i * values.length);
  return all;
}

/**
 * Repeats the last text's tokens, so that the unconditional branch has one text for each image.
 *
 * @param {Tensor} adapted
 * @param {number} numImages
 */
function repeatLast({ values, shape }, numImages) {
  const size = values.length / shape[0];
  const all = new Float32Array(values.length + (numImages - 1) * size);
  all.set(values);
  const last = values.subarray(values.length - size);
  for (let i = 1; i < numImages; i++) all.set(last, values.length + (i - 1) * size);
  return all;
}
