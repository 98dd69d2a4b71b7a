/**
 * Usage: node engine_test.mjs
 * How often the engine asks for a GPU: once for all graphs, and again after a refusal.
 */

import assert from "node:assert/strict";

import { Engine } from "../src/engine/engine.js";

let requests = 0;
/** @type {object | null} */
let adapter = null;
const gpu = {
  requestAdapter: async () => {
    requests += 1;
    return adapter;
  },
};
Object.defineProperty(globalThis, "navigator", { value: { gpu } });

const graphs = Object.fromEntries(
  ["text_encoder", "text_adapter", "transformer"].map((name) => [name, { path: name, precision: "fp32" }]),
);
const bundle = /** @type {any} */ ({
  name: "",
  manifest: { graphs, files: {}, onlyFor: null, stepSwitch: null },
  file: async () => new Uint8Array(),
});
const ort = /** @type {any} */ ({ InferenceSession: { create: async () => ({}) } });
const engine = new Engine(bundle, ort, { provider: "webgpu" });

await assert.rejects(engine.session("transformer"), /WebGPU finds no GPU here/);
assert.equal(requests, 1);
adapter = {};
await Promise.all(Object.keys(graphs).map((name) => engine.session(name)));
assert.equal(requests, 2);
