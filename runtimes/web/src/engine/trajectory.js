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
  #known;
  #shape;
  #tokens;
  /** @type {Float32Array} */
  #x;

  /**
   * @param {Engine} engine
   * @param {Float32Array} x start state
   * @param {readonly number[]} shape of x: [batch, 3, height, width]
   * @param {Tensor} tokens [branches, batch, adapted tokens, hidden]
   * @param {import("../sampling/edit.js").Known} [known] pixels that stay
   */
  constructor(engine, x, shape, tokens, known) {
    this.#engine = engine;
    this.#x = x;
    this.#h = new Float32Array(x.length);
    this.#shape = shape;
    this.#tokens = tokens;
    const [batch, , height, width] = shape;
    this.#known = known ?? {
      image: new Float32Array(x.length),
      mask: new Float32Array(batch * height * width),
    };
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
    const outputs = await this.#engine.run(graph, session, {
      x: this.#engine.tensor(this.#x, this.#shape),
      h: this.#engine.tensor(noise ?? this.#h, this.#shape),
      ...(this.#engine.isPerImage ? this.#perImage(row, weights) : this.#shared(row, weights)),
    });
    this.#before = this.#x;
    this.#x = /** @type {Float32Array} */ (outputs.x_next.data);
    this.#h = /** @type {Float32Array} */ (outputs.h_next.data);
  }

  /**
   * Inputs of a step graph whose images share their row: format version 1.
   *
   * @param {Float32Array} row
   * @param {Float32Array} weights
   */
  #shared(row, weights) {
    const sizes = this.#tokens.shape.slice(1);
    return {
      tokens: this.#engine.tensor(this.#branches(weights.length), [weights.length, ...sizes]),
      weights: this.#engine.tensor(weights, [weights.length]),
      row: this.#engine.tensor(row, [row.length]),
    };
  }

  /**
   * Inputs of a step graph with rows of each image, all the same here, and known pixels.
   *
   * @param {Float32Array} row
   * @param {Float32Array} weights
   */
  #perImage(row, weights) {
    const engine = this.#engine;
    const [batch, , height, width] = this.#shape;
    const numBranches = weights.length;
    const places = Array.from({ length: numBranches * batch }, (_, place) => place);
    const each = Float32Array.from(places, (place) => weights[Math.floor(place / batch)]);
    const rows = new Float32Array(batch * row.length);
    for (let image = 0; image < batch; image += 1) rows.set(row, image * row.length);
    return {
      tokens: engine.tensor(this.#branches(numBranches), [
        places.length,
        ...this.#tokens.shape.slice(2),
      ]),
      image: engine.places(
        BigInt64Array.from(places, (place) => BigInt(place % batch)),
        [places.length],
      ),
      sequence: engine.places(
        BigInt64Array.from(places, (place) => BigInt(place)),
        [numBranches, batch],
      ),
      weights: engine.tensor(each, [numBranches, batch]),
      row: engine.tensor(rows, [batch, row.length]),
      known: engine.tensor(this.#known.image, this.#shape),
      known_mask: engine.tensor(this.#known.mask, [batch, 1, height, width]),
    };
  }

  /**
   * Tokens of the branches that take part, the first ones.
   *
   * @param {number} count
   */
  #branches(count) {
    const perBranch = this.#tokens.values.length / this.#tokens.shape[0];
    return this.#tokens.values.subarray(0, count * perBranch);
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
