/**
 * Usage: node run_node.mjs onnxruntime-web|onnxruntime-node CASES.json RESULTS.json
 * Runs cases in Node, on either library.
 */

import { readFile, writeFile } from "node:fs/promises";

import { FolderSource } from "../src/node.js";
import { runCases } from "./cases.js";

const [library, casesFile, resultsFile] = process.argv.slice(2);
const imported = await import(library);
const ort = imported.default?.InferenceSession ? imported.default : imported;
if (ort.env.wasm) ort.env.wasm.numThreads = 2;
const world = {
  ort,
  source: (/** @type {string} */ folder) => new FolderSource(folder),
  load: (/** @type {string} */ module) => import(`../src/${module}`),
};
const cases = JSON.parse(await readFile(casesFile, "utf8"));
await writeFile(resultsFile, JSON.stringify(await runCases(world, cases)));
// The library's threads would keep the process.
process.exit(0);
