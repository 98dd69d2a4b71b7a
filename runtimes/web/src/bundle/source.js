/**
 * Where a bundle's bytes come from: an address, with the browser's store behind it. node.js has the
 * folder. What is stored was checked first, and is checked again when it is read.
 */

import { BundleError, Cancelled, RuntimeFailure, firstLine } from "../common/errors.js";

/**
 * @typedef {object} LoadOptions
 * @property {AbortSignal} [signal] stops the work with Cancelled
 * @property {(received: number, total: number) => void} [onBytes] total is 0 if the server does not
 *     say; called once with both equal for what is stored
 * @property {(line: string) => void} [onWarning]
 * @property {boolean} [fresh] ask the server first, and use the store only without a network
 *
 * @typedef {(bytes: Uint8Array) => Promise<void>} Check throws where bytes are not the expected ones
 *
 * @typedef {object} Source
 * @property {string} name for errors
 * @property {(path: string, check: Check, options: LoadOptions) => Promise<Uint8Array>} load
 * @property {(path: string) => Promise<number>} [size] where it costs no download
 * @property {(path: string) => string} [localPath] of a file that an engine can open itself
 *
 * @typedef {object} UrlOptions
 * @property {Cache} [cache] of the browser's CacheStorage, to store files in; without it nothing is
 * @property {boolean} [compressed] every file but the manifest lies there as FILE.gz
 */

/**
 * A bundle at an address.
 *
 * @implements {Source}
 */
export class UrlSource {
  #base;
  #cache;
  #compressed;

  /**
   * @param {string | URL} url of the bundle's folder
   * @param {UrlOptions} [options]
   */
  constructor(url, { cache, compressed = false } = {}) {
    const base = globalThis.document?.baseURI ?? globalThis.location?.href;
    const folder = String(url).endsWith("/") ? url : `${url}/`;
    try {
      this.#base = new URL(folder, base);
    } catch (error) {
      const message = `${url}: not an address; pass one as https://example.org/bundle/`;
      throw new BundleError(message, { cause: error });
    }
    this.#cache = cache;
    this.#compressed = compressed;
    this.name = this.#base.href;
  }

  /**
   * @param {string} path
   * @param {Check} check
   * @param {LoadOptions} options
   * @returns {Promise<Uint8Array>}
   */
  async load(path, check, options) {
    const url = this.#address(path);
    const stored = options.fresh ? undefined : await this.#stored(url, check, options);
    if (stored) return stored;
    let packed;
    try {
      packed = await download(url, options);
    } catch (error) {
      const old = error instanceof Offline ? await this.#stored(url, check, options) : undefined;
      if (old) return old;
      throw error;
    }
    const bytes = await unpack(packed, url);
    await check(bytes);
    await this.#store(url, packed, options);
    return bytes;
  }

  /** @param {string} path */
  #address(path) {
    const isPacked = this.#compressed && path !== "manifest.json";
    return new URL(isPacked ? `${path}.gz` : path, this.#base).href;
  }

  /**
   * @param {string} url
   * @param {Check} check
   * @param {LoadOptions} options
   */
  async #stored(url, check, { onBytes }) {
    const response = await this.#cache?.match(url);
    if (!response) return undefined;
    try {
      const packed = new Uint8Array(await response.arrayBuffer());
      const bytes = await unpack(packed, url);
      await check(bytes);
      onBytes?.(packed.length, packed.length);
      return bytes;
    } catch (error) {
      // What is stored may be right.
      if (isOutOfMemory(error)) throw outOfMemory(url, error);
      // Of another version of the bundle, or corrupt: it is downloaded again.
      await this.#cache?.delete(url);
      return undefined;
    }
  }

  /**
   * @param {string} url
   * @param {Uint8Array} packed
   * @param {LoadOptions} options
   */
  async #store(url, packed, { onWarning }) {
    try {
      await this.#cache?.put(url, new Response(/** @type {BodyInit} */ (packed)));
    } catch (error) {
      onWarning?.(
        `${url}: the browser did not store it (${firstLine(error)}), so it is downloaded again ` +
          "next time; free some storage",
      );
    }
  }
}

/** The server was not reached at all. */
class Offline extends BundleError {}

/**
 * @param {string} url
 * @param {LoadOptions} options
 * @returns {Promise<Uint8Array>}
 */
async function download(url, { signal, onBytes }) {
  const response = await request(url, signal);
  const type = response.headers.get("content-type") ?? "";
  if (!response.ok) {
    throw new BundleError(
      `${url}: the server answers ${response.status} ${response.statusText}`.trimEnd() +
        "; check the address, and that the bundle was copied there with every file",
    );
  }
  // Servers of single-page applications answer so to any address.
  if (type.startsWith("text/html")) {
    throw new BundleError(`${url}: expected a file of a bundle, got a web page; check the address`);
  }
  const header = response.headers.get("content-encoding") ? null : response.headers.get("content-length");
  return collect(response, url, Number(header ?? 0), { signal, onBytes });
}

/**
 * @param {string} url
 * @param {AbortSignal | undefined} signal
 */
async function request(url, signal) {
  try {
    return await fetch(url, { signal });
  } catch (error) {
    if (signal?.aborted) throw new Cancelled("cancelled by the caller", { cause: error });
    throw new Offline(
      `${url}: cannot be fetched (${firstLine(error)}); check the network, and that the server ` +
        "allows this page (CORS)",
      { cause: error },
    );
  }
}

/**
 * @param {Response} response
 * @param {string} url
 * @param {number} total bytes, 0 if unknown
 * @param {LoadOptions} options
 */
async function collect(response, url, total, { signal, onBytes }) {
  /** @type {Uint8Array[]} */
  const chunks = [];
  let received = 0;
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      chunks.push(part.value);
      received += part.value.length;
      onBytes?.(received, total);
    }
  } catch (error) {
    if (signal?.aborted) throw new Cancelled("cancelled by the caller", { cause: error });
    const message = `${url}: the connection broke after ${received} bytes; try again`;
    throw new Offline(message, { cause: error });
  }
  return joined(chunks, received, url);
}

/**
 * @param {readonly Uint8Array[]} chunks
 * @param {number} size
 * @param {string} url
 */
function joined(chunks, size, url) {
  const bytes = allocate(size, url);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

/**
 * @param {number} size
 * @param {string} where
 */
function allocate(size, where) {
  try {
    return new Uint8Array(size);
  } catch (error) {
    throw outOfMemory(`${where}, ${size} bytes`, error);
  }
}

/**
 * What browsers throw where no memory is left for an array.
 *
 * @param {unknown} error
 */
function isOutOfMemory(error) {
  return error instanceof RangeError || error instanceof RuntimeFailure;
}

/**
 * @param {string} where
 * @param {unknown} cause
 */
function outOfMemory(where, cause) {
  if (cause instanceof RuntimeFailure) return cause;
  const message = `${where}: out of memory; close other pages, or use a smaller bundle`;
  return new RuntimeFailure(message, { cause });
}

/**
 * Bytes out of gzip; others as they are, because some servers unpack on their own.
 *
 * @param {Uint8Array} packed
 * @param {string} url
 */
export async function unpack(packed, url) {
  if (!url.endsWith(".gz") || packed[0] !== 0x1f || packed[1] !== 0x8b) return packed;
  try {
    const stream = new Response(/** @type {BodyInit} */ (packed)).body;
    const unpacked = /** @type {ReadableStream} */ (stream).pipeThrough(
      new DecompressionStream("gzip"),
    );
    return new Uint8Array(await new Response(unpacked).arrayBuffer());
  } catch (error) {
    if (isOutOfMemory(error)) throw outOfMemory(url, error);
    throw new BundleError(`${url}: corrupt (${firstLine(error)}); copy the bundle there again`, {
      cause: error,
    });
  }
}
