/**
 * Usage: node graph_step.mjs onnxruntime-web|onnxruntime-node FOLDER FORMAT SIZE TOKENS HIDDEN THREADS STEPS
 * Runs the step graph FOLDER/model.onnx on random inputs, two branches of one image, and prints the
 * times of opening and of each step, in seconds, and the peak of the process's memory, as JSON.
 */

import { readFile, readdir, stat } from "node:fs/promises";
import { join } from "node:path";

import { Engine, STEP_GRAPH } from "../src/engine/engine.js";
import { Trajectory } from "../src/engine/trajectory.js";
import { standardNoise } from "../src/node.js";

const [library, folder, ...rest] = process.argv.slice(2);
const [formatVersion, size, tokens, hidden, threads, steps] = rest.map(Number);
const imported = await import(library);
const ort = imported.default?.InferenceSession ? imported.default : imported;
if (ort.env.wasm) ort.env.wasm.numThreads = threads;

/** @type {Record<string, { bytes: number }>} */
const files = {};
for (const name of await readdir(folder)) {
  files[name] = { bytes: (await stat(join(folder, name))).size };
}
/** A bundle of this graph alone. */
const bundle = {
  name: folder,
  manifest: {
    files,
    formatVersion,
    graphs: { transformer: { path: "model.onnx", precision: "fp32" } },
    onlyFor: null,
    stepSwitch: null,
  },
  file: (/** @type {string} */ name) => readFile(join(folder, name)),
  localPath: (/** @type {string} */ name) => join(folder, name),
};
const engine = new Engine(/** @type {any} */ (bundle), ort);
const shape = [1, 3, size, size];
const values = standardNoise(1, 2 * tokens * hidden);
const start = standardNoise(0, 3 * size * size);
const trajectory = new Trajectory(engine, start, shape, {
  values,
  shape: [2, 1, tokens, hidden],
});
const began = performance.now();
await engine.session(STEP_GRAPH);
const opened = performance.now();
const times = [opened];
for (let step = 0; step < steps; step++) {
  const row = Float32Array.of(0.5, 0.5, 0, 0, 0, 0);
  await trajectory.step(STEP_GRAPH, row, Float32Array.of(2.5, -1.5));
  times.push(performance.now());
}
const result = {
  open_s: (opened - began) / 1000,
  rows_s: times.slice(1).map((time, index) => (time - times[index]) / 1000),
  peak_bytes: process.resourceUsage().maxRSS * 1024,
};
console.log(JSON.stringify(result));
// The library's threads would keep the process.
process.exit(0);
