/**
 * The manifest of a bundle, read strictly; docs/reference/bundle.md specifies every field.
 * fields.js has the rules of single fields, this file those between them.
 */

import { BundleError, JsonError } from "../common/errors.js";
import {
  asArray,
  asInteger,
  asNumber,
  asObject,
  asText,
  brief,
  expectFields,
  parseJson,
} from "../common/json.js";
import { sha256Hex } from "../common/sha256.js";
import * as fields from "./fields.js";

/**
 * @typedef {import("../common/json.js").JsonObject} JsonObject
 * @typedef {import("./fields.js").GraphInfo} GraphInfo
 *
 * @typedef {object} StepSwitch rows from time t on run another step graph
 * @property {number} t
 * @property {GraphInfo} graph
 *
 * @typedef {object} Manifest
 * @property {number} formatVersion
 * @property {fields.ModelInfo} model
 * @property {string | null} variant
 * @property {Record<string, GraphInfo>} graphs
 * @property {{ path: string, promptLength: number }} tokenizer
 * @property {Record<string, string>} tables name to path
 * @property {Record<string, fields.Preset>} presets
 * @property {string} defaultPreset
 * @property {number} noiseScale
 * @property {string} checkpointSha256
 * @property {Record<string, fields.FileInfo>} files
 * @property {StepSwitch | null} stepSwitch
 * @property {number | null} onePassGuidance scale that one branch gives, a part of the weights
 * @property {[number, number] | null} sideBounds of free heights and widths, in pixels
 * @property {string | null} onlyFor provider of ONNX Runtime whose own operators the graphs have
 */

export const FILE_NAME = "manifest.json";
export const GRAPHS = /** @type {const} */ (["text_encoder", "text_adapter", "transformer"]);
const KIND = "minit2i-bundle";
// Version 1 has another step graph: all images share a row, and no pixel is known.
const FORMAT_VERSIONS = [1n, 2n];
// A manifest has some 100 kB.
const MAX_BYTES = 16 * 2 ** 20;
// As in the C++ client.
const MAX_SIDE = 2 ** 31 - 1;
const CHECKSUM = "manifest_sha256";
const OPTIONAL = [
  ...["quantization", "late", "padded_head_dim", "only_for", "trained_size", "adapters"],
  "one_pass_guidance",
  "side_bounds",
  "text_encoder_lora_sha256",
];
const REQUIRED = [
  ...["kind", "format_version", CHECKSUM, "model", "variant", "graphs", "tokenizer", "files"],
  ...["tables", "presets", "default_preset", "flavour", "noise", "provenance", "checks"],
];
const PART = /^[A-Za-z0-9._+-]*[A-Za-z0-9_+-]$/;
const MAX_PATH_CHARACTERS = 240;

/**
 * Read a manifest.
 *
 * @param {Uint8Array} bytes
 * @param {string} where its address, for the error
 * @returns {Promise<Manifest>}
 * @throws {BundleError} an unknown version, a field outside its rules, or another checksum
 */
export async function readManifest(bytes, where) {
  try {
    if (bytes.length > MAX_BYTES) throw new JsonError(`too large a manifest, ${bytes.length} bytes`);
    const value = checkVersion(parseJson(bytes));
    const manifest = decode(value);
    checkLinks(manifest);
    await verifyChecksum(bytes, value);
    return manifest;
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    throw new BundleError(`${where}: ${error.message}; re-run minit2i export`, { cause: error });
  }
}

/** @param {import("../common/json.js").Json} value */
function checkVersion(value) {
  const manifest = asObject(value, "manifest");
  if (manifest.kind !== KIND) throw new JsonError(`kind must be ${KIND}, got ${brief(manifest.kind)}`);
  if (!FORMAT_VERSIONS.some((version) => version === manifest.format_version)) {
    throw new JsonError(
      `format_version is ${brief(manifest.format_version)}, but this module reads ` +
        `${FORMAT_VERSIONS.join(" and ")} (another version of it may read it)`,
    );
  }
  return manifest;
}

/**
 * @param {JsonObject} value
 * @returns {Manifest}
 */
function decode(value) {
  expectFields(value, "manifest", REQUIRED, OPTIONAL);
  const tokenizer = asObject(value.tokenizer, "tokenizer");
  expectFields(tokenizer, "tokenizer", ["path", "prompt_length"]);
  fields.checkFlavour(value.flavour, "flavour");
  fields.checkChecks(value.checks, "checks");
  checkOptional(value);
  const model = fields.readModel(value.model, "model");
  return {
    formatVersion: Number(value.format_version),
    model,
    variant: value.variant === null ? null : asText(value.variant, "variant"),
    graphs: fields.mapOf(value.graphs, "graphs", fields.readGraph),
    tokenizer: {
      path: asText(tokenizer.path, "tokenizer.path"),
      promptLength: fields.positive(tokenizer.prompt_length, "tokenizer.prompt_length"),
    },
    tables: fields.mapOf(value.tables, "tables", asText),
    presets: fields.mapOf(value.presets, "presets", fields.readPreset),
    defaultPreset: asText(value.default_preset, "default_preset"),
    noiseScale: fields.readNoise(value.noise, "noise"),
    checkpointSha256: fields.readProvenance(value.provenance, "provenance"),
    files: fields.mapOf(value.files, "files", fields.readFile),
    onePassGuidance:
      "one_pass_guidance" in value ? readOnePassGuidance(value.one_pass_guidance) : null,
    onlyFor: "only_for" in value ? asText(value.only_for, "only_for") : null,
    sideBounds: "side_bounds" in value ? readSideBounds(value.side_bounds, model) : null,
    stepSwitch: "late" in value ? readSwitch(asObject(value.late, "late")) : null,
  };
}

/** @param {JsonObject} value */
function checkOptional(value) {
  if ("quantization" in value) fields.checkQuantization(value.quantization, "quantization");
  if ("only_for" in value) fields.oneOf(value.only_for, ["cpu", "cuda"], "only_for");
  if ("adapters" in value) {
    for (const item of asArray(value.adapters, "adapters")) {
      const adapter = asObject(item, "adapters");
      expectFields(adapter, "adapters", ["sha256", "strength"]);
      fields.digest(adapter.sha256, "adapters.sha256");
      asNumber(adapter.strength, "adapters.strength");
    }
  }
  if ("text_encoder_lora_sha256" in value) {
    fields.digest(value.text_encoder_lora_sha256, "text_encoder_lora_sha256");
  }
  if ("trained_size" in value) {
    const sides = asArray(value.trained_size, "trained_size");
    for (const side of sides) fields.positive(side, "trained_size");
    if (sides.length !== 2) {
      throw new JsonError(`trained_size needs height and width in pixels, got ${sides.join(", ")}`);
    }
  }
  if ("padded_head_dim" in value) {
    const width = asInteger(value.padded_head_dim, "padded_head_dim");
    const headDim = asInteger(asObject(value.model, "model").head_dim, "model.head_dim");
    if (width % 2 !== 0 || width <= headDim) {
      throw new JsonError(`padded_head_dim must be even and above ${headDim}, got ${width}`);
    }
  }
}

/** @param {import("../common/json.js").Json} value */
function readOnePassGuidance(value) {
  const scale = asNumber(value, "one_pass_guidance");
  if (scale > 1) return scale;
  throw new JsonError(`one_pass_guidance must be above 1, got ${scale}`);
}

/**
 * @param {import("../common/json.js").Json} value
 * @param {fields.ModelInfo} model
 * @returns {[number, number]}
 */
function readSideBounds(value, { imageHeight, imageWidth, patchSize }) {
  const bounds = asArray(value, "side_bounds").map((side) => fields.positive(side, "side_bounds"));
  if (bounds.length !== 2 || bounds.some((side) => side % patchSize !== 0 || side > MAX_SIDE)) {
    throw new JsonError(
      `side_bounds must be the least and the most pixels of a side, multiples of ${patchSize}, ` +
        `got ${bounds.join(", ")}`,
    );
  }
  const [least, most] = bounds;
  if (least <= Math.min(imageHeight, imageWidth) && Math.max(imageHeight, imageWidth) <= most) {
    return [least, most];
  }
  throw new JsonError(
    `side_bounds ${least} to ${most} exclude the image size of ${imageWidth}x${imageHeight}`,
  );
}

/**
 * @param {JsonObject} value
 * @returns {StepSwitch}
 */
function readSwitch(value) {
  expectFields(value, "late", ["t", "graph"]);
  const t = asNumber(value.t, "late.t");
  if (!(t > 0 && t < 1)) throw new JsonError(`late.t must be between 0 and 1, got ${t}`);
  return { t, graph: fields.readGraph(value.graph, "late.graph") };
}

/** @param {Manifest} manifest */
function checkLinks(manifest) {
  checkFileNames(Object.keys(manifest.files));
  const names = Object.keys(manifest.graphs).sort();
  if (names.join() !== [...GRAPHS].sort().join()) {
    throw new JsonError(`graphs must be ${GRAPHS.join(", ")}, got ${names.join(", ")}`);
  }
  const paths = [
    ...Object.entries(manifest.graphs).map(([name, graph]) => [`graphs.${name}.path`, graph.path]),
    ...Object.entries(manifest.tables).map(([name, path]) => [`tables.${name}`, path]),
    ["tokenizer.path", `${manifest.tokenizer.path}/tokenizer.json`],
  ];
  if (manifest.stepSwitch) paths.push(["late.graph.path", checkSwitch(manifest)]);
  for (const [where, path] of paths) {
    if (path in manifest.files) continue;
    throw new JsonError(`${where} names ${brief(path)}, which is not in files`);
  }
  for (const [name, { table }] of Object.entries(manifest.presets)) {
    if (table in manifest.tables) continue;
    throw new JsonError(`presets.${name} names table ${brief(table)}, which is not in tables`);
  }
  if (!(manifest.defaultPreset in manifest.presets)) {
    throw new JsonError(`default_preset ${brief(manifest.defaultPreset)} is not in presets`);
  }
  if (manifest.tokenizer.promptLength !== manifest.model.promptLength) {
    throw new JsonError(
      `tokenizer.prompt_length ${manifest.tokenizer.promptLength} is not the model's ` +
        `${manifest.model.promptLength}`,
    );
  }
}

/** @param {Manifest} manifest */
function checkSwitch(manifest) {
  const before = manifest.graphs.transformer;
  const after = /** @type {StepSwitch} */ (manifest.stepSwitch).graph;
  const same = [before, after].map(({ inputs, outputs }) => sortedJson([inputs, outputs]));
  if (same[0] !== same[1] || before.path === after.path) {
    throw new JsonError("late.graph needs graphs.transformer's inputs and outputs, and another path");
  }
  return after.path;
}

/** @param {readonly string[]} names */
function checkFileNames(names) {
  const folded = new Map();
  for (const path of names) {
    // A part that ends in a dot is refused as well, and so "." and "..".
    if (path.length > MAX_PATH_CHARACTERS || !path.split("/").every((part) => PART.test(part))) {
      throw new JsonError(
        `file name ${brief(path)} must be relative, of letters, digits and . _ + - with single ` +
          "slashes between",
      );
    }
    const key = path.toLowerCase();
    if (folded.has(key)) {
      throw new JsonError(`file names ${folded.get(key)} and ${path} differ in case only`);
    }
    if (key === FILE_NAME || key.split("/")[0] === "engines") {
      throw new JsonError(`file ${brief(path)} must not be listed in files`);
    }
    folded.set(key, path);
  }
}

/**
 * The checksum is the sha256 of the manifest's own bytes with its digits as zeros.
 *
 * @param {Uint8Array} bytes
 * @param {JsonObject} value
 */
async function verifyChecksum(bytes, value) {
  const expected = fields.digest(value[CHECKSUM], CHECKSUM);
  const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  const blank = text.replace(`"${CHECKSUM}": "${expected}"`, `"${CHECKSUM}": "${"0".repeat(64)}"`);
  const actual = await sha256Hex(new TextEncoder().encode(blank));
  if (actual === expected) return;
  throw new JsonError(
    `sha256 is ${actual.slice(0, 8)}.. but ${CHECKSUM} is ${expected.slice(0, 8)}..; ` +
      "the file was edited",
  );
}

/** @param {unknown} value */
function sortedJson(value) {
  return JSON.stringify(value, (_, item) =>
    item && typeof item === "object" && !Array.isArray(item)
      ? Object.fromEntries(Object.entries(item).sort(([a], [b]) => (a < b ? -1 : 1)))
      : item,
  );
}
