/**
 * Usage: node step.mjs onnxruntime-web|onnxruntime-node BUNDLE TABLE.json THREADS
 * Generates an image and prints the times of opening and of each row, in seconds, and the peak of
 * the process's memory in bytes, as JSON. benchmarks/web_step.py compares it with Python.
 */

import { readFile } from "node:fs/promises";

import { FolderSource, open, readTable } from "../src/node.js";

const [library, folder, tableFile, threads] = process.argv.slice(2);
const imported = await import(library);
const ort = imported.default?.InferenceSession ? imported.default : imported;
if (ort.env.wasm) ort.env.wasm.numThreads = Number(threads);
const start = performance.now();
const model = await open(new FolderSource(folder), { ort, lean: true });
const opened = performance.now();
/** @type {number[]} */
const times = [];
await model.generate("a red circle", {
  table: readTable(await readFile(tableFile)),
  guidance: 2.5,
  onFrame: () => {
    times.push(performance.now());
  },
});
const rows = times.slice(1).map((time, index) => (time - times[index]) / 1000);
const result = {
  open_s: (opened - start) / 1000,
  first_s: (times[0] - opened) / 1000,
  rows_s: rows,
  peak_bytes: process.resourceUsage().maxRSS * 1024,
};
console.log(JSON.stringify(result));
// The library's threads would keep the process.
process.exit(0);
