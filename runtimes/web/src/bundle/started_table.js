/**
 * Tables that start later: the solver that a table names, compiled again for the grid's points
 * after the start (minit2i_deploy/solvers/start.py).
 */

import { JsonError, UsageError } from "../common/errors.js";
import { asArray, asInteger, asNumber, asText, brief } from "../common/json.js";
import { pythonShort } from "../common/python_json.js";
import { isSolver, solverGrid, solverRows } from "./solver_rows.js";
import { TIME_ROUNDING, Table } from "./table.js";

/** @typedef {import("../common/json.js").JsonObject} JsonObject */
/** @typedef {import("./solver_rows.js").Repeats} Repeats */

// Of a student's equal steps, as the Python side compares them.
const TIME_RATIO = 1e-5;
const REFERENCE_FLOOR = 0.05;
const MAX_STEPS = 10000;
const MAX_REPEATS = 1000;

/**
 * The same solver from a later time on: its state there is t of an image and 1 - t of noise.
 *
 * @param {Table} table
 * @param {number} start time of the first row, 0 to 1; at 1 one row remains, which changes nothing
 * @returns {Table}
 * @throws {UsageError} the table does not say how it was compiled, or cannot start there
 */
export function startTable(table, start) {
  if (start === 0) return table;
  if (start === 1) return unchanged(table);
  const { meta, name } = table;
  if (!("solver" in meta) || !("steps" in meta) || meta.grid === "free") {
    throw new UsageError(
      `table ${name} does not name its solver and grid, so it cannot start later; compile one ` +
        "with minit2i table",
    );
  }
  try {
    return compiled(table, start);
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    throw new UsageError(`table ${name}: its meta cannot be read: ${error.message}`);
  }
}

/**
 * The last row as x' = x.
 *
 * @param {Table} table
 */
function unchanged(table) {
  const last = table.rows[table.rows.length - 1];
  const row = { ...last, t: 1, a: 1, b: 0, c: 0, n: 0, s: 0, share: 0 };
  const rows = [table.columns.map((column) => /** @type {any} */ (row)[column])];
  return new Table(`${table.name}-from1`, table.columns, rows, { ...table.meta, start: 1n });
}

/**
 * @param {Table} table
 * @param {number} start
 */
function compiled(table, start) {
  const { meta, name, columns } = table;
  const solver = asText(meta.solver, "solver");
  if (!isSolver(solver)) {
    throw new UsageError(
      `table ${name} is of solver ${brief(solver)}, which this module cannot start later; use ` +
        "one of Python's",
    );
  }
  const shift = positive(meta, "shift") ?? 0;
  const grid = solverGrid(solver, count(meta, "steps", MAX_STEPS), shift);
  if (table.isConditioned) checkEqualSteps(solver, grid, start);
  const points = [start, ...grid.filter((t) => t > start + TIME_ROUNDING)];
  const floor = solver === "dpmpp2m" ? 0 : (positive(meta, "a_min") ?? REFERENCE_FLOOR);
  const [first, last] = pair(meta, "interval");
  const rows = solverRows(solver, points, floor, readRepeats(meta)).map((row) => {
    const isInside = first - TIME_ROUNDING <= row.t && row.t <= last + TIME_ROUNDING;
    const share = !table.isConditioned && isInside ? 1 : 0;
    const complete = { ...table.rows[0], ...row, share };
    return columns.map((column) => /** @type {any} */ (complete)[column]);
  });
  return new Table(`${name}-from${pythonShort(start)}`, columns, rows, { ...meta, start });
}

/**
 * @param {string} solver
 * @param {readonly number[]} grid
 * @param {number} start
 */
function checkEqualSteps(solver, grid, start) {
  const margin = TIME_ROUNDING + TIME_RATIO * start;
  if (grid.some((t) => Math.abs(t - start) <= margin)) return;
  throw new UsageError(
    `start is ${pythonShort(start)}, but the steps of solver ${solver} are equal; choose a ` +
      `strength at which one begins: 1 - k / ${grid.length - 1}`,
  );
}

/**
 * @param {JsonObject} meta
 * @returns {Repeats}
 */
function readRepeats(meta) {
  if (!("repeats" in meta)) return { count: 1, jump: 0, interval: [0, 1], noiseScale: 1 };
  return {
    count: count(meta, "repeats", MAX_REPEATS),
    jump: isGiven(meta, "jump") ? count(meta, "jump", MAX_STEPS) : 0,
    interval: pair(meta, "repeat_interval"),
    noiseScale: positive(meta, "noise_scale") ?? 2,
  };
}

/**
 * @param {JsonObject} meta
 * @param {string} name
 */
function isGiven(meta, name) {
  return (meta[name] ?? null) !== null;
}

/**
 * @param {JsonObject} meta
 * @param {string} name
 * @param {number} most
 */
function count(meta, name, most) {
  const value = asInteger(meta[name], name);
  if (value >= 1 && value <= most) return value;
  throw new JsonError(`${name} must be 1 to ${most}`);
}

/**
 * @param {JsonObject} meta
 * @param {string} name
 */
function positive(meta, name) {
  if (!isGiven(meta, name)) return undefined;
  const value = asNumber(meta[name], name);
  if (value > 0) return value;
  throw new JsonError(`${name} must be above 0`);
}

/**
 * @param {JsonObject} meta
 * @param {string} name
 * @returns {[number, number]}
 */
function pair(meta, name) {
  if (!isGiven(meta, name)) return [0, 1];
  const [first, last, ...rest] = asArray(meta[name], name).map((item) => asNumber(item, name));
  if (rest.length === 0 && 0 <= first && first <= last && last <= 1) return [first, last];
  throw new JsonError(`${name} must satisfy 0 <= start <= end <= 1`);
}
