/**
 * Tables that start later, by the line that a state follows to an estimate y: x(t) = t y + (1 - t)
 * noise. No solver is known here: at a row that reads a history which the shorter table does not
 * have, the row takes what the line would have left there. Between two rows a table starts only
 * where the line gives what the solver would, and is refused elsewhere.
 */

import { UsageError } from "../common/errors.js";
import { pythonShort } from "../common/python_json.js";
import { TIME_ROUNDING, Table } from "./table.js";

/** @typedef {import("./table.js").Row} Row */

const ROUNDING = 1e-12;
const LAST = { t: 1, a: 1, b: 0, c: 0, n: 0, s: 0, share: 0 };

/**
 * The same table from a later time on: its state there is t of an image and 1 - t of noise.
 *
 * @param {Table} table
 * @param {number} start time of the first row, 0 to 1; at 1 one row remains, which changes nothing
 * @returns {Table}
 * @throws {UsageError} it cannot start there
 */
export function startTable(table, start) {
  const { rows } = table;
  if (start === 0) return table;
  if (start === 1) return remade(table, [{ ...rows[rows.length - 1], ...LAST }], 1);
  if (rows[0].t > start + TIME_ROUNDING) {
    throw new UsageError(
      `table ${table.name} starts at t = ${pythonShort(rows[0].t)}, so strength is at most ` +
        pythonShort(1 - rows[0].t),
    );
  }
  const before = lastRowBefore(table, start);
  if (Math.abs(rows[before].t - start) <= TIME_ROUNDING) {
    const first = { ...withoutHistory(table, before), t: start };
    return remade(table, [first, ...rows.slice(before + 1)], start);
  }
  if (table.isConditioned || !isDivisible(table, before)) {
    throw new UsageError(
      `table ${table.name} cannot start at t = ${pythonShort(start)}, between two of its rows; ` +
        "choose a strength at which a row begins, for example " +
        pythonShort(1 - rows[before].t),
    );
  }
  return remade(table, [lineRow(table, before, start), ...rows.slice(before + 1)], start);
}

/**
 * @param {Table} table
 * @param {readonly Row[]} rows
 * @param {number} start
 */
function remade(table, rows, start) {
  const values = rows.map((row) => table.columns.map((column) => row[column]));
  const meta = { ...table.meta, start: start === 1 ? 1n : start };
  return new Table(`${table.name}-from${pythonShort(start)}`, table.columns, values, meta);
}

/**
 * Of rows at the same time, the last one begins a step.
 *
 * @param {Table} table
 * @param {number} start
 */
function lastRowBefore({ name, rows }, start) {
  const back = rows.findIndex((row, index) => index > 0 && row.t < rows[index - 1].t);
  const end = back < 0 ? rows.length : back;
  const early = rows.slice(end).find((row) => row.t < start - TIME_ROUNDING);
  if (early) {
    throw new UsageError(
      `table ${name} goes back to t = ${pythonShort(early.t)}, so it cannot start after that; ` +
        "use more strength, or another table",
    );
  }
  return rows.slice(0, end).findLastIndex((row) => row.t <= start + TIME_ROUNDING);
}

/**
 * The row before left h = y + s (x there), and x there was y - r (y - x), where r is the ratio of
 * the distances to t = 1.
 *
 * @param {Table} table
 * @param {number} index
 * @returns {Row}
 */
function withoutHistory(table, index) {
  const row = table.rows[index];
  if (index === 0 || row.c === 0) return row;
  const { s, t } = table.rows[index - 1];
  const ratio = distance(table, t) / distance(table, row.t);
  return {
    ...row,
    a: row.a + row.c * s * ratio,
    b: row.b + row.c * (1 + s - s * ratio),
    c: 0,
  };
}

/**
 * Whether the line to the next row, and the rows from there on, are those of a step that begins at
 * any time after this row: the row adds no noise and stays on the line, and no row after it reads
 * its history or goes back.
 *
 * @param {Table} table
 * @param {number} index
 */
function isDivisible(table, index) {
  const { rows } = table;
  const { a, b, n } = withoutHistory(table, index);
  const last = rows[rows.length - 1];
  // The last row lands on its estimate but for the floor, which a table need not name.
  const landing = (1 - last.t) / distance(table, last.t);
  return (
    n === 0 &&
    Math.abs(a + b - 1) <= ROUNDING &&
    Math.abs(last.b - landing) <= ROUNDING &&
    (index + 1 === rows.length || rows[index + 1].c === 0) &&
    rows.every((row, other) => other <= index + 1 || row.t >= rows[other - 1].t)
  );
}

/**
 * From a time after a row straight on to the next row's.
 *
 * @param {Table} table
 * @param {number} index
 * @param {number} start
 * @returns {Row}
 */
function lineRow(table, index, start) {
  const row = table.rows[index];
  const end = index + 1 < table.rows.length ? table.rows[index + 1].t : 1;
  const b = (end - start) / distance(table, start);
  const share = isGuided(table, row, start) ? row.share || 1 : 0;
  return { ...row, t: start, a: 1 - b, b, c: 0, n: 0, share };
}

/**
 * Of a time to 1, not below the table's floor.
 *
 * @param {Table} table
 * @param {number} t
 */
function distance({ meta }, t) {
  return Math.max(1 - t, typeof meta.a_min === "number" ? meta.a_min : 0);
}

/**
 * Whether the table's interval guides a row at this time; the row itself decides without one.
 *
 * @param {Table} table
 * @param {Row} row
 * @param {number} t
 */
function isGuided({ meta }, row, t) {
  const { interval } = meta;
  if (!Array.isArray(interval) || interval.length !== 2) return row.share !== 0;
  const [first, last] = interval.map(Number);
  return first - TIME_ROUNDING <= t && t <= last + TIME_ROUNDING;
}
