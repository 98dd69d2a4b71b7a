/**
 * Usage: node memory_test.mjs BUNDLE
 * Where memory runs out: while a file is unpacked, while a graph is opened, and in a call.
 */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";

import { Engine } from "../src/engine/engine.js";
import { Bundle, UrlSource } from "../src/index.js";
import { FolderSource } from "../src/node.js";
import { serve } from "./server.mjs";

const folder = process.argv[2];
const FILE = "text_encoder/config.json";
const refused = { name: "RuntimeFailure", message: /out of memory.*; close other pages, or use a / };

// A stored file stays: it may be right.
const files = new Map();
const store = /** @type {any} */ ({
  match: async (/** @type {string} */ url) => files.has(url) && new Response(files.get(url)),
  put: async (/** @type {string} */ url, /** @type {Response} */ response) =>
    void files.set(url, await response.bytes()),
  delete: async (/** @type {string} */ url) => files.delete(url),
});
const packed = gzipSync(await readFile(`${folder}/${FILE}`));
const server = await serve(
  { "/b/": folder },
  { answer: (path) => (path.endsWith(".gz") ? { body: packed } : undefined) },
);
try {
  const place = new UrlSource(`${server.url}/b`, { cache: store, compressed: true });
  const bundle = await Bundle.open(place);
  const { arrayBuffer } = Response.prototype;
  Response.prototype.arrayBuffer = () => Promise.reject(new RangeError("Array buffer allocation"));
  await assert.rejects(bundle.file(FILE), refused);
  assert.equal(files.has(`${server.url}/b/${FILE}.gz`), false);
  Response.prototype.arrayBuffer = arrayBuffer;
  await bundle.file(FILE);
  Response.prototype.arrayBuffer = () => Promise.reject(new RangeError("Array buffer allocation"));
  await assert.rejects(bundle.file(FILE), refused);
  assert.equal(files.has(`${server.url}/b/${FILE}.gz`), true);
  Response.prototype.arrayBuffer = arrayBuffer;
} finally {
  server.close();
}

// What onnxruntime-web and the browser say.
const lines = ["std::bad_alloc", "failed to allocate memory", "memory access out of bounds"];
for (const line of lines) {
  const fails = () => Promise.reject(new Error(line));
  const bundle = await Bundle.open(new FolderSource(folder));
  const ort = /** @type {any} */ ({ env: {}, InferenceSession: { create: fails } });
  const engine = new Engine(bundle, ort);
  const advice = { name: "RuntimeFailure", message: /; out of memory\? close other pages, or use a / };
  await assert.rejects(engine.session("text_adapter"), advice);
  const session = /** @type {any} */ ({ run: fails });
  await assert.rejects(engine.run("text_adapter", session, {}), advice);
}
