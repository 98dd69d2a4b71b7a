/**
 * Runs cases that the Python tests write, in Node and in a browser alike, and returns what they
 * compare with the Python side. A case has one of the names in KINDS and its arguments.
 */

import { Bundle, Minit2iError, Mix, open, readTable, sha256, standardNoise } from "../src/index.js";
import { startTable } from "../src/bundle/started_table.js";

/**
 * @typedef {object} World what differs between Node and a browser
 * @property {any} ort
 * @property {(place: string) => any} source of a bundle's folder or address
 * @property {(module: string) => Promise<any>} load a module of src/
 * @property {any} [engine] options of the engine
 */

/** @type {Record<string, (world: World, ...args: any[]) => Promise<any>>} */
const KINDS = { call, embed, fails, generate, hash, noise, operators, start, tokenize, verify };

/**
 * @param {World} world
 * @param {{ kind: string, args: any[] }[]} cases
 */
export async function runCases(world, cases) {
  const results = [];
  for (const { kind, args } of cases) {
    try {
      results.push({ value: await KINDS[kind](world, ...args) });
    } catch (error) {
      if (!(error instanceof Minit2iError)) throw error;
      results.push({ error: { name: error.name, message: error.message } });
    }
  }
  await closeAll();
  return results;
}

/** @type {Map<string, any>} */
const models = new Map();
/** @type {string[]} */
let warnings = [];

/**
 * @param {World} world
 * @param {string} place
 */
async function modelOf(world, place) {
  if (!models.has(place)) {
    const onWarning = (/** @type {string} */ line) => warnings.push(line);
    const options = { ort: world.ort, onWarning, ...world.engine };
    models.set(place, await open(world.source(place), options));
  }
  return models.get(place);
}

async function closeAll() {
  for (const model of models.values()) await model.close();
  models.clear();
}

/**
 * Calls one function of a module.
 *
 * @param {World} world
 * @param {string} module path in src/
 * @param {string} name
 * @param {any[]} args
 */
async function call({ load }, module, name, args) {
  return (await load(module))[name](...args);
}

/**
 * The message of what a function throws, or null.
 *
 * @param {World} world
 * @param {string} module
 * @param {string} name
 * @param {any[]} args
 */
async function fails(world, module, name, args) {
  try {
    await call(world, module, name, args);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : "";
  }
}

/**
 * @param {World} _world
 * @param {number} size
 */
async function hash(_world, size) {
  return sha256(Uint8Array.from({ length: size }, (_, index) => index % 251));
}

/**
 * @param {World} world
 * @param {string} place
 * @param {string[]} texts
 */
async function embed(world, place, texts) {
  warnings = [];
  const result = await (await modelOf(world, place)).embed(texts);
  const { shape, lengths } = result;
  return { shape, lengths, values: base64(result.values), pooled: result.pooled().map(base64), warnings };
}

/**
 * @param {World} world
 * @param {string} place
 * @param {any[]} prompts strings, or lists of pairs for mixes
 * @param {any} options of Model.generate; a seed may be a string of digits
 */
async function generate(world, place, prompts, { seed, noise, tableJson, cancelAfter, ...rest }) {
  warnings = [];
  const options = withImages(rest);
  const model = await modelOf(world, place);
  const mixes = prompts.map((prompt) => (typeof prompt === "string" ? prompt : new Mix(prompt)));
  const controller = new AbortController();
  /** @type {string[]} */
  const previews = [];
  const result = await model.generate(mixes, {
    ...options,
    seed: Array.isArray(seed) ? seed.map(BigInt) : BigInt(seed ?? 0),
    ...(noise && { noise: floats(noise) }),
    ...(tableJson && { table: readTable(tableJson) }),
    signal: controller.signal,
    onFrame: (/** @type {any} */ frame) => {
      previews.push(base64(frame.pixels()[0]));
      if (frame.row === cancelAfter) controller.abort();
    },
  });
  const png = base64(await result.png());
  const { state, pixels, timings } = result;
  const images = pixels.map(base64);
  return { state: base64(state), images, previews: previews.slice(-1), png, timings, warnings };
}

/**
 * Runs a graph of one input and one output.
 *
 * @param {World} world
 * @param {string} graph its file, in base64
 * @param {string} input float32 values
 * @param {number[]} shape
 */
async function operators({ ort }, graph, input, shape) {
  const session = await ort.InferenceSession.create(decoded(graph));
  const tensor = new ort.Tensor("float32", floats(input), shape);
  const outputs = await session.run({ [session.inputNames[0]]: tensor });
  return base64(outputs[session.outputNames[0]].data);
}

/**
 * Images of an edit as Float32Array or ImageData.
 *
 * @param {any} options
 */
function withImages(options) {
  const result = { ...options };
  for (const name of ["initImage", "known", "mask"]) {
    const value = options[name];
    if (typeof value === "string") result[name] = floats(value);
    else if (value?.data) result[name] = { ...value, data: Uint8ClampedArray.from(value.data) };
  }
  return result;
}

/**
 * A table that starts later.
 *
 * @param {World} _world
 * @param {string} tableJson
 * @param {number} from
 */
async function start(_world, tableJson, from) {
  return startTable(readTable(tableJson), from).toJson();
}

/**
 * @param {World} _world
 * @param {string} seed digits
 * @param {number} stream
 * @param {number} count
 */
async function noise(_world, seed, stream, count) {
  return base64(standardNoise(BigInt(seed), count, stream));
}

/**
 * @param {World} world
 * @param {string} place
 * @param {string[]} texts
 */
async function tokenize(world, place, texts) {
  const tokenizer = await (await Bundle.open(world.source(place))).tokenizer();
  return texts.map((text) => tokenizer.encode(text));
}

/**
 * @param {World} world
 * @param {string} place
 */
async function verify(world, place) {
  const bundle = await Bundle.open(world.source(place));
  await bundle.verify();
  return bundle.digest;
}

/** @param {Float32Array | Uint8Array} array */
function base64(array) {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(text);
}

/** @param {string} text */
function decoded(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** @param {string} text */
function floats(text) {
  return new Float32Array(decoded(text).buffer);
}
