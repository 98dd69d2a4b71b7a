// The form: what is asked for, and what a record fills in.

const CUSTOM = "custom";
const FIELDS = ["key", "prompt", "negative", "model", "other", "table", "solver", "steps",
  "guidance", "seed", "count"];

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

  /** Offer these bundles, as GET /v1/models describes them; what is selected stays if it is there. */
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
    for (const body of bodies) {
      const { kind } = this.models.find(({ id }) => id === body.model);
      if (negative.value && kind !== "student") body.negative_prompt = negative.value;
    }
    return bodies;
  }

  /**
   * Fill in what made an image, and return a notice for what cannot be filled in.
   *
   * @throws {Error} the image cannot be made here
   */
  fillIn(record) {
    if (record.noise) throw new Error("that image began from noise of its own, which is not here");
    if (record.variation) throw new Error("that image mixes the noise of two seeds");
    if (record.prompt.length !== 1) throw new Error("that image mixes several prompts");
    const maker = this.models.find(({ bundle }) => bundle === record.bundle);
    const { prompt, negative, guidance, seed, count, model } = this.fields;
    prompt.value = record.prompt[0].text;
    negative.value = record.negative ?? "";
    guidance.value = String(record.guidance);
    seed.value = record.seed;
    count.value = "1";
    if (maker) model.value = maker.id;
    this.showTables();
    const fits = this.chooseTable(record);
    if (record.edit) return "that image was edited from another one; open that to make it again";
    if (!maker) return "another bundle made that image; it may come out differently here";
    return fits ? "" : `table ${record.table_name} of that image cannot be made here`;
  }

  chooseTable({ table_name: name, table }) {
    const { tables, solvers } = this.model;
    const meta = table?.meta ?? {};
    if (tables.includes(name)) {
      this.fields.table.value = name;
    } else if (solvers.includes(meta.solver) && meta.steps) {
      this.fields.table.value = CUSTOM;
      this.fields.solver.value = meta.solver;
      this.fields.steps.value = String(meta.steps);
    } else {
      return false;
    }
    this.showSolver();
    return true;
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
    this.showSolver();
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
