// The editor: an image, the brush over it, and what a request to edit it has in addition.

import { Brush } from "./brush.js";

// Larger images are scaled down: bundles generate less.
const MAX_SIDE = 1024;
const STRENGTH = { all: 0.75, marked: 1 };

/** The part of the page that edits an image; closed until `open`. */
export class Editor {
  /** @param {HTMLElement} section with the canvases and controls */
  constructor(section) {
    this.section = section;
    const get = (name) => section.querySelector(`#${name}`);
    this.image = get("edit-image");
    this.strength = get("strength");
    this.text = get("edit-text");
    this.brush = new Brush(get("edit-mask"), get("ring"), get("brush"), () => this.show());
    this.strength.addEventListener("input", () => {
      this.isChosen = true;
      this.show();
    });
    get("erase").addEventListener("click", ({ currentTarget: button }) => {
      this.brush.erases = !this.brush.erases;
      button.setAttribute("aria-pressed", String(this.brush.erases));
    });
    get("invert").addEventListener("click", () => this.brush.invert());
    get("unmark").addEventListener("click", () => this.brush.clear());
    get("close").addEventListener("click", () => this.close());
  }

  get isOpen() {
    return !this.section.hidden;
  }

  /**
   * Begin with an image: the middle of it, in the shape of the model's images.
   *
   * The section is `aria-busy` until it is read; of several calls the last one counts.
   *
   * @param {Uint8Array} bytes of the file
   * @param {string} [size] of the model's images, such as 768x512; without it, all of the image
   * @throws {DOMException} the browser cannot read it
   */
  async open(bytes, size) {
    this.size = size;
    const reading = createImageBitmap(new Blob([bytes]));
    this.reading = reading;
    this.section.setAttribute("aria-busy", "true");
    try {
      const bitmap = await reading;
      if (this.reading === reading) this.begin(bitmap);
    } finally {
      if (this.reading === reading) this.stopReading();
    }
  }

  stopReading() {
    this.reading = null;
    this.section.removeAttribute("aria-busy");
  }

  /**
   * Cut the image anew, for a model of another shape; marks on another shape are dropped.
   *
   * @param {string} [size] as in `open`
   */
  fit(size) {
    this.size = size;
    if (!this.isOpen) return;
    const { width, height } = cut(this.bitmap, size);
    if (width !== this.image.width || height !== this.image.height) this.begin(this.bitmap);
  }

  begin(bitmap) {
    const { crop, width, height } = cut(bitmap, this.size);
    this.bitmap = bitmap;
    this.image.width = width;
    this.image.height = height;
    const place = [(bitmap.width - crop[0]) / 2, (bitmap.height - crop[1]) / 2];
    this.image.getContext("2d").drawImage(bitmap, ...place, ...crop, 0, 0, width, height);
    this.isChosen = false;
    this.section.hidden = false;
    this.brush.reset(width, height);
    this.section.scrollIntoView({ block: "nearest" });
  }

  close() {
    this.stopReading();
    this.section.hidden = true;
  }

  /** What bodies of requests have in addition while the editor is open. */
  async fields() {
    // What is being read is what is to be edited; whoever opened it says why it failed.
    await this.reading?.catch(() => {});
    if (!this.isOpen) return {};
    const image = await new Promise((resolve) => this.image.toBlob(resolve, "image/png"));
    if (!image) throw new Error("this browser cannot write the image that is edited");
    const strength = this.strength.valueAsNumber;
    if (this.brush.isEmpty) return { image, strength };
    const mask = await this.brush.mask();
    return strength < 1 ? { image, mask, strength } : { image, mask };
  }

  show() {
    const { isEmpty } = this.brush;
    if (!this.isChosen) this.strength.value = isEmpty ? STRENGTH.all : STRENGTH.marked;
    const what = isEmpty ? "all of it" : "what is marked";
    const share = Math.round(this.strength.valueAsNumber * 100);
    this.text.textContent = `${share}% of ${what} is new`;
  }
}

/** The part of a bitmap in the shape of a size, and its width and height in the editor. */
function cut(bitmap, size) {
  const shape = size?.split("x").map(Number) ?? [bitmap.width, bitmap.height];
  const scale = Math.min(bitmap.width / shape[0], bitmap.height / shape[1]);
  const crop = shape.map((side) => pixels(scale * side));
  const shrink = Math.min(1, MAX_SIDE / Math.max(...crop));
  const [width, height] = crop.map((side) => pixels(shrink * side));
  return { crop, width, height };
}

function pixels(side) {
  return Math.max(1, Math.round(side));
}
