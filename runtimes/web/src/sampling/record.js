/**
 * The record of an image: its settings as text fields of the PNG, the same as Python's, so that
 * minit2i generate --from makes it again. docs/reference/image_record.md specifies it.
 */

import { pythonFloat, pythonJson, pythonRepr, pythonShort } from "../common/python_json.js";
import { parseJson } from "../common/json.js";
import { sha256Hex, sha256Text } from "../common/sha256.js";
import { VERSION } from "../common/version.js";
import { editRecord } from "./edit.js";

/**
 * @typedef {import("../bundle/bundle.js").Bundle} Bundle
 * @typedef {import("../bundle/table.js").Table} Table
 * @typedef {import("./request.js").Request} Request
 * @typedef {import("../text/prompts.js").Mix} Mix
 */

// The engine's name, the same in every language, so that an image can be made again in any.
const RUNTIME = "onnxruntime";
const SHORT_HASH_DIGITS = 10;

/**
 * Text fields of one image.
 *
 * @param {Bundle} bundle
 * @param {Request} request
 * @param {number} index of the image
 * @returns {Promise<[string, string][]>}
 */
export async function recordFields(bundle, request, index) {
  const { baseTable: table, guidance, negative } = request;
  const text = table.toJson();
  const noise = await noiseDigest(request, index);
  const prompt = request.prompts[index];
  const seed = request.seeds[index];
  const edit = await editRecord(request.edit, index, request.prompts.length);
  const size = sizeIfOther(bundle, request);
  const record = {
    ...(edit || size ? { edit, variation: null } : {}),
    ...(size && { size: size.map(BigInt) }),
    bundle: bundle.digest,
    checkpoint: bundle.manifest.checkpointSha256,
    format_version: size ? 3n : edit ? 2n : 1n,
    guidance,
    negative: negative ?? null,
    noise,
    prompt: prompt.parts.map(([part, weight]) => ({ text: part, weight })),
    runtime: RUNTIME,
    seed,
    table: (await isOfBundle(bundle, table, text)) ? null : parseJson(text),
    table_name: table.name,
    table_sha256: await sha256Text(text),
    version: VERSION,
  };
  const version = `minit2i-deploy ${VERSION}`;
  /** @type {[string, string | null][]} */
  const fields = [
    ["parameters", parameters(bundle, request, index, version)],
    ["negative", negative ?? null],
    ["seed", noise === null ? String(seed) : null],
    ["size", size && size.join("x")],
    ["init_image", edit?.init_image ? `sha256 ${edit.init_image}` : null],
    ["known", edit?.known ? `sha256 ${edit.known}` : null],
    ["mask", edit?.mask ? `sha256 ${edit.mask}` : null],
    ["strength", edit && edit.strength !== null ? pythonFloat(edit.strength) : null],
    ["noise", noise && `sha256 ${noise}`],
    ["table", table.name],
    ["guidance", pythonFloat(guidance)],
    ["bundle", bundle.digest],
    ["runtime", RUNTIME],
    ["version", version],
    ["minit2i", pythonJson(record)],
  ];
  return /** @type {[string, string][]} */ (fields.filter(([, value]) => value !== null));
}

/**
 * The text that AUTOMATIC1111's web UI writes and that other programs read. No field is called
 * "prompt" or "workflow", which ComfyUI takes for its own JSON.
 *
 * @param {Bundle} bundle
 * @param {Request} request
 * @param {number} index
 * @param {string} version
 */
function parameters(bundle, request, index, version) {
  const { prompts, seeds, baseTable: table, guidance, negative, noise, edit } = request;
  const lines = [readable(prompts[index])];
  if (negative !== undefined) lines.push(`Negative prompt: ${negative}`);
  const settings = [
    `Steps: ${table.rows.length}`,
    `Sampler: ${table.name}`,
    `CFG scale: ${pythonFloat(guidance)}`,
    ...(noise ? [] : [`Seed: ${seeds[index]}`]),
    `Model hash: ${bundle.digest.slice(0, SHORT_HASH_DIGITS)}`,
    ...(edit.init ? [`Denoising strength: ${pythonFloat(edit.strength)}`] : []),
    `Version: ${version}`,
  ];
  return [...lines, settings.join(", ")].join("\n");
}

/**
 * Width and height where they are not the bundle's own.
 *
 * @param {Bundle} bundle
 * @param {Request} request
 */
function sizeIfOther({ manifest }, { size }) {
  const { imageWidth, imageHeight } = manifest.model;
  const isOwn = size.width === imageWidth && size.height === imageHeight;
  return isOwn ? null : [size.width, size.height];
}

/**
 * For people: the text itself, or of a mix "1 x 'a' + 0.5 x 'b'".
 *
 * @param {Mix} prompt
 */
function readable({ parts }) {
  if (parts.length === 1) return parts[0][0];
  return parts.map(([text, weight]) => `${pythonShort(weight)} x ${pythonRepr(text)}`).join(" + ");
}

/**
 * @param {Bundle} bundle
 * @param {Table} table
 * @param {string} text its canonical JSON
 */
async function isOfBundle(bundle, table, text) {
  if (!(table.name in bundle.manifest.tables)) return false;
  return (await bundle.table(table.name)).toJson() === text;
}

/**
 * @param {Request} request
 * @param {number} index
 */
async function noiseDigest({ noise, prompts }, index) {
  if (!noise) return null;
  const size = noise.length / prompts.length;
  const one = noise.subarray(index * size, (index + 1) * size);
  return sha256Hex(new Uint8Array(one.buffer, one.byteOffset, one.byteLength));
}
