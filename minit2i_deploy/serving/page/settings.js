// The form: what is asked for, and what a record fills in.

import { isPlain } from "./record.js";

const CUSTOM = "custom";
const FIELDS = ["key", "prompt", "negative", "model", "other", "table", "solver", "steps",
  "guidance", "seed", "count", "size"];

/** The fields of the form. */
export class Settings {
  /** @param {HTMLFormElement} form */
  constructor(form) {
    this.form = form;
    this.fields = Object.fromEntries(FIELDS.map((name) => [name, form.querySelector(`#${name}`)]));
    this.models = [];
    this.fields.model.addEventListener("change", () => this.showTables());
    this.fields.table.addEventListener("change", () => this.showSolver());
  }

  /** Offer these bundles, as GET /v1/models describes them; a selection stays if it is there. */
  offer(models) {
    const { model, other, table } = this.fields;
    const before = { model: model.value, other: other.value, table: table.value };
    this.models = models;
    fill(model, models.map(({ id }) => [id, id]), before.model);
    fill(other, [["", "none"], ...models.map(({ id }) => [id, id])], before.other);
    this.showTables(model.value === before.model ? before.table : "");
  }

  /** The bundle that is chosen. */
  get model() {
    return this.models.find(({ id }) => id === this.fields.model.value);
  }

  /** Width and height that are requested, such as 768x512, or else the bundle's own. */
  get size() {
    const { size } = this.fields;
    return (!size.disabled && size.validity.valid && size.value) || this.model?.size;
  }

  /**
   * One body of a request for each bundle that is chosen; both start from the same noise.
   *
   * @throws {Error} a field has no number that a request needs
   */
  bodies() {
    const { prompt, negative, guidance, count, seed, model, other, steps, solver } = this.fields;
    const shared = { prompt: prompt.value, n: integerOf(count) };
    shared.seed = seed.value || String(crypto.getRandomValues(new Uint32Array(1))[0]);
    if (guidance.value) shared.guidance_scale = guidance.valueAsNumber;
    const first = { ...shared, model: model.value };
    const table = this.fields.table.value;
    if (table === CUSTOM) {
      Object.assign(first, { solver: solver.value, num_inference_steps: integerOf(steps) });
    } else if (table) {
      first.table = table;
    }
    const bodies = [first];
    if (other.value) {
      // Another bundle runs the same table if it has it, else its own.
      const { tables } = this.models.find(({ id }) => id === other.value);
      const second = { ...shared, model: other.value };
      if (table !== CUSTOM && tables.includes(table)) second.table = table;
      bodies.push(second);
    }
    const { size } = this.fields;
    for (const body of bodies) {
      const { kind, side_bounds: bounds } = this.models.find(({ id }) => id === body.model);
      if (negative.value && kind !== "student") body.negative_prompt = negative.value;
      if (bounds && !size.disabled && size.value) body.size = size.value;
    }
    return bodies;
  }

  /**
   * Fill in what made an image.
   *
   * @returns {string[]} notices of what cannot be filled in
   * @throws {Error} the image cannot be made here
   */
  fillIn(record) {
    if (record.noise) throw new Error("that image began from noise of its own, which is not here");
    if (record.variation) throw new Error("that image mixes the noise of two seeds");
    if (record.prompt.length !== 1) throw new Error("that image mixes several prompts");
    const maker = this.models.find(({ bundle }) => bundle === record.bundle);
    const { prompt, negative, guidance, seed, count, model, size } = this.fields;
    prompt.value = record.prompt[0].text;
    negative.value = record.negative ?? "";
    guidance.value = String(record.guidance);
    seed.value = record.seed;
    count.value = "1";
    size.value = record.size?.join("x") ?? "";
    if (maker) model.value = maker.id;
    this.showTables();
    return [
      record.edit && "that image was edited from another one; open that to make it again",
      !maker && "another bundle made that image; it may come out differently here",
      this.chooseTable(record),
      size.value && size.value !== this.size
        && `that image is ${size.value}, but this bundle generates ${this.size}`,
    ].filter(Boolean);
  }

  /** Select the table of a record; returns a notice where that is not the same. */
  chooseTable({ table_name: name, table }) {
    // A record has its table unless that is the bundle's of this name.
    if (!table && this.model.tables.includes(name)) {
      this.selectTable(name);
      return "";
    }
    if (!table || !this.isCompiled(table)) return `table ${name} of that image cannot be made here`;
    this.fields.solver.value = table.meta.solver;
    this.fields.steps.value = String(table.meta.steps);
    this.selectTable(CUSTOM);
    return "";
  }

  selectTable(name) {
    this.fields.table.value = name;
    this.showSolver();
  }

  /** Whether the bundle compiles a table from a solver and steps. */
  isCompiled(table) {
    const { solver, steps } = table.meta;
    const isOnePass = this.model.tables.some((name) => name.endsWith("-one-pass"));
    return this.model.solvers.includes(solver) && steps <= Number(this.fields.steps.max)
      && isPlain(table, isOnePass, this.model.a_min);
  }

  /** @param {string} [table] that is selected if the bundle has it; else the default */
  showTables(table = "") {
    if (!this.model) return;
    const { tables, presets, default_preset: preset, solvers } = this.model;
    const names = tables.map((name) => {
      const kinds = Object.keys(presets).filter((key) => presets[key].table === name);
      return [name, kinds.length ? `${name} (${kinds.join(", ")})` : name];
    });
    // Without a table the server chooses, and takes another one for edits than for other images.
    const chosen = [["", `of the bundle (${presets[preset].table})`], ...names];
    fill(this.fields.table, [...chosen, [CUSTOM, "solver and steps…"]], table);
    fill(this.fields.solver, solvers.map((name) => [name, name]), this.fields.solver.value);
    this.fields.negative.disabled = this.model.kind === "student";
    this.fields.guidance.placeholder = String(presets[preset].guidance_scale);
    this.showSize();
    this.showSolver();
  }

  /** The field of a size, where the bundle's is free. */
  showSize() {
    const { size, side_bounds: bounds } = this.model;
    this.form.querySelector("#size-row").hidden = !bounds;
    this.fields.size.disabled = !bounds;
    this.fields.size.placeholder = size;
    this.fields.size.title = bounds ? `WIDTHxHEIGHT, sides from ${bounds.join(" to ")} pixels` : "";
  }

  showSolver() {
    const isCustom = this.fields.table.value === CUSTOM;
    for (const name of ["solver", "steps"]) {
      this.form.querySelector(`#${name}-row`).hidden = !isCustom;
      this.fields[name].disabled = !isCustom;
    }
  }
}

function integerOf(field) {
  const { valueAsNumber, labels } = field;
  if (Number.isInteger(valueAsNumber)) return valueAsNumber;
  throw new Error(`${labels[0].textContent} must be an integer`);
}

function fill(select, pairs, value) {
  select.replaceChildren(
    ...pairs.map(([name, text]) => {
      const option = document.createElement("option");
      option.value = name;
      option.textContent = text;
      return option;
    }),
  );
  if (pairs.some(([name]) => name === value)) select.value = value;
}
