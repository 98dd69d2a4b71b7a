/** Rules of the manifest's fields. Each reader returns the value or throws a JsonError. */

import { JsonError } from "../common/errors.js";
import {
  asArray, asInteger, asNumber, asObject, asText, brief, expectFields,
} from "../common/json.js";
import { GENERATOR } from "../common/noise.js";

/** @typedef {import("../common/json.js").Json} Json */

/**
 * @typedef {object} TensorInfo
 * @property {string} dtype
 * @property {(number | string)[]} shape sizes, or the names of free ones
 *
 * @typedef {object} GraphInfo
 * @property {string} path
 * @property {string} precision
 * @property {number} opset
 * @property {Record<string, TensorInfo>} inputs
 * @property {Record<string, TensorInfo>} outputs
 *
 * @typedef {object} ModelInfo
 * @property {number} imageHeight
 * @property {number} imageWidth
 * @property {number} patchSize
 * @property {number} inChannels
 * @property {number} promptLength
 * @property {boolean} isStudent
 *
 * @typedef {{ sha256: string, bytes: number }} FileInfo
 * @typedef {{ table: string, guidance: number }} Preset
 */

const PRECISIONS = ["fp32", "bf16", "fp16", "int8", "fp8", "mxfp8", "fp4"];
const DTYPES = ["float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"];
const SHA256 = /^[0-9a-f]{64}$/;
// The official config.json's names; the second list has defaults.
const MODEL = ["image_size", "patch_size", "hidden_size", "num_heads", "head_dim", "depth_double"];
const MODEL_DEFAULTS = {
  in_channels: 3,
  txt_preamble_depth: 2,
  mlp_ratio: 2.6667,
  pca_channels: 128,
  txt_input_size: 1024,
  prompt_length: 256,
};

/**
 * Every entry of an object, read by one reader.
 *
 * @template T
 * @param {Json} value
 * @param {string} where
 * @param {(value: Json, where: string) => T} read
 * @returns {Record<string, T>}
 */
export function mapOf(value, where, read) {
  /** @type {Record<string, T>} */
  const result = Object.create(null);
  for (const [key, item] of Object.entries(asObject(value, where))) {
    result[key] = read(item, `${where}.${key}`);
  }
  return result;
}

/**
 * @param {Json} value
 * @param {string} where
 * @returns {GraphInfo}
 */
export function readGraph(value, where) {
  const graph = asObject(value, where);
  expectFields(graph, where, ["path", "precision", "opset", "inputs", "outputs"]);
  return {
    path: asText(graph.path, `${where}.path`),
    precision: oneOf(graph.precision, PRECISIONS, `${where}.precision`),
    opset: positive(graph.opset, `${where}.opset`),
    inputs: mapOf(graph.inputs, `${where}.inputs`, readTensor),
    outputs: mapOf(graph.outputs, `${where}.outputs`, readTensor),
  };
}

/**
 * @param {Json} value
 * @param {string} where
 * @returns {TensorInfo}
 */
function readTensor(value, where) {
  const tensor = asObject(value, where);
  expectFields(tensor, where, ["dtype", "shape"]);
  const shape = asArray(tensor.shape, `${where}.shape`).map((size) => {
    if (typeof size === "string" && size !== "") return size;
    return positive(size, `${where}.shape`);
  });
  return { dtype: oneOf(tensor.dtype, DTYPES, `${where}.dtype`), shape };
}

/**
 * @param {Json} value
 * @param {string} where
 * @returns {FileInfo}
 */
export function readFile(value, where) {
  const file = asObject(value, where);
  expectFields(file, where, ["sha256", "bytes"]);
  const bytes = asInteger(file.bytes, `${where}.bytes`);
  if (bytes < 0) throw new JsonError(`${where}.bytes must be at least 0, got ${bytes}`);
  return { sha256: digest(file.sha256, `${where}.sha256`), bytes };
}

/**
 * @param {Json} value
 * @param {string} where
 * @returns {Preset}
 */
export function readPreset(value, where) {
  const preset = asObject(value, where);
  expectFields(preset, where, ["table", "guidance"]);
  return {
    table: asText(preset.table, `${where}.table`),
    guidance: asNumber(preset.guidance, `${where}.guidance`),
  };
}

/**
 * @param {Json} value
 * @param {string} where
 * @returns {ModelInfo}
 */
export function readModel(value, where) {
  const model = asObject(value, where);
  const optional = ["student", "loop", "image_width"];
  expectFields(model, where, MODEL, [...Object.keys(MODEL_DEFAULTS), ...optional]);
  for (const [name, item] of Object.entries(model)) {
    const field = `${where}.${name}`;
    if (name === "student") checkStudent(item, field);
    else if (name === "loop") checkLoop(item, field);
    else if (name !== "mlp_ratio") positive(item, field);
    else if (asNumber(item, field) <= 0) throw new JsonError(`${field} must be positive`);
  }
  /** @param {string} name */
  const size = (name) => Number(model[name] ?? /** @type {any} */ (MODEL_DEFAULTS)[name]);
  const fits =
    size("hidden_size") === size("num_heads") * size("head_dim") &&
    size("head_dim") % 4 === 0 &&
    size("image_size") % size("patch_size") === 0 &&
    (!("image_width" in model) || size("image_width") % size("patch_size") === 0);
  if (!fits) throw new JsonError(`${where}: its sizes do not fit together`);
  return {
    imageHeight: size("image_size"),
    imageWidth: "image_width" in model ? size("image_width") : size("image_size"),
    patchSize: size("patch_size"),
    inChannels: size("in_channels"),
    promptLength: size("prompt_length"),
    isStudent: (model.student ?? null) !== null,
  };
}

/**
 * @param {Json} value
 * @param {string} where
 */
function checkStudent(value, where) {
  if (value === null) return;
  const names = ["context", "cfg", "interval", "time"].map((name) => `num_${name}_tokens`);
  const student = asObject(value, where);
  expectFields(student, where, [], names);
  for (const [name, count] of Object.entries(student)) asInteger(count, `${where}.${name}`);
}

/**
 * The loop is inside the exported step, so that what runs it needs no more of it.
 *
 * @param {Json} value
 * @param {string} where
 */
function checkLoop(value, where) {
  if (value === null) return;
  const loop = asObject(value, where);
  const counts = ["pre", "core", "post", "num_loops", "num_copies"];
  const switches = ["use_xsa", "use_attn_gate"];
  expectFields(loop, where, [...counts, ...switches]);
  for (const name of counts) positive(loop[name], `${where}.${name}`);
  for (const name of switches) {
    if (typeof loop[name] !== "boolean") throw new JsonError(`${where}.${name} must be true or false`);
  }
}

/**
 * @param {Json} value
 * @param {string} where
 */
export function checkFlavour(value, where) {
  const flavour = asObject(value, where);
  expectFields(flavour, where, ["name", "a_min", "guidance", "steps", "rounding"]);
  asText(flavour.name, `${where}.name`);
  asNumber(flavour.guidance, `${where}.guidance`);
  oneOf(flavour.rounding, ["truncate"], `${where}.rounding`);
  const floor = asNumber(flavour.a_min, `${where}.a_min`);
  if (!(floor > 0 && floor <= 1)) throw new JsonError(`${where}.a_min must be in 0..1, not 0`);
  positive(flavour.steps, `${where}.steps`);
}

/**
 * @param {Json} value
 * @param {string} where
 * @returns {number} standard deviation of the start noise
 */
export function readNoise(value, where) {
  const noise = asObject(value, where);
  expectFields(noise, where, ["generator", "scale"]);
  oneOf(noise.generator, [GENERATOR], `${where}.generator`);
  const scale = asNumber(noise.scale, `${where}.scale`);
  if (scale <= 0) throw new JsonError(`${where}.scale must be positive, got ${scale}`);
  return scale;
}

/**
 * @param {Json} value
 * @param {string} where
 * @returns {string} sha256 of the checkpoint
 */
export function readProvenance(value, where) {
  const provenance = asObject(value, where);
  const names = ["checkpoint_sha256", "checkpoint_form", "tools", "lora_sha256"];
  expectFields(provenance, where, names);
  asText(provenance.checkpoint_form, `${where}.checkpoint_form`);
  mapOf(provenance.tools, `${where}.tools`, asText);
  if (provenance.lora_sha256 !== null) digest(provenance.lora_sha256, `${where}.lora_sha256`);
  return digest(provenance.checkpoint_sha256, `${where}.checkpoint_sha256`);
}

/**
 * @param {Json} value
 * @param {string} where
 */
export function checkChecks(value, where) {
  asArray(value, where).forEach((item, index) => {
    const field = `${where}[${index}]`;
    const check = asObject(item, field);
    expectFields(check, field, ["name", "measured", "bound", "unit", "where"]);
    for (const name of ["name", "unit", "where"]) asText(check[name], `${field}.${name}`);
    for (const name of ["measured", "bound"]) asNumber(check[name], `${field}.${name}`);
  });
}

/**
 * @param {Json} value
 * @param {string} where
 */
export function checkQuantization(value, where) {
  const names = ["scheme", "base_precision", "source_digest", "calibration_sha256"];
  const quantization = asObject(value, where);
  expectFields(quantization, where, [...names, "smoothing", "graphs"]);
  asText(quantization.scheme, `${where}.scheme`);
  oneOf(quantization.base_precision, ["fp32", "bf16", "fp16"], `${where}.base_precision`);
  digest(quantization.source_digest, `${where}.source_digest`);
  const calibration = quantization.calibration_sha256;
  if (calibration !== null) digest(calibration, `${where}.calibration_sha256`);
  mapOf(quantization.smoothing, `${where}.smoothing`, asNumber);
  mapOf(quantization.graphs, `${where}.graphs`, (item, field) => {
    const graph = asObject(item, field);
    expectFields(graph, field, ["scheme", "layers", "excluded"]);
    asText(graph.scheme, `${field}.scheme`);
    positive(graph.layers, `${field}.layers`);
    asArray(graph.excluded, `${field}.excluded`).forEach((name) => asText(name, field));
  });
}

/**
 * @param {Json | undefined} value
 * @param {string} where
 */
export function digest(value, where) {
  const text = asText(value, where);
  if (SHA256.test(text)) return text;
  throw new JsonError(`${where} must be 64 hexadecimal digits, got ${brief(text)}`);
}

/**
 * @param {Json | undefined} value
 * @param {readonly string[]} choices
 * @param {string} where
 */
export function oneOf(value, choices, where) {
  const text = asText(value, where);
  if (choices.includes(text)) return text;
  throw new JsonError(`${where} must be one of ${choices.join(", ")}, got ${brief(text)}`);
}

/**
 * @param {Json | undefined} value
 * @param {string} where
 */
export function positive(value, where) {
  const number = asInteger(value, where);
  if (number >= 1) return number;
  throw new JsonError(`${where} must be at least 1, got ${number}`);
}
