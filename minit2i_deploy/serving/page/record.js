// The record in a PNG of minit2i: what made the image. docs/reference/image_record.md has its form.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
// Of a table's meta: what a request says, the columns show, or the bundle sets. No request says
// another grid, a start or repeats.
const PLAIN_META = new Set(["solver", "steps", "a_min", "interval", "one_pass", "clip", "rescale",
  "h", "omega", "t_min", "t_max"]);

/** A file without a record, which may yet be an image. */
export class NoRecord extends Error {}

/**
 * The record of a PNG.
 *
 * @param {Uint8Array} bytes of the file
 * @throws {Error} with one line: no PNG, or no record in it
 */
export function readRecord(bytes) {
  if (!SIGNATURE.every((value, index) => bytes[index] === value)) {
    throw new NoRecord("that is no PNG; choose an image that minit2i made");
  }
  const text = textFields(bytes).get("minit2i");
  if (text === undefined) throw new NoRecord("that PNG has no record of minit2i");
  try {
    // As text: a seed may have more digits than a number holds.
    const seed = /"seed": ?(\d+)/.exec(text)[1];
    return { ...JSON.parse(text), seed };
  } catch {
    throw new Error("the record of that PNG cannot be read");
  }
}

/**
 * Whether a table of a record is a solver and its steps alone, as a request has them compiled.
 *
 * @param {{columns: string[], rows: number[][], meta: object}} table
 * @param {boolean} isOnePass the bundle's weights give the guided estimate in one branch
 * @param {number} floor a_min of the bundle; a request leaves it to that
 */
export function isPlain({ columns, rows, meta }, isOnePass, floor) {
  const has = (name, value) => rows.every((row) => row[columns.indexOf(name)] === value);
  // A student and such weights have their guidance elsewhere.
  const share = isOnePass || columns.includes("omega") ? 0 : 1;
  return Object.keys(meta).every((name) => PLAIN_META.has(name)) && !!meta.one_pass === isOnePass
    && (meta.a_min ?? floor) === floor && has("share", share) && has("clip", 0) && has("rescale", 0);
}

/** tEXt chunks by name; the record is ASCII, so it is always in one. */
function textFields(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const latin1 = new TextDecoder("latin1");
  const fields = new Map();
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const type = latin1.decode(bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length);
    const end = data.indexOf(0);
    if (type === "tEXt" && end > 0) {
      fields.set(latin1.decode(data.subarray(0, end)), latin1.decode(data.subarray(end + 1)));
    }
    at += 12 + length;
  }
  return fields;
}
