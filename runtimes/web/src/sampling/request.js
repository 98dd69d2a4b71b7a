/** A request: prompts, seeds, table and guidance of some images, complete before any graph runs. */

import { JsonError, UsageError } from "../common/errors.js";
import { batchNoise, checkSeed } from "../common/noise.js";
import { startTable } from "../bundle/started_table.js";
import { FLOAT_MAX, Table, studentConditions } from "../bundle/table.js";
import { asMixes } from "../text/prompts.js";
import { begin, makeEdit } from "./edit.js";
import { sizeOf } from "./size.js";

/**
 * @typedef {import("../bundle/bundle.js").Bundle} Bundle
 * @typedef {import("../text/prompts.js").Mix} Mix
 * @typedef {import("../text/prompts.js").Prompt} Prompt
 *
 * @typedef {RequestSettings & import("./edit.js").EditOptions} RequestOptions
 *
 * @typedef {object} RequestSettings
 * @property {number | bigint | readonly (number | bigint)[]} [seed] one for all images, or one for
 *     each; default 0
 * @property {string | Table} [table] a name in the bundle, or a table; default: the preset's
 * @property {string} [preset] a name in the bundle; default: its default preset
 * @property {number} [guidance] scale of classifier-free guidance, 1 is none; default: the preset's.
 *     For a few-step student it is omega; beside a table of its own the default is that table's
 * @property {readonly [number, number]} [interval] times between which guidance applies
 * @property {string} [negative] prompt of the unconditional branch
 * @property {Float32Array} [noise] unit normal start noise, [images, 3, height, width]
 * @property {readonly [number, number]} [size] width and height in pixels, where the bundle's are
 *     free; default: the bundle's own
 *
 * @typedef {object} Request
 * @property {readonly Mix[]} prompts
 * @property {readonly bigint[]} seeds
 * @property {Table} baseTable complete
 * @property {Table} table the rows of it that run: all, or those after the start of an edit
 * @property {number} guidance
 * @property {string | undefined} negative
 * @property {Float32Array | undefined} noise
 * @property {boolean} guided whether any row runs the unconditional branch
 * @property {readonly Float32Array[]} weights of the branches, for each row
 * @property {Float32Array | null} conditions [4], a student's
 * @property {import("./size.js").Size} size
 * @property {import("./edit.js").Edit} edit
 */

/**
 * Fill in the defaults.
 *
 * @param {Bundle} bundle
 * @param {Prompt | readonly Prompt[]} prompts
 * @param {RequestOptions} options
 * @returns {Promise<Request>}
 * @throws {UsageError} arguments that do not fit together, or do not fit the bundle
 */
export async function makeRequest(bundle, prompts, options) {
  const mixes = asMixes(prompts);
  const { negative, noise } = options;
  if (negative !== undefined && typeof negative !== "string") {
    throw new UsageError(`negative must be a string, got ${typeof negative}`);
  }
  const size = sizeOf(bundle, options.size);
  const edit = makeEdit(bundle, mixes.length, size, options);
  const requested = { ...options, preset: options.preset ?? editPreset(bundle, options) };
  const baseTable = await selectTable(bundle, requested);
  const guidance = selectGuidance(bundle, baseTable, requested);
  const table = startTable(baseTable, 1 - edit.strength);
  checkOnePass(bundle, table, guidance, options);
  const conditions = conditionsOf(bundle, table, guidance, negative);
  const rowWeights = table.rows.map((_, row) => table.guidanceWeights(row, guidance));
  const [{ shares }] = mixes;
  return {
    prompts: mixes,
    seeds: seedsOf(options.seed ?? 0, mixes.length),
    baseTable,
    table,
    guidance,
    negative,
    noise,
    guided: rowWeights.some((weights) => weights.length > 1),
    // The scale is shared out over the parts; the rest goes to the unconditional branch.
    weights: rowWeights.map(([scale, ...rest]) =>
      Float32Array.from([...shares.map((share) => Math.fround(scale) * share), ...rest]),
    ),
    conditions,
    size,
    edit,
  };
}

/**
 * The preset of an edit that keeps pixels and names no table.
 *
 * @param {Bundle} bundle
 * @param {RequestOptions} options
 */
function editPreset(bundle, { known, table }) {
  const fits = known !== undefined && table === undefined && "inpaint" in bundle.manifest.presets;
  return fits ? "inpaint" : undefined;
}

/**
 * The start state: noise of the bundle's deviation, in an edit mixed into its first image.
 *
 * @param {Bundle} bundle
 * @param {Request} request
 * @returns {{ x: Float32Array, shape: number[] }} [images, 3, height, width]
 * @throws {UsageError} the request's noise has another size, or is not finite
 */
export function startState(bundle, { seeds, noise, size, edit }) {
  const { inChannels } = bundle.manifest.model;
  const shape = [seeds.length, inChannels, size.height, size.width];
  const perImage = inChannels * size.height * size.width;
  const unit = noise ?? batchNoise(seeds, perImage);
  if (!(unit instanceof Float32Array) || unit.length !== seeds.length * perImage) {
    throw new UsageError(
      `noise must be a Float32Array of ${seeds.length * perImage} unit normal values, ` +
        `[${shape.join(", ")}], got ${unit?.length ?? typeof unit}`,
    );
  }
  if (!unit.every(Number.isFinite)) throw new UsageError("noise must be finite, got NaN or infinity");
  const scale = Math.fround(bundle.manifest.noiseScale);
  const x = unit.map((value) => value * scale);
  begin(edit, x);
  return { x, shape };
}

/**
 * Fresh unit noise of a row, from every image's own seed.
 *
 * @param {Bundle} bundle
 * @param {Request} request
 * @param {number} row
 */
export function rowNoise(bundle, { seeds, table, size }, row) {
  if (table.rows[row].n === 0) return undefined;
  // Stream 0 is the start noise.
  return batchNoise(seeds, bundle.manifest.model.inChannels * size.height * size.width, row + 1);
}

/**
 * @param {Bundle} bundle
 * @param {RequestOptions} options
 */
async function selectTable(bundle, { table, preset, interval }) {
  if (table !== undefined && typeof table !== "string" && !(table instanceof Table)) {
    throw new UsageError("table must be the name of a table in the bundle, or a Table");
  }
  const selected =
    table instanceof Table ? table : await bundle.table(table ?? bundle.preset(preset).table);
  return interval === undefined ? selected : selected.withInterval(interval[0], interval[1]);
}

/**
 * @param {Bundle} bundle
 * @param {Table} selected
 * @param {RequestOptions} options
 */
function selectGuidance(bundle, selected, { table, preset, guidance }) {
  if (guidance !== undefined && typeof guidance !== "number") {
    throw new UsageError(`guidance must be a number, got ${typeof guidance}`);
  }
  // The guidance in a student's table belongs to that table, not to the preset.
  const own = table !== undefined && selected.isConditioned ? selected.rows[0].omega : undefined;
  const scale = guidance ?? own ?? bundle.preset(preset).guidance;
  if (Math.abs(scale) <= FLOAT_MAX) return scale;
  throw new UsageError(
    `guidance must be finite in float32, got ${scale}; 1 is none, 2 to 12 are usual`,
  );
}

/**
 * Weights that give the guided estimate in one branch know one scale and no second branch.
 *
 * @param {Bundle} bundle
 * @param {Table} table
 * @param {number} guidance
 * @param {RequestOptions} options
 */
function checkOnePass({ name, manifest }, table, guidance, { negative, interval }) {
  const scale = manifest.onePassGuidance;
  if (scale === null) return;
  const part = `guidance ${scale} is part of the weights of ${name} (one-pass adapter)`;
  if (Math.abs(guidance - scale) > 1e-6 * scale) {
    throw new UsageError(`${part}, got ${guidance}; omit it`);
  }
  if (negative !== undefined) {
    throw new UsageError(`${part}, which has no branch for a negative prompt; omit it`);
  }
  if (interval !== undefined) throw new UsageError(`${part}; omit the interval`);
  if (table.rows.some(({ rescale }) => rescale !== 0)) {
    throw new UsageError(
      `${part}, but table ${table.name} has guidance rescale, which compares two branches; use a ` +
        "table of the bundle",
    );
  }
  if (table.rows.some(({ share }) => share !== 0)) {
    throw new UsageError(
      `${part}, but table ${table.name} runs a second branch; use a table of the bundle`,
    );
  }
}

/**
 * @param {Bundle} bundle
 * @param {Table} table
 * @param {number} guidance
 * @param {string | undefined} negative
 */
function conditionsOf(bundle, table, guidance, negative) {
  if (bundle.manifest.model.isStudent !== table.isConditioned) {
    const kind = table.isConditioned ? "base model" : "few-step student";
    throw new UsageError(
      `table ${table.name} does not fit ${bundle.name}, a ${kind}; use a table of the bundle`,
    );
  }
  if (!table.isConditioned) return null;
  if (negative !== undefined) {
    throw new UsageError(
      "a few-step student runs one branch and takes no negative prompt; omit it",
    );
  }
  return studentConditions(table, guidance);
}

/**
 * @param {unknown} seed
 * @param {number} count
 */
function seedsOf(seed, count) {
  const items = Array.isArray(seed) ? seed : Array(count).fill(seed);
  if (items.length !== count) {
    throw new UsageError(`expected one seed, or one for each of ${count} prompts, got ${items.length}`);
  }
  return items.map(checkSeed);
}

/**
 * A table file that is not in the bundle.
 *
 * @param {Uint8Array | string} data
 * @throws {UsageError} it is not a table
 */
export function readTable(data) {
  try {
    return Table.parse(data);
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    throw new UsageError(`not a solver table: ${error.message}`, { cause: error });
  }
}
