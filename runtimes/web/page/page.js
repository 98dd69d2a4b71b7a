/** The page: settings to the worker, rows and images to tiles. */

import { deleteStored, lacks, lacksWebGpu, numThreads, startServiceWorker } from "./browser.js";
import { EngineWorker } from "./engine.js";
import { Tile } from "./tile.js";

/**
 * @typedef {{ name: string, title: string, path: string, bytes: number }} SiteBundle
 * @typedef {{ page: number, wasm: number, webgpu: number }} SiteBytes
 * @typedef {{ bundles: SiteBundle[], bytes: SiteBytes }} Site what the site's builder wrote
 */

const MAX_TILES = 12;
const PROVIDERS = { wasm: "WebAssembly", webgpu: "WebGPU" };
const get = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));
/** @type {Site} */
let site;
/** @type {EngineWorker | undefined} */
let worker;
/** Bundle and provider of the open model. */
let opened = "";
/** @type {Map<string, number>} */
let received = new Map();
/** @type {Tile | undefined} */
let tile;
let isRunning = false;

async function start() {
  const missing = lacks();
  if (missing) {
    get("generate").disabled = true;
    say(missing, true);
    return;
  }
  const isStored = await startServiceWorker();
  site = await (await fetch("site.json")).json();
  fill(get("model"), site.bundles.map(({ name, title }) => [name, title]));
  fill(get("provider"), [["wasm", PROVIDERS.wasm]]);
  get("generate").disabled = false;
  showSizes(isStored);
  say("");
  const lacking = await lacksWebGpu();
  if (lacking) get("gpu").textContent = lacking;
  else get("provider").add(new Option(PROVIDERS.webgpu, "webgpu"));
}

async function run() {
  if (isRunning || !site) return;
  setRunning(true);
  try {
    await openModel();
    await generate();
  } catch (error) {
    tile?.element.remove();
    const { name, message } = /** @type {Error} */ (error);
    say(name === "Cancelled" ? "Cancelled." : message, name !== "Cancelled");
    // A worker that failed to open may hold half a model.
    if (!opened) closeWorker();
  } finally {
    tile = undefined;
    setRunning(false);
  }
}

/** Opens the chosen bundle, unless it is open. */
async function openModel() {
  const { value: provider } = get("provider");
  const bundle = /** @type {SiteBundle} */ (
    site.bundles.find(({ name }) => name === get("model").value)
  );
  const name = `${bundle.name} ${provider}`;
  if (opened === name) return;
  closeWorker();
  received = new Map();
  say(`Loading ${bundle.title}…`);
  worker = new EngineWorker(listen);
  await worker.ready();
  const threads = numThreads();
  const place = new URL(bundle.path, document.baseURI).href;
  const model = await worker.open({ bundle: place, provider, threads });
  opened = name;
  showTables(model);
  const seconds = (model.ms / 1000).toFixed(1);
  get("facts").textContent =
    `${bundle.title}, ${model.size} px, ${PROVIDERS[/** @type {"wasm"} */ (provider)]} on ` +
    `${threads} thread${threads > 1 ? "s" : ""}, loaded in ${seconds} s`;
}

async function generate() {
  const prompt = get("prompt").value;
  tile = new Tile(prompt);
  get("tiles").prepend(tile.element);
  while (get("tiles").children.length > MAX_TILES) get("tiles").lastElementChild.remove();
  get("tiles").className = get("tiles").children.length > 1 ? "tiles-many" : "";
  say("Generating…");
  const image = await /** @type {EngineWorker} */ (worker).generate(prompt, readOptions());
  tile.draw(image.pixels, image.width, image.height);
  const text =
    `${prompt}: ${image.table}, guidance ${image.guidance}, seed ${image.seed}, ` +
    `${(image.ms / 1000).toFixed(2)} s`;
  tile.finish(text, image.png, `minit2i-${image.seed}.png`);
  say(`Done in ${(image.ms / 1000).toFixed(2)} s.`);
}

function readOptions() {
  const { value: negative } = get("negative");
  const { value: table } = get("table");
  const preset = table.startsWith("preset ") ? { preset: table.slice(7) } : { table };
  return {
    ...(table && preset),
    ...(negative && { negative }),
    ...(get("guidance").value && { guidance: get("guidance").valueAsNumber }),
    seed: get("seed").value
      ? BigInt(get("seed").value)
      : crypto.getRandomValues(new Uint32Array(1))[0],
  };
}

/** @param {import("./engine.js").Message} message */
function listen(message) {
  if (message.type === "warning") say(message.line);
  if (message.type === "progress") showDownload(message.file, message.received);
  if (message.type === "frame") {
    tile?.draw(message.pixels, message.width, message.height);
    showProgress((message.row + 1) / message.numRows);
  }
}

/**
 * @param {string} file
 * @param {number} bytes
 */
function showDownload(file, bytes) {
  received.set(file, bytes);
  const done = [...received.values()].reduce((total, value) => total + value, 0);
  const bundle = site.bundles.find(({ name }) => name === get("model").value);
  const library = site.bytes[/** @type {"wasm"} */ (get("provider").value)];
  const total = Math.max(done, (bundle?.bytes ?? 0) + library);
  showProgress(done / total);
  say(`Loading: ${megabytes(done)} of ${megabytes(total)}`);
}

/** @param {boolean} isStored */
function showSizes(isStored) {
  const bundles = site.bundles.map(({ title, bytes }) => `${title} ${megabytes(bytes)}`);
  const after = isStored ? "stored for use without a network" : "not stored by this browser";
  get("sizes").textContent =
    `Downloads at first use: page and WebAssembly ${megabytes(site.bytes.page + site.bytes.wasm)}, ` +
    `${bundles.join(", ")}; ${after}.`;
}

/** @param {import("./engine.js").Message} model */
function showTables({ tables, presets, defaultPreset, isStudent }) {
  const names = Object.keys(presets).sort((a, b) => Number(b === "fast") - Number(a === "fast"));
  fill(get("table"), [
    ...names.map((name) => [
      `preset ${name}`,
      `${presets[name].table}${name === defaultPreset ? " (preset)" : ""}`,
    ]),
    ...tables
      .filter((/** @type {string} */ name) => !names.some((one) => presets[one].table === name))
      .map((/** @type {string} */ name) => [name, name]),
  ]);
  get("table").disabled = false;
  get("negative").disabled = isStudent;
  if (isStudent) get("negative").value = "";
}

function closeWorker() {
  worker?.close();
  worker = undefined;
  opened = "";
}

/**
 * @param {HTMLSelectElement} select
 * @param {string[][]} options values and texts
 */
function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
}

/** @param {boolean} value */
function setRunning(value) {
  isRunning = value;
  get("generate").disabled = value;
  get("cancel").disabled = !value;
  get("progress").hidden = !value;
  showProgress(0);
}

/** @param {number} share */
function showProgress(share) {
  get("progress").value = share;
}

/**
 * @param {string} text
 * @param {boolean} [isBad]
 */
function say(text, isBad = false) {
  get("status").textContent = text;
  get("status").className = isBad ? "bad" : "";
}

/** @param {number} bytes */
function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

get("settings").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  run();
});
get("cancel").addEventListener("click", () => worker?.cancel());
get("model").addEventListener("change", () => {
  get("table").replaceChildren();
  get("table").disabled = true;
});
get("forget").addEventListener("click", async () => {
  await deleteStored();
  say("Deleted. The next image or visit downloads everything again.");
});
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) get("settings").requestSubmit();
  if (event.key === "Escape") worker?.cancel();
});
start().catch((error) => say(`The page cannot start: ${error.message}`, true));
