/**
 * The graphs of a bundle on ONNX Runtime: onnxruntime-web in a browser or in Node, onnxruntime-node.
 * Sessions are opened on first use, so embedding never loads the denoiser.
 */

import { RuntimeFailure, UsageError, firstLine } from "../common/errors.js";

/**
 * @typedef {typeof import("onnxruntime-common")} Ort
 * @typedef {import("onnxruntime-common").InferenceSession} Session
 * @typedef {import("onnxruntime-common").InferenceSession.SessionOptions} SessionOptions
 * @typedef {import("../bundle/bundle.js").Bundle} Bundle
 * @typedef {{ values: Float32Array, shape: number[] }} Tensor
 *
 * @typedef {object} EngineOptions
 * @property {"wasm" | "webgpu" | "cpu"} [provider] default: wasm for onnxruntime-web, cpu for
 *     onnxruntime-node
 * @property {boolean} [lean] free the text encoder when the denoiser is opened
 */

export const STEP_GRAPH = "transformer";
/** The step graph of a bundle's rows from a time on. */
export const SWITCH_GRAPH = "late";
const SESSION_CONFIG = {
  session: {
    // Layers with quantized weights alone are computed as their graph says; the default rounds
    // their inputs to 8 bits.
    qdq_matmulnbits_accuracy_level: "1",
    // Spinning threads cost other work on the machine more than they gain this one.
    intra_op: { allow_spinning: "0" },
  },
};

export class Engine {
  #bundle;
  #lean;
  #ort;
  /** @type {Map<string, Promise<Session>>} */
  #sessions = new Map();
  #closed = false;
  /** @type {Promise<void> | undefined} resolves if there is a GPU */
  #gpu;

  /**
   * @param {Bundle} bundle
   * @param {Ort} ort the module onnxruntime-web, one of its parts, or onnxruntime-node
   * @param {EngineOptions} [options]
   */
  constructor(bundle, ort, { provider, lean = false } = {}) {
    if (typeof ort?.InferenceSession?.create !== "function") {
      throw new UsageError(
        'ort must be the module onnxruntime-web or onnxruntime-node, as import * as ort from "..."',
      );
    }
    this.#bundle = bundle;
    this.#ort = ort;
    this.#lean = lean;
    this.provider = provider ?? (isNative(ort) ? "cpu" : "wasm");
    this.#checkKernels();
  }

  /**
   * A session for one graph: a name of the manifest's graphs, or SWITCH_GRAPH.
   *
   * @param {string} name
   * @returns {Promise<Session>}
   * @throws {RuntimeFailure} the library cannot open it
   */
  async session(name) {
    if (this.#closed) throw new UsageError("the model is closed; open it again");
    let session = this.#sessions.get(name);
    if (!session) {
      if (this.#lean && name === STEP_GRAPH) await this.#release("text_encoder");
      session = this.#open(name);
      this.#sessions.set(name, session);
      session.catch(() => this.#sessions.delete(name));
    }
    return session;
  }

  /**
   * @param {BigInt64Array} ids [texts, tokens]
   * @param {BigInt64Array} mask [texts, tokens], 1 at real tokens
   * @param {number} numTexts
   * @returns {Promise<Tensor>} [texts, tokens, width]
   */
  async encode(ids, mask, numTexts) {
    const shape = [numTexts, ids.length / numTexts];
    return this.#runFirst("text_encoder", {
      input_ids: new this.#ort.Tensor("int64", ids, shape),
      attention_mask: new this.#ort.Tensor("int64", mask, shape),
    });
  }

  /**
   * @param {Tensor} context [texts, prompt length, width]
   * @param {BigInt64Array} mask [texts, prompt length]
   * @param {Float32Array | null} conditions [texts, 4], a student's
   * @returns {Promise<Tensor>} [texts, tokens of the denoiser, hidden]
   */
  async adapt(context, mask, conditions) {
    const numTexts = context.shape[0];
    const inputs = {
      context: this.tensor(context.values, context.shape),
      mask: new this.#ort.Tensor("int64", mask, context.shape.slice(0, 2)),
    };
    if (!conditions) return this.#runFirst("text_adapter", inputs);
    const extra = { conditions: this.tensor(conditions, [numTexts, 4]) };
    return this.#runFirst("text_adapter", { ...inputs, ...extra });
  }

  /**
   * @param {Float32Array} values
   * @param {readonly number[]} shape
   */
  tensor(values, shape) {
    return new this.#ort.Tensor("float32", values, shape);
  }

  /**
   * @param {BigInt64Array} values
   * @param {readonly number[]} shape
   */
  places(values, shape) {
    return new this.#ort.Tensor("int64", values, shape);
  }

  /** Whether the step graph takes rows of each image, and known pixels. */
  get isPerImage() {
    return this.#bundle.manifest.formatVersion >= 2;
  }

  /**
   * @param {string} name of the graph
   * @param {Session} session
   * @param {Record<string, import("onnxruntime-common").Tensor>} inputs
   */
  async run(name, session, inputs) {
    try {
      return await session.run(inputs);
    } catch (error) {
      throw failure(`onnxruntime failed in ${name}`, error);
    }
  }

  /** Why images differ from those of other runtimes by more than rounding, in one line, or null. */
  get difference() {
    const { graphs, stepSwitch } = this.#bundle.manifest;
    const steps = [graphs[STEP_GRAPH], stepSwitch?.graph];
    if (isNative(this.#ort) || !steps.some((graph) => graph?.precision === "int8")) return null;
    return (
      `${this.#bundle.name}: its layers round their inputs to 8 bits, so images differ from those ` +
      "of other runtimes; for the same ones quantize with --target web"
    );
  }

  /** Free every session. */
  async close() {
    this.#closed = true;
    await Promise.all([...this.#sessions.keys()].map((name) => this.#release(name)));
  }

  /**
   * @param {string} name
   * @param {Record<string, import("onnxruntime-common").Tensor>} inputs
   * @returns {Promise<Tensor>}
   */
  async #runFirst(name, inputs) {
    const session = await this.session(name);
    const outputs = await this.run(name, session, inputs);
    const output = outputs[session.outputNames[0]];
    return { values: /** @type {Float32Array} */ (output.data), shape: [...output.dims] };
  }

  /** @param {string} name */
  async #open(name) {
    const { graphs, stepSwitch } = this.#bundle.manifest;
    const graph = name === SWITCH_GRAPH && stepSwitch ? stepSwitch.graph : graphs[name];
    if (this.provider === "webgpu" && !isNative(this.#ort)) await this.#requireGpu();
    const local = isNative(this.#ort) ? this.#bundle.localPath(graph.path) : undefined;
    /** @type {SessionOptions} */
    const options = { executionProviders: [this.provider], extra: SESSION_CONFIG };
    if (local === undefined) options.externalData = await this.#externalData(graph.path);
    const model = local ?? (await this.#bundle.file(graph.path));
    try {
      return await this.#ort.InferenceSession.create(/** @type {any} */ (model), options);
    } catch (error) {
      throw failure(`${this.#bundle.name}${graph.path}: onnxruntime cannot open it`, error);
    }
  }

  /** Asks once for all graphs, and again only after a refusal. */
  #requireGpu() {
    this.#gpu ??= findGpu().catch((error) => {
      this.#gpu = undefined;
      throw error;
    });
    return this.#gpu;
  }

  /**
   * The other files beside a graph, which its weights may be in.
   *
   * @param {string} path of the graph
   */
  async #externalData(path) {
    const folder = path.slice(0, path.lastIndexOf("/") + 1);
    const files = Object.keys(this.#bundle.manifest.files).filter(
      (file) => file.startsWith(`${folder}`) && file !== path && !file.endsWith(".json"),
    );
    const data = [];
    for (const file of files) {
      data.push({ path: file.slice(folder.length), data: await this.#bundle.file(file) });
    }
    return data;
  }

  /** @param {string} name */
  async #release(name) {
    const session = this.#sessions.get(name);
    this.#sessions.delete(name);
    await (await session?.catch(() => undefined))?.release();
  }

  #checkKernels() {
    const { graphs, onlyFor } = this.#bundle.manifest;
    // The CPU's own operators are in the web builds too.
    if (onlyFor === "cuda") {
      throw new RuntimeFailure(
        `${this.#bundle.name}: is for provider cuda of onnxruntime alone (export --for cuda), so ` +
          `${this.provider} cannot run it; export it with --for web`,
      );
    }
    for (const [name, { precision }] of Object.entries(graphs)) {
      if (!["bf16", "mxfp8", "fp4"].includes(precision)) continue;
      throw new RuntimeFailure(
        `${this.#bundle.name}: graph ${name} is ${precision}, which ONNX Runtime has no kernels for here; ` +
          "export the checkpoint in fp32, or quantize it with scheme int8-weights",
      );
    }
  }
}

/** @param {Ort} ort */
function isNative(ort) {
  return ort.env?.versions?.node !== undefined;
}

async function findGpu() {
  const { gpu } = /** @type {any} */ (globalThis.navigator ?? {});
  if (await gpu?.requestAdapter().catch(() => null)) return;
  const reason = gpu ? "WebGPU finds no GPU here" : "there is no WebGPU here";
  throw new RuntimeFailure(`${reason}; take provider wasm`);
}

/**
 * @param {string} what
 * @param {unknown} error
 */
function failure(what, error) {
  const reason = firstLine(error);
  const isMemory = /memory|allocat|bad_alloc|out of bounds/i.test(reason);
  const advice = isMemory ? "; out of memory? close other pages, or use a smaller bundle" : "";
  return new RuntimeFailure(`${what}: ${reason}${advice}`, { cause: error });
}
