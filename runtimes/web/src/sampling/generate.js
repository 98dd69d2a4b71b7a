/**
 * From prompts to images, in order: tokenize, encode (real tokens only), adapt (once), noise from
 * the seed, a step for each row, pixels.
 */

import { checkSignal } from "../common/errors.js";
import { TIME_ROUNDING } from "../bundle/table.js";
import { STEP_GRAPH, SWITCH_GRAPH } from "../engine/engine.js";
import { Trajectory } from "../engine/trajectory.js";
import { branchTokens } from "../text/embed.js";
import { finish } from "./edit.js";
import { toPixels } from "./images.js";
import { rowNoise, startState } from "./request.js";

/**
 * @typedef {import("../bundle/bundle.js").Bundle} Bundle
 * @typedef {import("../engine/engine.js").Engine} Engine
 * @typedef {import("./request.js").Request} Request
 *
 * @typedef {object} Frame the state after a row
 * @property {number} row from 0
 * @property {number} numRows
 * @property {number} t time of the row, 0 noise to 1 data
 * @property {number} width in pixels
 * @property {number} height in pixels
 * @property {() => Uint8Array[]} pixels this row's estimate of the clean images, each
 *     [height, width, 3]
 *
 * @typedef {object} GenerateOptions
 * @property {(frame: Frame) => void | Promise<void>} [onFrame] called after each row; the next one
 *     waits for it
 * @property {AbortSignal} [signal] stops before the next row with Cancelled
 * @property {(line: string) => void} [onWarning]
 *
 * @typedef {object} Timings milliseconds
 * @property {number} tokens tokenize, encode and adapt; opening the graphs the first time
 * @property {number} steps all rows
 */

/**
 * @param {Bundle} bundle
 * @param {Engine} engine
 * @param {Request} request
 * @param {GenerateOptions} options
 * @returns {Promise<{ state: Float32Array, pixels: Uint8Array[], timings: Timings }>}
 */
export async function generate(bundle, engine, request, { onFrame, signal, onWarning }) {
  const { table, guided, negative, conditions } = request;
  if (negative !== undefined && !guided) {
    onWarning?.(
      `the negative prompt has no effect at guidance ${request.guidance} under table ${table.name}`,
    );
  }
  const start = performance.now();
  const tokenizer = await bundle.tokenizer();
  const branches = { guided, negative, conditions };
  const tokens = await branchTokens(engine, tokenizer, request.prompts, branches, onWarning);
  const graphs = await openStepGraphs(bundle, engine, request);
  const { x, shape } = startState(bundle, request);
  const trajectory = new Trajectory(engine, x, shape, tokens, request.edit.known);
  const adapted = performance.now();
  for (let row = 0; row < table.rows.length; row++) {
    checkSignal(signal);
    const noise = rowNoise(bundle, request, row);
    await trajectory.step(graphs[row], table.stepRow(row), request.weights[row], noise);
    await onFrame?.(frameOf(trajectory, request, row));
  }
  checkSignal(signal);
  const timings = { tokens: adapted - start, steps: performance.now() - adapted };
  const state = finish(request.edit, trajectory.x, shape[0]);
  return { state, pixels: toPixels(state, request.size), timings };
}

/**
 * The step graph of each row. All are open when this returns, so that no row's time includes it.
 *
 * @param {Bundle} bundle
 * @param {Engine} engine
 * @param {Request} request
 */
async function openStepGraphs(bundle, engine, { table }) {
  const { stepSwitch } = bundle.manifest;
  let graph = STEP_GRAPH;
  const graphs = table.rows.map(({ t }) => {
    // Once switched it stays so, whatever times a table of the caller has after that.
    if (stepSwitch && t >= stepSwitch.t - TIME_ROUNDING) graph = SWITCH_GRAPH;
    return graph;
  });
  for (const name of new Set(graphs)) await engine.session(name);
  return graphs;
}

/**
 * @param {Trajectory} trajectory
 * @param {Request} request
 * @param {number} row
 * @returns {Frame}
 */
function frameOf(trajectory, { table, size }, row) {
  const { s, t } = table.rows[row];
  const pixels = () => toPixels(trajectory.estimate(s), size);
  return { row, numRows: table.rows.length, t, ...size, pixels };
}
