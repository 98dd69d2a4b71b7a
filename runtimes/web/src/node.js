/** The module for Node: everything of index.js, and bundles in a folder. */

import { readFile, stat } from "node:fs/promises";
import { join, resolve } from "node:path";

import { BundleError } from "./common/errors.js";

export * from "./index.js";

/**
 * @typedef {import("./bundle/source.js").Source} Source
 * @typedef {import("./bundle/source.js").Check} Check
 * @typedef {import("./bundle/source.js").LoadOptions} LoadOptions
 */

/**
 * A bundle in a folder.
 *
 * @implements {Source}
 */
export class FolderSource {
  #folder;

  /** @param {string} folder */
  constructor(folder) {
    this.#folder = resolve(folder);
    this.name = join(this.#folder, "/");
  }

  /** @param {string} path */
  localPath(path) {
    return join(this.#folder, path);
  }

  /** @param {string} path */
  async size(path) {
    try {
      return (await stat(this.localPath(path))).size;
    } catch (error) {
      throw this.#missing(path, error);
    }
  }

  /**
   * @param {string} path
   * @param {Check} check
   * @param {LoadOptions} options
   */
  async load(path, check, { signal, onBytes }) {
    const bytes = await readFile(this.localPath(path), { signal }).catch((error) => {
      throw this.#missing(path, error);
    });
    onBytes?.(bytes.length, bytes.length);
    await check(bytes);
    return bytes;
  }

  /**
   * @param {string} path
   * @param {any} error
   */
  #missing(path, error) {
    const reason = error.code === "ENOENT" ? "missing" : `cannot be read (${error.code})`;
    const advice = "name a folder that minit2i export made";
    return new BundleError(`${this.localPath(path)}: ${reason}; ${advice}`, { cause: error });
  }
}
