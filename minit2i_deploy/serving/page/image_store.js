// Images in the browser's own database, and in memory where it takes none: site data may be
// blocked, or the disk full.

const DATABASE = "minit2i";
const STORE = "images";

/** Items { png, title, time } by key. No method throws: memory takes what the database does not. */
export class ImageStore {
  /** @param {() => void} onRefusal the database failed for the first time */
  constructor(onRefusal) {
    this.onRefusal = onRefusal;
    this.database = null;
    this.memory = new Map();
    this.numInMemory = 0;
    this.isRefused = false;
  }

  /** Open the database. */
  async open() {
    try {
      this.database = await openDatabase();
    } catch {
      this.refuse();
    }
  }

  /** Every [key, item], the oldest first. */
  async entries() {
    const readAll = (store) => [store.getAllKeys(), store.getAll()];
    const [keys, items] = (await this.transact("readonly", readAll)) ?? [[], []];
    const entries = [...keys.map((key, index) => [key, items[index]]), ...this.memory];
    return entries.sort(([, first], [, second]) => first.time - second.time);
  }

  async add(item) {
    const isStored = await this.transact("readwrite", (store) => [store.add(item)]);
    // The database's own keys are numbers.
    if (!isStored) this.memory.set(`${item.time}-${(this.numInMemory += 1)}`, item);
  }

  async delete(keys) {
    for (const key of keys) this.memory.delete(key);
    await this.transact("readwrite", (store) => keys.map((key) => store.delete(key)));
  }

  /** Put entries back that were deleted. */
  async restore(entries) {
    const put = (store) => entries.map(([key, item]) => store.put(item, key));
    if (await this.transact("readwrite", put)) return;
    for (const [key, item] of entries) this.memory.set(key, item);
  }

  /** Results of requests, once their transaction is complete; null where the database fails. */
  async transact(mode, ask) {
    if (!this.database) return null;
    try {
      const transaction = this.database.transaction(STORE, mode);
      const requests = ask(transaction.objectStore(STORE));
      await completion(transaction);
      return requests.map(({ result }) => result);
    } catch {
      this.refuse();
      return null;
    }
  }

  refuse() {
    if (this.isRefused) return;
    this.isRefused = true;
    this.onRefusal();
  }
}

function openDatabase() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(STORE, { autoIncrement: true });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Not the requests' own success: a full disk may be noticed after it. */
function completion(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}
