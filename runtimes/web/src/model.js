/** An open bundle with its engine: what a page or a program uses. */

import { UsageError } from "./common/errors.js";
import { Bundle } from "./bundle/bundle.js";
import { UrlSource } from "./bundle/source.js";
import { Engine } from "./engine/engine.js";
import { generate } from "./sampling/generate.js";
import { toRgba } from "./sampling/images.js";
import { encodePng } from "./sampling/png.js";
import { recordFields } from "./sampling/record.js";
import { makeRequest } from "./sampling/request.js";
import { encode, tokenize } from "./text/embed.js";

/**
 * @typedef {import("./bundle/source.js").Source} Source
 * @typedef {import("./sampling/request.js").Request} Request
 * @typedef {import("./text/prompts.js").Prompt} Prompt
 *
 * @typedef {{ ort: import("./engine/engine.js").Ort }} Library the imported module onnxruntime-web
 *     or onnxruntime-node
 * @typedef {Library & import("./engine/engine.js").EngineOptions &
 *     import("./bundle/bundle.js").BundleOptions} OpenOptions
 * @typedef {import("./sampling/request.js").RequestOptions &
 *     import("./sampling/generate.js").GenerateOptions} ModelOptions
 */

/**
 * Open a bundle. Graphs and weights are loaded when they are first needed.
 *
 * @param {string | URL | Source} place its address, or a source
 * @param {OpenOptions} options
 * @returns {Promise<Model>}
 * @throws {BundleError} no bundle there, or not one that this module reads
 * @throws {RuntimeFailure} its graphs need kernels that the engine lacks
 */
export async function open(place, options) {
  const isAddress = typeof place === "string" || place instanceof URL;
  const source = isAddress ? new UrlSource(place) : place;
  const bundle = await Bundle.open(source, options);
  const engine = new Engine(bundle, options.ort, options);
  if (engine.difference) options.onWarning?.(engine.difference);
  return new Model(bundle, engine, options.onWarning);
}

export class Model {
  #engine;
  #onWarning;
  /** @type {Promise<unknown>} */
  #last = Promise.resolve();

  /**
   * `open` makes one.
   *
   * @param {Bundle} bundle
   * @param {Engine} engine
   * @param {(line: string) => void} [onWarning]
   */
  constructor(bundle, engine, onWarning) {
    this.bundle = bundle;
    this.#engine = engine;
    this.#onWarning = onWarning;
  }

  /** Name of the provider in use: wasm, webgpu or cpu. */
  get provider() {
    return this.#engine.provider;
  }

  /**
   * Generate one image for each prompt. Calls on one model run one after another.
   *
   * @param {Prompt | readonly Prompt[]} prompts
   * @param {ModelOptions} [options]
   * @returns {Promise<Result>}
   * @throws {UsageError} arguments that do not fit together
   * @throws {BundleError} a file of the bundle is missing or corrupt
   * @throws {RuntimeFailure} the engine failed
   * @throws {Cancelled} the signal was aborted
   */
  async generate(prompts, options = {}) {
    const request = await makeRequest(this.bundle, prompts, options);
    const listeners = { onWarning: this.#onWarning, ...options };
    const run = () => generate(this.bundle, this.#engine, request, listeners);
    return new Result(this.bundle, request, await this.#inTurn(run));
  }

  /**
   * The text encoder's output.
   *
   * @param {string | readonly string[]} texts
   * @returns {Promise<import("./text/embed.js").Embeddings>}
   */
  async embed(texts) {
    const items = typeof texts === "string" ? [texts] : texts;
    if (!Array.isArray(items) || items.length === 0) {
      throw new UsageError("expected at least one text (it may be empty), got none");
    }
    const tokenizer = await this.bundle.tokenizer();
    const encoded = tokenize(tokenizer, items, this.#onWarning);
    return this.#inTurn(() => encode(this.#engine, tokenizer, encoded));
  }

  /**
   * Load and open the graphs that generating needs, so that the first image does not wait for it.
   */
  async load() {
    for (const graph of ["text_encoder", "text_adapter", "transformer"]) {
      await this.#engine.session(graph);
    }
    await this.bundle.tokenizer();
  }

  /** Free the engine's memory; further calls fail. */
  async close() {
    await this.#inTurn(() => this.#engine.close());
  }

  /**
   * Sessions take one call at a time.
   *
   * @template T
   * @param {() => Promise<T>} run
   * @returns {Promise<T>}
   */
  #inTurn(run) {
    const result = this.#last.then(run);
    this.#last = result.catch(() => {});
    return result;
  }
}

/** Finished images. */
export class Result {
  #bundle;
  #request;

  /**
   * @param {Bundle} bundle
   * @param {Request} request
   * @param {Awaited<ReturnType<typeof generate>>} output
   */
  constructor(bundle, request, { state, pixels, timings }) {
    this.#bundle = bundle;
    this.#request = request;
    /** In pixels. */
    this.width = request.size.width;
    this.height = request.size.height;
    /** Final state, float32 [images, 3, height, width], -1 black to 1 white, not clamped. */
    this.state = state;
    /** Bytes of each image, [height, width, 3]. */
    this.pixels = pixels;
    this.timings = timings;
    this.seeds = request.seeds;
    this.guidance = request.guidance;
    this.table = request.table.name;
  }

  /**
   * An image as a canvas takes it.
   *
   * @param {number} [index]
   * @returns {ImageData}
   */
  imageData(index = 0) {
    return new ImageData(toRgba(this.#pixelsOf(index)), this.width, this.height);
  }

  /**
   * An image as a PNG file with its record, as minit2i generate --from reads it.
   *
   * @param {number} [index]
   * @returns {Promise<Uint8Array<ArrayBuffer>>}
   */
  async png(index = 0) {
    const pixels = this.#pixelsOf(index);
    const fields = await recordFields(this.#bundle, this.#request, index);
    return encodePng(pixels, this.#request.size, fields);
  }

  /** @param {number} index */
  #pixelsOf(index) {
    if (index in this.pixels) return this.pixels[index];
    throw new UsageError(`index must be 0 to ${this.pixels.length - 1}, got ${index}`);
  }
}
