/**
 * Rows of the solvers that tables name, compiled as the Python side does
 * (minit2i_deploy/solvers/methods.py and repeats.py, where the formulas have their sources). Only
 * tables that start later need them: a run reads rows, and knows no solver.
 */

import { UsageError } from "../common/errors.js";
import { pythonFloat } from "../common/python_json.js";

/**
 * @typedef {{ t: number, a: number, b: number, c: number, n: number, s: number }} SolverRow
 *
 * @typedef {object} Repeats how often stretches of the trajectory are run
 * @property {number} count
 * @property {number} jump steps of a stretch; 0 makes the interval one stretch
 * @property {readonly [number, number]} interval
 * @property {number} noiseScale
 */

const TIME_ROUNDING = 1e-9;
const LAST_EVALUATION = 0.96;
const MAX_ROWS = 20000;

/** @type {Record<string, (points: readonly number[], floor: number) => SolverRow[]>} */
const METHODS = {
  __proto__: /** @type {any} */ (null),
  ab2, dpmpp2m, euler, "euler-4e-2": euler, heun, "mean-flow": euler, sde,
};

/** @param {string} name */
export function isSolver(name) {
  return name in METHODS;
}

/**
 * The complete grid.
 *
 * @param {string} solver
 * @param {number} steps
 * @param {number} shift 0: none
 * @returns {number[]}
 */
export function solverGrid(solver, steps, shift) {
  const isEarly = solver === "euler-4e-2";
  if ((isEarly || solver === "mean-flow") && shift !== 0) {
    throw new UsageError(`the grid of solver ${solver} is fixed; omit shift`);
  }
  const step = isEarly ? LAST_EVALUATION / Math.max(steps - 1, 1) : 1 / steps;
  const points = Array.from({ length: steps }, (_, index) => {
    const t = index * step;
    return shift === 0 ? t : t / (t + shift * (1 - t));
  });
  if (isEarly && steps > 1) points[steps - 1] = LAST_EVALUATION;
  return [...points, 1];
}

/**
 * One row for each evaluation between rising points.
 *
 * @param {string} solver
 * @param {readonly number[]} points
 * @param {number} floor of the division by 1 - t
 * @param {Repeats} repeats
 * @returns {SolverRow[]}
 * @throws {UsageError} a repeat that does not fit
 */
export function solverRows(solver, points, floor, repeats) {
  const passes = passesOf(repeats, points);
  return passes.flatMap((pass, index) => {
    const rows = METHODS[solver](pass, floor);
    const following = passes[index + 1];
    if (!following) return rows;
    const last = rows[rows.length - 1];
    if (rows.some(({ n }) => n !== 0) || last.c !== 0) {
      throw new UsageError("repeats need a solver without noise, whose last row has no history");
    }
    goBack(last, pass[pass.length - 1], following[0], repeats.noiseScale);
    return rows;
  });
}

/**
 * The row that ends a pass goes back to where the next one begins, and adds what lacks of noise.
 *
 * @param {SolverRow} row
 * @param {number} t
 * @param {number} earlier
 * @param {number} noiseScale
 */
function goBack(row, t, earlier, noiseScale) {
  const most = 1 - earlier;
  const present = (earlier / t) * (1 - t);
  row.a *= earlier / t;
  row.b *= earlier / t;
  row.n = noiseScale * Math.sqrt((most - present) * (most + present));
}

/**
 * The path through time: rising points, one list for each pass.
 *
 * @param {Repeats} repeats
 * @param {readonly number[]} points
 */
function passesOf(repeats, points) {
  if (repeats.count === 1) return [[...points]];
  /** @type {number[][]} */
  const passes = [[]];
  let place = 0;
  let numSteps = points.length - 1;
  for (const [first, last] of stretches(repeats, points)) {
    numSteps += (repeats.count - 1) * (last - first);
    if (numSteps > MAX_ROWS) throw new UsageError(`repeats make more than ${MAX_ROWS} rows`);
    for (let turn = 0; turn < repeats.count; turn += 1) {
      if (turn > 0) {
        passes.push([]);
        place = first;
      }
      for (; place <= last; place += 1) passes[passes.length - 1].push(points[place]);
    }
  }
  passes[passes.length - 1].push(...points.slice(place));
  return passes;
}

/**
 * Places of the first and last point of each stretch that is repeated.
 *
 * @param {Repeats} repeats
 * @param {readonly number[]} points
 */
function stretches({ jump, interval: [first, last] }, points) {
  const places = [...points.keys()].filter((place) => {
    const t = points[place];
    // Back at t = 0 nothing of the image would remain.
    return first - TIME_ROUNDING <= t && t <= last + TIME_ROUNDING && (jump > 0 || t > 0);
  });
  const length = jump || Math.max(places.length, 1);
  /** @type {[number, number][]} */
  const ends = [];
  for (let i = 0; i + 1 < places.length; i += length) {
    const start = places[i];
    if (points[start] > 0) ends.push([start, Math.min(start + length, places[places.length - 1])]);
  }
  if (ends.length > 0) return ends;
  throw new UsageError(
    `repeats need a stretch after t = 0 inside interval (${pythonFloat(first)}, ` +
      `${pythonFloat(last)}), which the steps after this start do not have; use more strength`,
  );
}

/**
 * Of each step: its time, its length, and that over the distance to 1.
 *
 * @param {readonly number[]} points
 * @param {number} floor
 */
function stepsOf(points, floor) {
  return points.slice(0, -1).map((t, index) => {
    const dt = points[index + 1] - t;
    return { t, dt, share: dt / Math.max(1 - t, floor) };
  });
}

/**
 * @param {readonly number[]} points
 * @param {number} floor
 * @returns {SolverRow[]}
 */
function euler(points, floor) {
  return stepsOf(points, floor).map(({ t, share }) => {
    return { t, a: 1 - share, b: share, c: 0, n: 0, s: 0 };
  });
}

/**
 * @param {readonly number[]} points
 * @param {number} floor
 * @returns {SolverRow[]}
 */
function heun(points, floor) {
  const steps = stepsOf(points, floor);
  return steps.flatMap(({ t, dt, share }, index) => {
    const first = { t, a: 1 - share, b: share, c: 0, n: 0, s: 0 };
    if (index + 1 === steps.length) return [first];
    const end = points[index + 1];
    const half = (0.5 * dt) / Math.max(1 - end, floor);
    return [{ ...first, s: -1 }, { t: end, a: 1 - half, b: half, c: -0.5 * share, n: 0, s: 0 }];
  });
}

/**
 * @param {readonly number[]} points
 * @param {number} floor
 * @returns {SolverRow[]}
 */
function sde(points, floor) {
  const steps = stepsOf(points, floor);
  return steps.map(({ t, dt }, index) => {
    const b = (dt * (1 + t)) / Math.max(1 - t, floor);
    const n = index + 1 === steps.length ? 0 : Math.sqrt(2 * (1 - t) * dt);
    return { t, a: 1 - dt - b, b, c: 0, n, s: 0 };
  });
}

/**
 * @param {readonly number[]} points
 * @param {number} floor
 * @returns {SolverRow[]}
 */
function ab2(points, floor) {
  const steps = stepsOf(points, floor);
  return steps.map(({ t, dt, share }, index) => {
    const before = steps[index - 1];
    const half = before && index + 1 < steps.length ? (0.5 * dt) / before.dt : 0;
    const b = share * (1 + half);
    const c = before ? (-half * dt * before.share) / before.dt : 0;
    return { t, a: 1 - b, b, c, n: 0, s: -1 };
  });
}

/**
 * @param {readonly number[]} points
 * @param {number} floor
 * @returns {SolverRow[]}
 */
function dpmpp2m(points, floor) {
  const steps = stepsOf(points, floor);
  const lambda = points.map((t) => (t > 0 ? Math.log(t) - Math.log1p(-t) : -Infinity));
  return steps.map(({ t, share }, index) => {
    const isInner = index > 0 && index + 1 < steps.length;
    const before = lambda[index] - lambda[index - 1];
    const k = isInner ? (0.5 * (lambda[index + 1] - lambda[index])) / before : 0;
    return { t, a: 1 - share, b: share * (1 + k), c: -share * k, n: 0, s: 0 };
  });
}
