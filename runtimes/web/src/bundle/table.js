/**
 * Solver tables: rows of scalars, one denoiser evaluation each. With y the guided estimate of the
 * clean image, a row does x' = a x + b y + c h + n noise and h' = y + s x. Nothing here knows a
 * solver.
 */

import { JsonError, UsageError } from "../common/errors.js";
import { asArray, asInteger, asNumber, asObject, asText, brief, expectFields, parseJson } from "../common/json.js";
import { pythonFloat, pythonJson, pythonShort } from "../common/python_json.js";

/** @typedef {import("../common/json.js").JsonObject} JsonObject */

export const FLOAT_MAX = 3.4028234663852886e38;
export const TIME_ROUNDING = 1e-9;
const COLUMNS = ["t", "a", "b", "c", "n", "s", "share", "clip", "rescale"];
const CONDITION_COLUMNS = ["h", "omega", "t_min", "t_max"];
const MAX_ROWS = 20000;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;

/** @typedef {Record<string, number>} Row value of each column */

export class Table {
  /**
   * @param {string} name
   * @param {readonly string[]} columns
   * @param {readonly (readonly number[])[]} rows
   * @param {JsonObject} meta where it comes from; nothing computes with it
   * @throws {JsonError} outside the rules of docs/reference/bundle.md
   */
  constructor(name, columns, rows, meta) {
    this.name = name;
    this.columns = columns;
    this.values = rows;
    this.meta = meta;
    this.#checkLayout();
    /** @type {readonly Row[]} */
    this.rows = rows.map((row) => Object.fromEntries(columns.map((column, i) => [column, row[i]])));
    this.rows.forEach((row, index) => this.#checkRow(row, index));
  }

  /**
   * Read a table file.
   *
   * @param {Uint8Array | string} data
   * @returns {Table}
   * @throws {JsonError}
   */
  static parse(data) {
    const value = asObject(parseJson(data), "table");
    expectFields(value, "table", ["columns", "format_version", "meta", "name", "rows"]);
    const version = asInteger(value.format_version, "table.format_version");
    if (version !== 1) {
      throw new JsonError(`table format_version is ${version}, but this module reads 1`);
    }
    return new Table(
      asText(value.name, "table.name"),
      asArray(value.columns, "table.columns").map((item) => asText(item, "table.columns")),
      asArray(value.rows, "table.rows").map((row) =>
        asArray(row, "table.rows").map((item) => asNumber(item, "table.rows")),
      ),
      asObject(value.meta, "table.meta"),
    );
  }

  /** Whether it is for a few-step student. */
  get isConditioned() {
    return this.columns.length > COLUMNS.length;
  }

  /** Canonical JSON, as Python writes it; records hold its checksum. */
  toJson() {
    const rows = this.values.map((row) => pythonJson([...row])).join(",\n    ");
    return (
      `{\n  "columns": ${pythonJson([...this.columns])},\n  "format_version": 1,\n` +
      `  "meta": ${pythonJson(this.meta)},\n  "name": ${pythonJson(this.name)},\n` +
      `  "rows": [\n    ${rows}\n  ]\n}\n`
    );
  }

  /**
   * What the step graph takes of a row: a, b, c (or n), s, clip, rescale.
   *
   * @param {number} index
   * @returns {Float32Array} [6]
   */
  stepRow(index) {
    const { a, b, c, n, s, clip, rescale } = this.rows[index];
    // Fresh noise comes in the history's slot, so its coefficient in the history's place.
    return Float32Array.of(a, b, n === 0 ? c : n, s, clip, rescale);
  }

  /**
   * Weights of the conditional and the other branch in a row: (g, 1 - g), or 1 alone.
   *
   * @param {number} index
   * @param {number} guidance
   * @returns {number[]}
   * @throws {UsageError} a scale that is not finite in float32
   */
  guidanceWeights(index, guidance) {
    const scale = 1 + (guidance - 1) * this.rows[index].share;
    if (![guidance, scale, 1 - scale].every((value) => Math.abs(value) <= FLOAT_MAX)) {
      throw new UsageError(
        `guidance must be finite in float32, got ${guidance}; 1 is none, 2 to 12 are usual`,
      );
    }
    return scale === 1 ? [1] : [scale, 1 - scale];
  }

  /**
   * The same table with guidance only in rows whose time is inside an interval.
   *
   * @param {number} first 0 noise to 1 data
   * @param {number} last
   * @returns {Table}
   * @throws {UsageError} not 0 <= first <= last <= 1, or a student's table
   */
  withInterval(first, last) {
    if (!(0 <= first && first <= last && last <= 1)) {
      throw new UsageError(`interval must satisfy 0 <= start <= end <= 1, got ${first}, ${last}`);
    }
    if (this.isConditioned) {
      throw new UsageError(
        `table ${this.name} is for a few-step student, which takes no interval; compile one with ` +
          "other t_min and t_max",
      );
    }
    const share = this.columns.indexOf("share");
    const rows = this.values.map((row, index) => {
      const { t } = this.rows[index];
      // A grid's 0.3 may be the float beside 0.3; the bounds are meant in decimals.
      const inside = first - TIME_ROUNDING <= t && t <= last + TIME_ROUNDING;
      return row.map((value, column) => (column === share ? value * (inside ? 1 : 0) : value));
    });
    const name = `${this.name}-i${pythonShort(first)}-${pythonShort(last)}`;
    return new Table(name, this.columns, rows, { ...this.meta, interval: [first, last] });
  }

  #checkLayout() {
    if (!NAME.test(this.name)) {
      throw new JsonError(
        `table name ${brief(this.name)} must be letters, digits, dots, dashes and underscores`,
      );
    }
    const sorted = [...this.columns].sort().join();
    const allowed = [COLUMNS, [...COLUMNS, ...CONDITION_COLUMNS]];
    if (!allowed.some((names) => [...names].sort().join() === sorted)) {
      throw new JsonError(
        `table ${this.name} has columns ${this.columns}, expected each of ${COLUMNS} once, and ` +
          `for a few-step student each of ${CONDITION_COLUMNS}`,
      );
    }
    const even = this.values.every((row) => row.length === this.columns.length);
    if (this.values.length < 1 || this.values.length > MAX_ROWS || !even) {
      throw new JsonError(
        `table ${this.name} has ${this.values.length} rows, expected 1 to ${MAX_ROWS} of ` +
          `${this.columns.length} numbers`,
      );
    }
  }

  /**
   * @param {Row} row
   * @param {number} index
   */
  #checkRow(row, index) {
    /** @type {[boolean, string][]} */
    const rules = [
      [Object.values(row).every((v) => Math.abs(v) <= FLOAT_MAX), "every value must fit float32"],
      [row.t >= 0 && row.t <= 1, "t must be in 0..1"],
      [row.clip >= 0, "clip must be 0 (off) or positive"],
      [row.rescale >= 0 && row.rescale <= 1, "rescale must be in 0..1"],
      [row.n === 0 || row.c === 0, "c must be 0 where n is not"],
    ];
    if (this.isConditioned) {
      const ordered = 0 <= row.t_min && row.t_min <= row.t_max && row.t_max <= 1;
      rules.push(
        [row.h >= 0 && row.h <= 1, "h must be in 0..1"],
        [row.omega >= 1, "omega must be 1 (no guidance) or more"],
        [ordered, "0 <= t_min <= t_max <= 1 must hold"],
        // The student is guided through its conditions; a second branch would guide twice.
        [row.share === 0, "share must be 0 where there is an omega"],
      );
    }
    const broken = rules.find(([good]) => !good);
    if (broken) throw new JsonError(`table ${this.name} row ${index}: ${broken[1]}`);
  }
}

/**
 * A student's conditions, as its text adapter takes them: h, omega, t_min, t_max.
 *
 * @param {Table} table
 * @param {number} omega guidance scale, in place of the table's
 * @returns {Float32Array} [4]
 * @throws {UsageError} omega below 1, or conditions that change from row to row
 */
export function studentConditions(table, omega) {
  if (!(omega >= 1 && omega <= FLOAT_MAX)) {
    throw new UsageError(
      `guidance of a student must be at least 1 (none) and a float32, got ${pythonFloat(omega)}`,
    );
  }
  const { h, t_min, t_max } = table.rows[0];
  const same = table.rows.every((row) => row.h === h && row.t_min === t_min && row.t_max === t_max);
  if (!same) {
    throw new UsageError(
      `table ${table.name}: h, t_min and t_max change from row to row, but the text adapter runs ` +
        "once an image; use equal steps",
    );
  }
  return Float32Array.of(h, omega, t_min, t_max);
}
