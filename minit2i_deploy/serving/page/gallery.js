// Finished images in the browser's own database, so that they are there after a reload.

const DATABASE = "minit2i";
const STORE = "images";
const MOST = 200;

/** The images that were made on this page. */
export class Gallery {
  /**
   * @param {HTMLElement} section is hidden while there are none
   * @param {HTMLElement} list takes an item for each image
   * @param {(png: Uint8Array) => void} onOpen an image was chosen
   */
  constructor(section, list, onOpen) {
    this.section = section;
    this.list = list;
    this.onOpen = onOpen;
    this.urls = new Map();
  }

  /** Open the database and show what is in it. */
  async load() {
    this.database = await wait(openDatabase());
    await this.show();
  }

  /** Add an image; the oldest go where there are too many. */
  async add(png, title) {
    await wait(this.store("readwrite").add({ png, title, time: Date.now() }));
    const keys = await wait(this.store("readonly").getAllKeys());
    for (const key of keys.slice(0, Math.max(0, keys.length - MOST))) await this.drop(key);
    await this.show();
  }

  /** Delete every image. */
  async clear() {
    await wait(this.store("readwrite").clear());
    await this.show();
  }

  async delete(key) {
    await this.drop(key);
    await this.show();
  }

  async drop(key) {
    await wait(this.store("readwrite").delete(key));
  }

  async show() {
    const store = this.store("readonly");
    const [keys, items] = await Promise.all([wait(store.getAllKeys()), wait(store.getAll())]);
    for (const [key, url] of this.urls) {
      if (!keys.includes(key)) {
        URL.revokeObjectURL(url);
        this.urls.delete(key);
      }
    }
    const entries = items.map((item, index) => this.entry(keys[index], item));
    this.list.replaceChildren(...entries.reverse());
    this.section.hidden = !items.length;
  }

  entry(key, { png, title }) {
    if (!this.urls.has(key)) {
      this.urls.set(key, URL.createObjectURL(new Blob([png], { type: "image/png" })));
    }
    const entry = document.createElement("li");
    const open = entry.appendChild(document.createElement("button"));
    open.type = "button";
    open.title = title;
    const image = open.appendChild(document.createElement("img"));
    image.src = this.urls.get(key);
    image.alt = title;
    open.addEventListener("click", () => this.onOpen(png));
    const remove = entry.appendChild(document.createElement("button"));
    remove.type = "button";
    remove.className = "delete";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `Delete ${title}`);
    remove.addEventListener("click", () => this.delete(key));
    return entry;
  }

  store(mode) {
    return this.database.transaction(STORE, mode).objectStore(STORE);
  }
}

function openDatabase() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { autoIncrement: true });
  return request;
}

function wait(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
