/**
 * MiniT2I bundles in a browser: text to image and text embeddings on onnxruntime-web.
 *
 *     import * as ort from "onnxruntime-web/wasm";
 *     import { open } from "@minit2i/web";
 *
 *     const model = await open("https://example.org/bundle/", { ort });
 *     const result = await model.generate("a red circle", { seed: 7 });
 *     canvas.getContext("2d").putImageData(result.imageData(), 0, 0);
 *
 * In Node, import "@minit2i/web/node" and pass new FolderSource("bundle").
 */

export {
  BundleError,
  Cancelled,
  Minit2iError,
  RuntimeFailure,
  UsageError,
} from "./common/errors.js";
export { sha256, sha256Hex } from "./common/sha256.js";
export { standardNoise } from "./common/noise.js";
export { Bundle } from "./bundle/bundle.js";
export { UrlSource } from "./bundle/source.js";
export { Table } from "./bundle/table.js";
export { Embeddings } from "./text/embed.js";
export { Mix } from "./text/prompts.js";
export { toRgba } from "./sampling/images.js";
export { readTable } from "./sampling/request.js";
export { Model, Result, open } from "./model.js";
