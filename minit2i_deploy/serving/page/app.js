// The page: settings to requests, events to tiles, finished images to the gallery.

import { apiKey, generate, isHealthy, listModels, ServerError } from "./client.js";
import { Editor } from "./editor.js";
import { Gallery } from "./gallery.js";
import { NoRecord, readRecord } from "./record.js";
import { Settings } from "./settings.js";
import { bytesOf, Tile } from "./viewer.js";

const RETRY_MS = 1000;
const ALL_ROWS = 1000;
const NOT_STORED = "This browser does not store new images: download those you need before you "
  + "leave this page.";
const get = (id) => document.getElementById(id);
const settings = new Settings(get("settings"));
const gallery = new Gallery(get("gallery"), openPng, () => sayAtEnd(NOT_STORED));
const editor = new Editor(get("editor"));
let tiles = [];
let running = null;
let textAtEnd = "";
let isReconnecting = false;

/**
 * Ask for the bundles, until there is an answer.
 *
 * @returns {Promise<boolean>} false where the server needs a key first
 */
async function connect() {
  const line = get("status");
  const [before, wasBad] = [line.textContent, line.classList.contains("bad")];
  const retrying = `${before} The server does not answer. Trying again…`.trim();
  for (;;) {
    try {
      settings.offer(await listModels());
      break;
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      if (error.status === 401) {
        get("key-row").hidden = false;
        say("This server needs an API key.", true);
        return false;
      }
      say(retrying, true);
      await pause();
    }
  }
  get("key-row").hidden = !apiKey.get();
  showFacts();
  if (line.textContent === retrying) say(before, wasBad);
  return true;
}

/** After a connection broke: wait for a server, and say behind the error that there is one. */
async function reconnect() {
  if (isReconnecting) return;
  isReconnecting = true;
  try {
    while (!(await isHealthy())) await pause();
    // Whoever went on meanwhile reads something else there.
    const isLatest = (await connect()) && get("status").classList.contains("bad");
    if (isLatest) sayMore("The server is back.");
  } finally {
    isReconnecting = false;
  }
}

function pause() {
  return new Promise((resolve) => setTimeout(resolve, RETRY_MS));
}

function showFacts() {
  const model = settings.model;
  const { size, kind, precision, runtime, bundle } = model;
  const facts = [size, kind === "student" ? "few-step student" : "base model", precision, runtime];
  get("facts").textContent = `${model.id}: ${facts.join(", ")}, bundle ${bundle.slice(0, 8)}`;
}

async function run() {
  if (running || !settings.model) return;
  const controller = new AbortController();
  running = controller;
  showRunning(true);
  try {
    await runSides(controller.signal);
  } catch (error) {
    if (controller.signal.aborted) say("Cancelled.");
    else fail(error);
  } finally {
    // An error of the page itself leaves requests open that nothing reads.
    controller.abort();
    running = null;
    showRunning(false);
    sayAtEnd(textAtEnd);
  }
}

async function runSides(signal) {
  const changes = await editor.fields();
  const bodies = settings.bodies().map((body) => ({ ...body, ...changes }));
  startTiles(bodies);
  say("Waiting for the first row…");
  const sides = bodies.map((body, side) => runSide(body, side, signal));
  const failure = (await Promise.allSettled(sides)).find(({ status }) => status === "rejected");
  if (failure) throw failure.reason;
}

/** One request: every row of its images, then the images. */
async function runSide(body, side, signal) {
  const began = performance.now();
  for await (const event of generate({ ...body, partial_images: ALL_ROWS }, signal)) {
    const tile = tiles[event.image_index];
    const bytes = bytesOf(event.b64_json);
    await tile.add(side, event, bytes);
    if (event.row) {
      showRow(event);
    } else {
      await finish(tile, side, body, event, bytes);
      const seconds = ((performance.now() - began) / 1000).toFixed(2);
      say([`${event.model}: ${event.rows} rows in ${seconds} s.`, ...event.notices].join(" "));
    }
  }
}

async function finish(tile, side, body, event, bytes) {
  tile.lines[side] = `${event.model}, seed ${event.seed}, ${event.table}, guidance `
    + `${event.guidance_scale}`;
  const url = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  tile.files[side] = { name: `${event.model}-${event.seed}.png`, url, bytes };
  tile.describe(tile.lines.filter(Boolean), tile.files.filter(Boolean), edit);
  showSliders();
  await gallery.add(bytes, `${body.prompt} (${tile.lines[side]})`);
}

function startTiles(bodies) {
  tiles.forEach((tile) => tile.files.forEach((file) => file && URL.revokeObjectURL(file.url)));
  const names = bodies.map(({ model }) => model);
  tiles = Array.from({ length: bodies[0].n }, () => new Tile(names));
  for (const tile of tiles) Object.assign(tile, { lines: [], files: [] });
  get("tiles").replaceChildren(...tiles.map(({ element }) => element));
  get("tiles").classList.toggle("tiles-many", tiles.length > 2);
  get("row-slider").hidden = true;
  get("wipe-slider").hidden = names.length < 2;
  get("wipe-text").textContent = names.length < 2 ? "" : `${names[0]} | ${names[1]}`;
  get("row").value = get("row").max;
  wipe();
}

function showRow({ row, rows }) {
  get("progress").value = row / rows;
  if (row === 1 || row === rows || row % 5 === 0) say(`Row ${row} of ${rows}.`);
}

function showSliders() {
  const numRows = Math.max(...tiles.map((tile) => tile.numRows));
  const slider = get("row");
  const isAtEnd = slider.value === slider.max;
  slider.max = numRows;
  if (isAtEnd) slider.value = numRows;
  get("row-slider").hidden = numRows < 2;
  get("row-text").textContent = `${slider.value} of ${numRows}`;
}

function seek() {
  const share = get("row").valueAsNumber / Number(get("row").max);
  tiles.forEach((tile) => tile.seek(share));
  showSliders();
}

function wipe() {
  tiles.forEach((tile) => tile.wipe(get("wipe").valueAsNumber / 100));
}

/** Mark a part of an image that is to be new. */
async function edit(bytes) {
  if (running) return;
  try {
    await editor.open(bytes, settings.size);
  } catch {
    say("That file is no image that this browser reads.", true);
  }
}

/** Show an image of the gallery or of a file, and fill in what made it; else edit it. */
async function openPng(bytes) {
  if (running) return;
  try {
    await remake(bytes, readRecord(bytes));
  } catch (error) {
    say(sentence(error.message), true);
    if (!(error instanceof NoRecord)) return;
    try {
      await editor.open(bytes, settings.size);
      say("That image has no record of minit2i: mark what of it is to be new.");
    } catch {
      // No image either: what is said of it stays.
    }
  }
}

async function remake(bytes, record) {
  editor.close();
  const notices = settings.fillIn(record);
  const model = settings.model.id;
  settings.fields.other.value = "";
  startTiles([{ model, n: 1 }]);
  await tiles[0].add(0, { rows: 1 }, bytes);
  const url = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  tiles[0].files = [{ name: `${model}-${record.seed}.png`, url, bytes }];
  tiles[0].describe([`seed ${record.seed}, ${record.table_name}`], tiles[0].files, edit);
  showFacts();
  if (notices.length) say(notices.map(sentence).join(" "), true);
  else say("Its settings are filled in: Generate makes it again, row by row.");
}

function fail(error) {
  say(sentence(error.message || String(error)), true);
  if (error.status === 401) get("key-row").hidden = false;
  if (error.status === 0) reconnect();
}

function showRunning(isRunning) {
  get("generate").disabled = isRunning;
  get("cancel").disabled = !isRunning;
  get("progress").hidden = !isRunning;
  get("progress").value = 0;
  get("stage").setAttribute("aria-busy", String(isRunning));
}

function say(text, isBad = false) {
  get("status").textContent = text;
  get("status").classList.toggle("bad", isBad);
}

/** Say something more, after a run and not before: its rows would replace it. */
function sayAtEnd(text) {
  const isBusy = running || !document.body.dataset.ready;
  textAtEnd = isBusy ? text : "";
  if (!isBusy) sayMore(text);
}

/** Say something behind what the status line says. */
function sayMore(text) {
  const { textContent, classList } = get("status");
  say(`${textContent} ${text}`.trim(), classList.contains("bad"));
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

function onKey(event) {
  const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    get("settings").requestSubmit();
  } else if (event.key === "Escape") {
    running?.abort();
  } else if (event.key === "/" && !isTyping) {
    event.preventDefault();
    get("prompt").focus();
  }
}

function onDrop(event) {
  event.preventDefault();
  document.body.classList.remove("dropping");
  openFile(event.dataTransfer.files[0]);
}

async function openFile(file) {
  if (file) await openPng(new Uint8Array(await file.arrayBuffer()));
}

get("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
get("cancel").addEventListener("click", () => running?.abort());
get("row").addEventListener("input", seek);
get("wipe").addEventListener("input", wipe);
get("model").addEventListener("change", () => {
  showFacts();
  editor.fit(settings.size);
});
get("size").addEventListener("change", () => editor.fit(settings.size));
get("file").addEventListener("change", ({ target }) => {
  openFile(target.files[0]);
  target.value = "";
});
get("key").addEventListener("change", ({ target }) => {
  apiKey.set(target.value);
  say("");
  connect();
});
document.addEventListener("keydown", onKey);
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
document.addEventListener("drop", onDrop);
await Promise.all([connect(), gallery.load()]);
document.body.dataset.ready = "true";
sayAtEnd(textAtEnd);
