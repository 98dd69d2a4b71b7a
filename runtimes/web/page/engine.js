/** The worker with the model, as promises. */

/**
 * @typedef {{ type: string, [name: string]: any }} Message
 */

/** What the worker reported; its name is that of the module's error. */
export class WorkerError extends Error {
  /**
   * @param {string} name
   * @param {string} message
   */
  constructor(name, message) {
    super(message);
    this.name = name;
  }
}

export class EngineWorker {
  #listener;
  #worker;
  /** @type {{ end: string, resolve: (message: Message) => void, reject: (error: Error) => void } | undefined} */
  #waiting;

  /** @param {(message: Message) => void} listener of progress, frame and warning */
  constructor(listener) {
    this.#listener = listener;
    this.#worker = new Worker("worker.js", { type: "module" });
    this.#worker.addEventListener("message", ({ data }) => this.#take(data));
    this.#worker.addEventListener("error", (event) => {
      event.preventDefault();
      const reason = event.message || "worker.js or a file that it imports cannot be loaded";
      this.#waiting?.reject(new WorkerError("RuntimeFailure", `the worker failed: ${reason}`));
    });
    this.#worker.addEventListener("messageerror", () =>
      this.#waiting?.reject(new WorkerError("RuntimeFailure", "out of memory: close other pages")),
    );
  }

  /** Resolves when the worker's script runs. */
  ready() {
    return this.#wait("ready");
  }

  /**
   * @param {{ bundle: string, provider: string, threads: number }} options
   * @returns {Promise<Message>}
   */
  open(options) {
    this.#worker.postMessage({ type: "open", ...options });
    return this.#wait("opened");
  }

  /**
   * @param {string} prompt
   * @param {object} options
   * @returns {Promise<Message>}
   */
  generate(prompt, options) {
    this.#worker.postMessage({ type: "generate", prompt, options });
    return this.#wait("image");
  }

  cancel() {
    this.#worker.postMessage({ type: "cancel" });
  }

  /** Ends the worker and frees all its memory. */
  close() {
    this.#worker.terminate();
  }

  /**
   * @param {string} end type of the message that resolves
   * @returns {Promise<Message>}
   */
  #wait(end) {
    return new Promise((resolve, reject) => {
      this.#waiting = { end, resolve, reject };
    });
  }

  /** @param {Message} message */
  #take(message) {
    const waiting = this.#waiting;
    if (message.type === waiting?.end) waiting.resolve(message);
    else if (message.type === "error") waiting?.reject(new WorkerError(message.name, message.message));
    else this.#listener(message);
  }
}
