/**
 * The model in a worker, so that the page stays alive while it computes. It takes messages
 * { type: "open" | "generate" | "cancel", ... } and posts what page.js reads.
 */

import { BundleError, Minit2iError, RuntimeFailure, UrlSource, open } from "./src/index.js";
import { unpack } from "./src/bundle/source.js";

/**
 * @typedef {object} OpenMessage
 * @property {string} bundle its address
 * @property {"wasm" | "webgpu"} provider
 * @property {number} threads
 *
 * @typedef {object} GenerateMessage
 * @property {string} prompt
 * @property {import("./src/model.js").ModelOptions} options
 */

const STORE = "minit2i-bundles";
const LIBRARIES = {
  wasm: { module: "ort.wasm.min.mjs", binary: "ort-wasm-simd-threaded.wasm" },
  webgpu: { module: "ort.webgpu.min.mjs", binary: "ort-wasm-simd-threaded.asyncify.wasm" },
};
const post = /** @type {(message: any, transfer?: Transferable[]) => void} */ (self.postMessage);
const channel = new MessageChannel();
/** @type {import("./src/index.js").Model | undefined} */
let model;
let controller = new AbortController();

self.addEventListener("message", ({ data }) => {
  if (data.type === "open") attempt(() => openModel(data));
  else if (data.type === "generate") attempt(() => generate(data));
  else if (data.type === "cancel") controller.abort();
});
post({ type: "ready" });

/** @param {() => Promise<void>} work */
async function attempt(work) {
  controller = new AbortController();
  try {
    await work();
  } catch (error) {
    const { name, message } = /** @type {Error} */ (error);
    const known = error instanceof Minit2iError;
    post({ type: "error", name, message: known ? message : `unexpected: ${name}: ${message}` });
  }
}

/** @param {OpenMessage} message */
async function openModel({ bundle, provider, threads }) {
  const start = performance.now();
  const ort = await loadLibrary(provider, threads);
  model = await open(new UrlSource(bundle, { cache: await store(), compressed: true }), {
    ort,
    provider,
    signal: controller.signal,
    onProgress: ({ file, received, total }) => post({ type: "progress", file, received, total }),
    onWarning: warn,
  });
  await model.load();
  const { tables, presets, defaultPreset } = model.bundle.manifest;
  const { isStudent, imageWidth, imageHeight } = model.bundle.manifest.model;
  const size = imageWidth === imageHeight ? `${imageWidth}` : `${imageWidth} x ${imageHeight}`;
  const facts = { tables: Object.keys(tables), presets, defaultPreset, isStudent, size };
  post({ type: "opened", digest: model.bundle.digest, ms: performance.now() - start, ...facts });
}

/**
 * @param {"wasm" | "webgpu"} provider
 * @param {number} threads
 */
async function loadLibrary(provider, threads) {
  const { module, binary } = LIBRARIES[provider];
  let ort;
  try {
    ort = await import(new URL(`ort/${module}`, self.location.href).href);
  } catch (error) {
    throw new RuntimeFailure(
      `ort/${module}: cannot be loaded; the server must send it, as text/javascript`,
      { cause: error },
    );
  }
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = new URL("ort/", self.location.href).href;
  ort.env.wasm.wasmBinary = await loadBinary(`ort/${binary}.gz`);
  return ort;
}

/** @param {string} path */
async function loadBinary(path) {
  const url = new URL(path, self.location.href).href;
  const response = await fetch(url, { signal: controller.signal }).catch(() => undefined);
  if (!response?.ok) {
    const reason = response ? `the server answers ${response.status}` : "no network";
    throw new BundleError(`${url}: cannot be fetched (${reason}); try again`);
  }
  const packed = new Uint8Array(await response.arrayBuffer());
  post({ type: "progress", file: path, received: packed.length, total: packed.length });
  return (await unpack(packed, url)).buffer;
}

/** @param {GenerateMessage} message */
async function generate({ prompt, options }) {
  if (!model) throw new RuntimeFailure("no model is open; choose a bundle again");
  const start = performance.now();
  const result = await model.generate(prompt, {
    ...options,
    signal: controller.signal,
    onWarning: warn,
    onFrame: async ({ row, numRows, width, height, pixels }) => {
      post({ type: "frame", row, numRows, width, height, pixels: pixels()[0] });
      await breathe();
    },
  });
  const ms = performance.now() - start;
  const [pixels] = result.pixels;
  const { width, height, table, guidance, seeds, timings } = result;
  const facts = { width, height, table, guidance, seed: String(seeds[0]), ms, timings };
  post({ type: "image", pixels, png: await result.png(), ...facts });
}

/** Lets messages in, above all "cancel"; a timer would wait for four milliseconds. */
function breathe() {
  return new Promise((done) => {
    channel.port1.onmessage = done;
    channel.port2.postMessage(null);
  });
}

/** The browser's store, or none where pages have none (plain http, private windows). */
async function store() {
  try {
    return await globalThis.caches?.open(STORE);
  } catch {
    return undefined;
  }
}

/** @param {string} line */
function warn(line) {
  post({ type: "warning", line });
}
