/** One image on the page: a canvas, what made it, and a link to its PNG. */

import { toRgba } from "./src/index.js";

export class Tile {
  #caption = document.createElement("figcaption");
  #canvas = document.createElement("canvas");
  element = document.createElement("figure");

  /** @param {string} prompt */
  constructor(prompt) {
    this.element.className = "tile";
    const layers = document.createElement("div");
    layers.className = "layers";
    this.#canvas.setAttribute("role", "img");
    this.#canvas.setAttribute("aria-label", prompt);
    layers.append(this.#canvas);
    this.element.append(layers, this.#caption);
  }

  /**
   * @param {Uint8Array} pixels [height, width, 3]
   * @param {number} width
   * @param {number} height
   */
  draw(pixels, width, height) {
    this.#canvas.width = width;
    this.#canvas.height = height;
    const image = new ImageData(toRgba(pixels), width, height);
    this.#canvas.getContext("2d")?.putImageData(image, 0, 0);
  }

  /**
   * @param {string} text
   * @param {Uint8Array<ArrayBuffer>} png
   * @param {string} name of the file
   */
  finish(text, png, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([png], { type: "image/png" }));
    link.download = name;
    link.textContent = "Save PNG";
    this.#caption.append(link, text);
  }
}
