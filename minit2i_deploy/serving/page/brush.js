// A brush over an image: what is marked is to be new. Mouse, pen, touch and keys.

const COLOR = "#e91e8c";
const KEY_STEP = 0.5;
// Edges are soft, and what erasing leaves of them is no mark.
const SOFT = 127;

/** The marks on an image; the canvas has the image's size and is shown translucent over it. */
export class Brush {
  /**
   * @param {HTMLCanvasElement} canvas takes pointers and keys
   * @param {HTMLElement} ring shows where the brush is
   * @param {HTMLInputElement} size diameter in percent of the image's width
   * @param {() => void} onChange marks were made or erased
   */
  constructor(canvas, ring, size, onChange) {
    this.canvas = canvas;
    this.ring = ring;
    this.size = size;
    this.onChange = onChange;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.erases = false;
    this.place = { x: 0.5, y: 0.5 };
    this.before = null;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => this.lift());
    }
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    canvas.addEventListener("focus", () => this.showRing());
    size.addEventListener("input", () => this.showRing());
  }

  /** Begin with a clean image of so many pixels. */
  reset(width, height) {
    this.canvas.width = width;
    this.canvas.height = height;
    this.showRing();
    this.onChange();
  }

  /** Whether nothing is marked. */
  get isEmpty() {
    const { width, height } = this.canvas;
    const { data } = this.context.getImageData(0, 0, width, height);
    for (let at = 3; at < data.length; at += 4) if (data[at] > SOFT) return false;
    return true;
  }

  /** Mark what is not marked, and the other way round. */
  invert() {
    const { width, height } = this.canvas;
    this.context.globalCompositeOperation = "source-out";
    this.context.fillStyle = COLOR;
    this.context.fillRect(0, 0, width, height);
    this.onChange();
  }

  clear() {
    this.reset(this.canvas.width, this.canvas.height);
  }

  /** The mask as /v1/images/edits takes it: a PNG that is transparent where it is marked. */
  async mask() {
    const { width, height } = this.canvas;
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(this.canvas, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
  }

  press(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.before = this.placeOf(event);
    this.stroke(this.before);
  }

  move(event) {
    const place = this.placeOf(event);
    if (this.before) this.stroke(place);
    this.place = place;
    this.showRing();
  }

  lift() {
    if (this.before) this.onChange();
    this.before = null;
  }

  onKey(event) {
    const step = (KEY_STEP * this.size.valueAsNumber) / 100;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const sizes = { "[": -1, "]": 1 };
    if (event.key in steps) {
      const [x, y] = steps[event.key];
      this.place = { x: within(this.place.x + x * step), y: within(this.place.y + y * step) };
    } else if (event.key in sizes) {
      this.size.value = this.size.valueAsNumber + sizes[event.key] * Number(this.size.step);
    } else if (event.key === " ") {
      this.before = this.place;
      this.stroke(this.place);
      this.lift();
    } else {
      return;
    }
    event.preventDefault();
    this.showRing();
  }

  /** A line from the place before to this one. */
  stroke(place) {
    const { width, height } = this.canvas;
    const context = this.context;
    context.globalCompositeOperation = this.erases ? "destination-out" : "source-over";
    context.strokeStyle = COLOR;
    context.fillStyle = COLOR;
    context.lineCap = "round";
    context.lineWidth = (this.size.valueAsNumber / 100) * width;
    context.beginPath();
    context.moveTo(this.before.x * width, this.before.y * height);
    context.lineTo(place.x * width, place.y * height);
    context.stroke();
    // A line of no length is not drawn, whatever its cap.
    context.beginPath();
    context.arc(place.x * width, place.y * height, context.lineWidth / 2, 0, 2 * Math.PI);
    context.fill();
    this.before = place;
  }

  placeOf({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    return { x: (clientX - box.left) / box.width, y: (clientY - box.top) / box.height };
  }

  showRing() {
    const { x, y } = this.place;
    this.ring.style.left = `${within(x) * 100}%`;
    this.ring.style.top = `${within(y) * 100}%`;
    this.ring.style.width = `${this.size.valueAsNumber}%`;
  }
}

function within(share) {
  return Math.min(1, Math.max(0, share));
}
