/** The state (x, h) of one batch, advanced row by row. */

/**
 * @typedef {import("./engine.js").Engine} Engine
 * @typedef {import("./engine.js").Tensor} Tensor
 */

export class Trajectory {
  /**
   * x before the last row.
   *
   * @type {Float32Array}
   */
  #before = new Float32Array();
  #engine;
  /** @type {Float32Array} */
  #h;
  #shape;
  #tokens;
  /** @type {Float32Array} */
  #x;

  /**
   * @param {Engine} engine
   * @param {Float32Array} x start state
   * @param {readonly number[]} shape of x: [batch, 3, height, width]
   * @param {Tensor} tokens [branches, batch, adapted tokens, hidden]
   */
  constructor(engine, x, shape, tokens) {
    this.#engine = engine;
    this.#x = x;
    this.#h = new Float32Array(x.length);
    this.#shape = shape;
    this.#tokens = tokens;
  }

  /** [batch, 3, height, width]; after the last row, the images. */
  get x() {
    return this.#x;
  }

  /**
   * Advance by one row.
   *
   * @param {string} graph name of the step graph
   * @param {Float32Array} row [6]
   * @param {Float32Array} weights [branches that take part]
   * @param {Float32Array} [noise] unit noise in place of the history
   */
  async step(graph, row, weights, noise) {
    const session = await this.#engine.session(graph);
    const [numBranches, ...sizes] = this.#tokens.shape;
    const perBranch = this.#tokens.values.length / numBranches;
    const tokens = this.#tokens.values.subarray(0, weights.length * perBranch);
    const outputs = await this.#engine.run(graph, session, {
      x: this.#engine.tensor(this.#x, this.#shape),
      h: this.#engine.tensor(noise ?? this.#h, this.#shape),
      tokens: this.#engine.tensor(tokens, [weights.length, ...sizes]),
      weights: this.#engine.tensor(weights, [weights.length]),
      row: this.#engine.tensor(row, [row.length]),
    });
    this.#before = this.#x;
    this.#x = /** @type {Float32Array} */ (outputs.x_next.data);
    this.#h = /** @type {Float32Array} */ (outputs.h_next.data);
  }

  /**
   * The last row's guided estimate of the clean image.
   *
   * @param {number} slope the row's s
   * @returns {Float32Array} [batch, 3, height, width]
   */
  estimate(slope) {
    // h' = y + s x, so without s the history is the estimate itself.
    if (slope === 0) return this.#h;
    return this.#h.map((value, index) => value - Math.fround(slope) * this.#before[index]);
  }
}
