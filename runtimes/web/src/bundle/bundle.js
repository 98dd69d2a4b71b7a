/** A bundle: opened with its manifest checked; each file is checked when it is loaded. */

import { BundleError, JsonError, UsageError, checkSignal } from "../common/errors.js";
import { sha256Hex } from "../common/sha256.js";
import { Tokenizer } from "../text/tokenizer.js";
import { FILE_NAME, readManifest } from "./manifest.js";
import { Table } from "./table.js";

/**
 * @typedef {import("./source.js").Source} Source
 *
 * @typedef {object} Progress
 * @property {string} file path in the bundle
 * @property {number} received bytes, compressed where the source is
 * @property {number} total bytes, 0 if unknown
 *
 * @typedef {object} BundleOptions
 * @property {AbortSignal} [signal] stops opening and loading
 * @property {(progress: Progress) => void} [onProgress]
 * @property {(line: string) => void} [onWarning]
 */

export class Bundle {
  #source;
  #options;
  /** @type {Promise<Tokenizer> | undefined} */
  #tokenizer;

  /**
   * Bundle.open makes one.
   *
   * @param {Source} source
   * @param {import("./manifest.js").Manifest} manifest
   * @param {string} digest
   * @param {BundleOptions} options
   */
  constructor(source, manifest, digest, options) {
    this.#source = source;
    this.#options = options;
    this.manifest = manifest;
    /** sha256 of manifest.json, which stands for every byte of the bundle. */
    this.digest = digest;
  }

  /**
   * Read and check the manifest, and the sizes of all files where that costs no download.
   *
   * @param {Source} source
   * @param {BundleOptions} [options]
   * @returns {Promise<Bundle>}
   * @throws {BundleError} no bundle, an unknown version, or a manifest outside the format
   */
  static async open(source, options = {}) {
    const loading = { ...listeners(FILE_NAME, options), fresh: true };
    const bytes = await source.load(FILE_NAME, async () => {}, loading);
    const manifest = await readManifest(bytes, `${source.name}${FILE_NAME}`);
    const bundle = new Bundle(source, manifest, await sha256Hex(bytes), options);
    if (source.size) await bundle.#checkSizes(source);
    return bundle;
  }

  /** Address or folder of the bundle. */
  get name() {
    return this.#source.name;
  }

  /**
   * Load every file and compare its hash.
   *
   * @throws {BundleError} names the first file that differs
   */
  async verify() {
    for (const path of Object.keys(this.manifest.files)) await this.file(path);
  }

  /**
   * The bytes of a file, as the manifest says.
   *
   * @param {string} path
   * @returns {Promise<Uint8Array>}
   * @throws {BundleError} missing, of another size, or with another hash
   */
  async file(path) {
    checkSignal(this.#options.signal);
    const info = this.manifest.files[path];
    return this.#source.load(
      path,
      async (bytes) => {
        this.#compareSize(path, bytes.length);
        const actual = await sha256Hex(bytes);
        if (actual === info.sha256) return;
        throw new BundleError(
          `${this.name}${path}: sha256 ${actual.slice(0, 8)}.. but manifest says ` +
            `${info.sha256.slice(0, 8)}..; copy the bundle there again, or re-run minit2i export`,
        );
      },
      listeners(path, this.#options),
    );
  }

  /**
   * Path of a file that an engine can open itself, or undefined.
   *
   * @param {string} path
   */
  localPath(path) {
    return this.#source.localPath?.(path);
  }

  /**
   * @param {string} name
   * @returns {Promise<Table>}
   * @throws {UsageError} the bundle has no such table
   * @throws {BundleError} the file is not a table
   */
  async table(name) {
    const path = choose("table", name, this.manifest.tables);
    const bytes = await this.file(path);
    try {
      return Table.parse(bytes);
    } catch (error) {
      if (!(error instanceof JsonError)) throw error;
      const message = `${this.name}${path}: ${error.message}; re-run minit2i export`;
      throw new BundleError(message, { cause: error });
    }
  }

  /**
   * A preset's table name and guidance scale; without a name, the default preset's.
   *
   * @param {string} [name]
   * @throws {UsageError} the bundle has no such preset
   */
  preset(name = this.manifest.defaultPreset) {
    return choose("preset", name, this.manifest.presets);
  }

  /** @returns {Promise<Tokenizer>} */
  tokenizer() {
    this.#tokenizer ??= this.#openTokenizer().catch((error) => {
      this.#tokenizer = undefined;
      throw error;
    });
    return this.#tokenizer;
  }

  async #openTokenizer() {
    const { path, promptLength } = this.manifest.tokenizer;
    const file = `${path}/tokenizer.json`;
    return Tokenizer.parse(await this.file(file), promptLength, `${this.name}${file}`);
  }

  /** @param {Source} source */
  async #checkSizes(source) {
    for (const path of Object.keys(this.manifest.files)) {
      this.#compareSize(path, await /** @type {any} */ (source).size(path));
    }
  }

  /**
   * @param {string} path
   * @param {number} actual
   */
  #compareSize(path, actual) {
    const expected = this.manifest.files[path].bytes;
    if (actual === expected) return;
    throw new BundleError(
      `${this.name}${path}: ${actual} bytes but manifest says ${expected}; re-run minit2i export`,
    );
  }
}

/**
 * @template T
 * @param {string} what
 * @param {string} name
 * @param {Record<string, T>} choices
 * @returns {T}
 */
function choose(what, name, choices) {
  if (name in choices) return choices[name];
  throw new UsageError(
    `${what} '${name}' is not in the bundle; it has ${Object.keys(choices).join(", ")}`,
  );
}

/**
 * @param {string} file
 * @param {BundleOptions} options
 * @returns {import("./source.js").LoadOptions}
 */
function listeners(file, { signal, onProgress, onWarning }) {
  return {
    signal,
    onWarning,
    onBytes: onProgress && ((received, total) => onProgress({ file, received, total })),
  };
}
