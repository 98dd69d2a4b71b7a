/** Text as Python writes it, so that records and checksums are the same in every language. */

/** @typedef {import("./json.js").Json} Json */

/** @type {Readonly<Record<string, string>>} */
const ESCAPES = { "\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\" };

/**
 * json.dumps(value, sort_keys=True): ASCII, sorted keys, a space after commas and colons.
 *
 * @param {Json} value integers are bigint
 * @returns {string}
 */
export function pythonJson(value) {
  if (typeof value === "string") return quoted(value);
  if (typeof value === "number") return pythonFloat(value);
  if (value === null || typeof value !== "object") return String(value);
  if (Array.isArray(value)) return `[${value.map(pythonJson).join(", ")}]`;
  const keys = Object.keys(value).sort(byCodePoint);
  return `{${keys.map((key) => `${quoted(key)}: ${pythonJson(value[key])}`).join(", ")}}`;
}

/**
 * repr(float): the shortest digits that read back as the same float64.
 *
 * @param {number} value
 * @returns {string}
 */
export function pythonFloat(value) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  const [mantissa, power] = value.toExponential().split("e");
  const exponent = Number(power);
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  const digits = mantissa.replace(/[-.]/g, "");
  // Python changes notation below 1e-4 and from 1e16 on.
  if (value !== 0 && (exponent < -4 || exponent >= 16)) {
    const fraction = digits.length > 1 ? `.${digits.slice(1)}` : "";
    const size = String(Math.abs(exponent)).padStart(2, "0");
    return `${sign}${digits[0]}${fraction}e${exponent < 0 ? "-" : "+"}${size}`;
  }
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return `${sign}${whole}.${digits.slice(exponent + 1) || "0"}`;
}

/**
 * format(value, "g"): six significant digits.
 *
 * @param {number} value finite
 * @returns {string}
 */
export function pythonShort(value) {
  const [mantissa, power] = value.toExponential(5).split("e");
  const exponent = Number(power);
  if (exponent >= -4 && exponent < 6) {
    const fixed = value.toFixed(Math.max(0, 5 - exponent));
    return fixed.includes(".") ? fixed.replace(/\.?0+$/, "") : fixed;
  }
  const size = String(Math.abs(exponent)).padStart(2, "0");
  return `${mantissa.replace(/\.?0+$/, "")}e${exponent < 0 ? "-" : "+"}${size}`;
}

/**
 * repr(str).
 *
 * @param {string} text
 * @returns {string}
 */
export function pythonRepr(text) {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = Array.from(text, (character) => {
    if (character === quote) return `\\${quote}`;
    if (character in ESCAPES) return ESCAPES[character];
    const code = /** @type {number} */ (character.codePointAt(0));
    const isControl = code < 0x20 || (code >= 0x7f && code <= 0xa0) || code === 0xad;
    return isControl ? `\\x${code.toString(16).padStart(2, "0")}` : character;
  });
  return quote + escaped.join("") + quote;
}

/** @param {string} text */
function quoted(text) {
  return JSON.stringify(text).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/**
 * @param {string} a
 * @param {string} b
 */
function byCodePoint(a, b) {
  const [left, right] = [Array.from(a), Array.from(b)];
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const difference =
      /** @type {number} */ (left[i].codePointAt(0)) -
      /** @type {number} */ (right[i].codePointAt(0));
    if (difference !== 0) return difference;
  }
  return left.length - right.length;
}
