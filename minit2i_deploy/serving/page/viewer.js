// Tiles: an image of one bundle, or two of the same noise under a wipe, with every row's estimate.

/** The frames of one image, in the order of their rows; the last one is the image itself. */
class Frames {
  constructor() {
    this.bitmaps = [];
    this.numRows = 0;
    this.png = null;
  }

  /** The frame at a share of the rows, 0 to 1; the newest where that is not there yet. */
  at(share) {
    const last = this.bitmaps.length - 1;
    const place = Math.round(share * Math.max(1, this.numRows)) - 1;
    return this.bitmaps[Math.min(last, Math.max(0, place))];
  }
}

/** One image of a request, or a pair of them. */
export class Tile {
  /** @param {string[]} names of the bundles, one or two */
  constructor(names) {
    this.names = names;
    this.frames = names.map(() => new Frames());
    this.element = document.createElement("figure");
    this.element.className = "tile";
    this.layers = this.element.appendChild(document.createElement("div"));
    this.layers.className = "layers";
    this.canvases = names.map((name) => {
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Image of ${name}`);
      return this.layers.appendChild(canvas);
    });
    this.edge = names.length > 1 ? this.layers.appendChild(document.createElement("div")) : null;
    if (this.edge) this.edge.className = "edge";
    this.caption = this.element.appendChild(document.createElement("figcaption"));
    this.share = 1;
  }

  /** Most rows of its images. */
  get numRows() {
    return Math.max(...this.frames.map((frames) => frames.numRows));
  }

  /** Add a row's estimate, or at the end the image; shown unless an earlier row is looked at. */
  async add(side, event, bytes) {
    const frames = this.frames[side];
    const bitmap = await createImageBitmap(new Blob([bytes]));
    if (event.row) {
      frames.numRows = event.rows;
      frames.bitmaps.push(bitmap);
    } else {
      frames.numRows = event.rows ?? frames.numRows;
      // The image takes the place of the last row's estimate.
      frames.bitmaps.splice(Math.max(0, frames.numRows - 1), 1, bitmap);
      frames.png = bytes;
    }
    this.draw(side);
  }

  /** Look at a share of the rows, 0 to 1. */
  seek(share) {
    this.share = share;
    this.canvases.forEach((_, side) => this.draw(side));
  }

  /** Show the second image right of a share of the width, 0 to 1. */
  wipe(share) {
    if (!this.edge) return;
    this.canvases[1].style.clipPath = `inset(0 0 0 ${share * 100}%)`;
    this.edge.style.left = `calc(${share * 100}% - 1px)`;
  }

  draw(side) {
    const bitmap = this.frames[side].at(this.share);
    if (!bitmap) return;
    const canvas = this.canvases[side];
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
      this.layers.style.aspectRatio = `${bitmap.width} / ${bitmap.height}`;
    }
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
  }

  /** Say below what it is, with a link to each finished file, and a button that edits it. */
  describe(lines, files, onEdit) {
    this.caption.replaceChildren();
    for (const line of lines) {
      const row = this.caption.appendChild(document.createElement("div"));
      row.textContent = line;
    }
    for (const { name, url, bytes } of files) {
      const link = this.caption.appendChild(document.createElement("a"));
      link.href = url;
      link.download = name;
      link.textContent = name;
      const edit = this.caption.appendChild(document.createElement("button"));
      edit.type = "button";
      edit.textContent = "Edit";
      edit.setAttribute("aria-label", `Edit ${name}`);
      edit.addEventListener("click", () => onEdit(bytes));
    }
  }
}

/** Bytes of base64. */
export function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
