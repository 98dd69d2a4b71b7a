/**
 * Usage: node source_test.mjs BUNDLE
 * UrlSource against servers that do not do what they should, and a store that is full or corrupt.
 */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";

import { Bundle, UrlSource } from "../src/index.js";
import { serve } from "./server.mjs";

const folder = process.argv[2];
const FILE = "text_encoder/config.json";

/** A store as CacheStorage has them; it may refuse to store. */
class Store {
  /** @type {Map<string, Uint8Array>} */
  files = new Map();
  isFull = false;

  /** @param {string} url */
  async match(url) {
    const bytes = this.files.get(url);
    return bytes && new Response(/** @type {BodyInit} */ (bytes));
  }

  /**
   * @param {string} url
   * @param {Response} response
   */
  async put(url, response) {
    if (this.isFull) throw new Error("Quota exceeded.");
    this.files.set(url, new Uint8Array(await response.arrayBuffer()));
  }

  /** @param {string} url */
  async delete(url) {
    return this.files.delete(url);
  }
}

/**
 * @param {(path: string) => any} answer
 * @param {(url: string, requests: string[]) => Promise<void>} test
 */
async function withServer(answer, test) {
  const server = await serve({ "/b/": folder }, { answer });
  try {
    await test(`${server.url}/b`, server.requests);
  } finally {
    server.close();
  }
}

/**
 * @param {string} url
 * @param {string} path
 * @param {any} [options]
 */
async function load(url, path, options) {
  const { onWarning, signal, ...source } = options ?? {};
  const place = new UrlSource(url, source);
  const bundle = await Bundle.open(place, { onWarning, signal });
  return bundle.file(path);
}

const config = await readFile(`${folder}/${FILE}`);

await withServer(
  () => ({ type: "text/html", body: Buffer.from("<p>hello") }),
  (url) => assert.rejects(load(url, FILE), /got a web page; check the address$/),
);
await withServer(
  (path) => (path.endsWith(FILE) ? { body: config, cut: 20 } : undefined),
  (url) => assert.rejects(load(url, FILE), /connection broke after \d+ bytes; try again$/),
);
await withServer(
  (path) => (path.endsWith(FILE) ? { status: 404 } : undefined),
  (url) => assert.rejects(load(url, FILE), { name: "BundleError", message: /answers 404/ }),
);
await withServer(
  (path) => (path.endsWith(FILE) ? { body: Buffer.from(config).fill(65) } : undefined),
  (url) => assert.rejects(load(url, FILE), /config.json: sha256 .* but manifest says /),
);
await assert.rejects(load("http://localhost:1", FILE), /cannot be fetched .* \(CORS\)$/);
assert.throws(() => new UrlSource("no address"), /not an address/);
await withServer(
  () => undefined,
  (url) => assert.rejects(load(url, FILE, { signal: AbortSignal.abort() }), { name: "Cancelled" }),
);

// Compressed, stored, and read again without a server.
const store = new Store();
const packed = gzipSync(config);
await withServer(
  (path) => (path.endsWith(".gz") ? { body: packed } : undefined),
  async (url, requests) => {
    const options = { cache: store, compressed: true };
    assert.deepEqual(Buffer.from(await load(url, FILE, options)), config);
    assert.equal(requests.length, 2);
    await load(url, FILE, options);
    // The manifest alone is asked for anew.
    assert.equal(requests.length, 3);
    const key = `${url}/${FILE}.gz`;
    store.files.set(key, packed.subarray(0, 30));
    assert.deepEqual(Buffer.from(await load(url, FILE, options)), config);
    assert.equal(requests.length, 5);
    assert.deepEqual(Buffer.from(/** @type {Uint8Array} */ (store.files.get(key))), packed);
  },
);
const [offline] = [...store.files.keys()];
const gone = offline.slice(0, offline.indexOf("/b/") + 2);
assert.deepEqual(Buffer.from(await load(gone, FILE, { cache: store, compressed: true })), config);

// A full store is a warning; what comes corrupt is never stored.
const full = new Store();
full.isFull = true;
await withServer(
  () => undefined,
  async (url) => {
    /** @type {string[]} */
    const lines = [];
    const onWarning = (/** @type {string} */ line) => lines.push(line);
    await load(url, FILE, { cache: full, onWarning });
    assert.equal(lines.length, 2);
    assert.match(lines[1], /did not store it \(Quota exceeded.\)/);
  },
);
const empty = new Store();
await withServer(
  (path) => (path.endsWith(FILE) ? { body: Buffer.from(config).fill(65) } : undefined),
  async (url) => {
    await assert.rejects(load(url, FILE, { cache: empty }));
    assert.deepEqual([...empty.files.keys()], [`${url}/manifest.json`]);
  },
);
