// The gallery: images that were made on this page, and a way back from each deletion.

import { ImageStore } from "./image_store.js";

const MAX_IMAGES = 200;

/** The part of the page that lists finished images. */
export class Gallery {
  /**
   * @param {HTMLElement} section is hidden while there is nothing in it
   * @param {(png: Uint8Array) => void} onOpen an image was selected
   * @param {() => void} onRefusal the browser does not store images
   */
  constructor(section, onOpen, onRefusal) {
    this.section = section;
    const get = (name) => section.querySelector(`#${name}`);
    this.list = get("items");
    this.deletion = get("deletion");
    this.undoButton = get("undo");
    this.onOpen = onOpen;
    this.store = new ImageStore(onRefusal);
    this.urls = new Map();
    this.deleted = [];
    this.numReads = 0;
    get("clear").addEventListener("click", () => this.clear());
    this.undoButton.addEventListener("click", () => this.undo());
  }

  /** Open the database and show what is in it. */
  async load() {
    await this.store.open();
    await this.show();
  }

  /** Add an image; the oldest go where there are too many. */
  async add(png, title) {
    await this.store.add({ png, title, time: Date.now() });
    await this.show();
  }

  /** Delete every image. */
  async clear() {
    await this.delete(await this.store.entries());
  }

  /** Delete images; those of the latest deletion can be put back until the page is closed. */
  async delete(entries) {
    this.deleted = entries;
    await this.store.delete(entries.map(([key]) => key));
    await this.show();
  }

  /** Put back what the latest deletion took. */
  async undo() {
    const entries = this.deleted;
    this.deleted = [];
    await this.store.restore(entries);
    await this.show();
  }

  async show() {
    const read = (this.numReads += 1);
    const entries = await this.store.entries();
    // An older list must not replace a newer one.
    if (read !== this.numReads) return;
    const excess = entries.splice(0, Math.max(0, entries.length - MAX_IMAGES));
    if (excess.length) await this.store.delete(excess.map(([key]) => key));
    this.revoke(new Set(entries.map(([key]) => key)));
    this.list.replaceChildren(...entries.map((entry) => this.element(entry)).reverse());
    this.showDeletion();
    this.section.hidden = !entries.length && !this.deleted.length;
  }

  showDeletion() {
    const { length } = this.deleted;
    const text = length === 1 ? "Image deleted." : `${length} images deleted.`;
    this.deletion.textContent = length ? text : "";
    this.undoButton.hidden = !length;
  }

  /** Release the addresses of images that are no longer listed. */
  revoke(listed) {
    for (const [key, url] of this.urls) {
      if (listed.has(key)) continue;
      URL.revokeObjectURL(url);
      this.urls.delete(key);
    }
  }

  element([key, item]) {
    const { png, title } = item;
    if (!this.urls.has(key)) {
      this.urls.set(key, URL.createObjectURL(new Blob([png], { type: "image/png" })));
    }
    const element = document.createElement("li");
    const open = element.appendChild(document.createElement("button"));
    open.type = "button";
    open.title = title;
    const image = open.appendChild(document.createElement("img"));
    image.src = this.urls.get(key);
    image.alt = title;
    open.addEventListener("click", () => this.onOpen(png));
    const remove = element.appendChild(document.createElement("button"));
    remove.type = "button";
    remove.className = "delete";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `Delete ${title}`);
    remove.addEventListener("click", () => this.delete([[key, item]]));
    return element;
  }
}
