// Several runs beside each other, and the matrix of a transfer study.

const OVERLAP = 40; // runs in the matrix of overlaps

Object.assign(View.prototype, {
  // -- compare -----------------------------------------------------------------------------------------

  buildCompare(doc) {
    const facts = ["task", "budget", "seed"],
      words = choicesOf(doc);
    this.want = { task: "", budget: "", seed: "" };
    this.pair = [0, Math.min(1, doc.runs.length - 1)];
    this.by = "gates";
    this.alphas = new Map();
    this.askedFor = new Map();
    this.keptPairs = null;
    this.pairBoxes = [0, 1].map(() => h("select", {}));
    this.pairBoxes.forEach((box, k) =>
      box.addEventListener("change", () => {
        this.pair[k] = +box.value;
        this.queue();
      }),
    );
    this.controls.append(
      h(
        "div",
        { class: "s3-line" },
        ...facts.map((name) => this.select(name, words[name], (v) => (this.want[name] = v), name)),
      ),
      h("div", { class: "s3-line" }, h("label", {}, "A", this.pairBoxes[0]), h("label", {}, "B", this.pairBoxes[1])),
      h(
        "div",
        { class: "s3-line" },
        ...this.rowControls(),
        this.select("overlap", words.overlap, (v) => (this.by = v), "overlap"),
        this.select("in cells", words.in_cells, (v) => (this.annotate = v), "in_cells"),
        ...this.partChips(doc),
        ...this.viewMenu(["A", "B", "difference"].map((name) => [name, `a caption for ${name.length > 1 ? `the ${name}` : name}`])),
      ),
    );
    ["a", "b"].forEach((name, k) => {
      const set = (label) => {
        this.pair[k] = doc.runs.findIndex((run) => run.label === label);
        this.keptPairs = null; // the boxes are filled anew
      };
      this.fields[name] = { get: () => doc.runs[this.pair[k]].label, set };
    });
    const pick = (gate, event) => this.pick(gate, event);
    this.maps = ["A", "B"].map((letter, k) => new Heat(`heatmap-${letter}`, this.about, { pick, hover: (gate) => this.runWords(k, gate) }));
    this.difference = new Heat("difference", this.about, {
      pick,
      hover: (gate) => [
        this.label(gate),
        ...[0, 1].map((k) => `p in ${"AB"[k]} = ${say(this.shownRuns[k].p[gate])}`),
        `difference ${say(this.shownRuns[1].p[gate] - this.shownRuns[0].p[gate])}`,
      ],
    });
    this.seeded = new Heat("difference-over-seeds", this.about, {
      pick,
      hover: (gate) => [
        this.label(gate),
        `mean p in B minus A ${say(this.overSeeds.values[gate])}`,
        `q = ${say(this.overSeeds.q[gate])}: ${this.overSeeds.state[gate] ? "differs beyond seeds" : "seeds alone may make it"}`,
      ],
    });
    const both = () => this.captionFacts(),
      overSeeds = (sheet) => this.captionWith(this.overSeeds.caption, ["Outlined: differs beyond seeds"], sheet, "");
    this.captions = {
      A: (sheet = this.maps[0]) => this.captionWith(captionOf(both()[0]), [], sheet, this.cellTexts(0).words),
      B: (sheet = this.maps[1]) => this.captionWith(captionOf(both()[1]), [], sheet, this.cellTexts(1).words),
      difference: (sheet = this.difference) => {
        const [a, b] = this.shownRuns.map((run) => Array.from(run.chosen, Boolean)),
          count = (test) => a.reduce((n, inA, g) => n + test(inA, b[g]), 0),
          text = differenceOf(...both(), count((x, y) => x && y), count((x, y) => x || y));
        return this.captionWith(text, ["Outlined: chosen by one of the two"], sheet, "");
      },
    };
    this.maps.forEach((map, k) => this.paperButtons(map, this.captions["AB"[k]]));
    this.paperButtons(this.difference, this.captions.difference);
    this.paperButtons(this.seeded, overSeeds);
    this.seedWords = h("div", { class: "s3-line", role: "status" });
    this.overlap = new Matrix("overlap", this.about);
    this.pickedBars = new Bars("picked", this.about);
    this.health = h("div", {});
    this.body.append(
      this.trust.el,
      h(
        "div",
        { class: "s3-grid" },
        this.maps.map((map) => map.el),
      ),
      this.difference.el,
      this.seedWords,
      this.seeded.el,
      this.pickedBars.el,
      this.overlap.el,
      this.health,
    );
  },

  /** p and the choice of a run at its end, over the gates of all runs; null while the kernel is asked. */
  runOf(index) {
    const { doc } = this.store,
      run = doc.runs[index];
    if (run.at === undefined) {
      if (!(Date.now() - this.askedFor.get(index) < ASK_AGAIN)) {
        // the question or the answer may be lost
        this.store.ask({ kind: "open", run: index });
        this.askedFor.set(index, Date.now());
        setTimeout(() => this.queue(), ASK_AGAIN + 1);
      }
      return null;
    }
    const n = doc.space.n.length;
    if (this.alphas.get(index)?.p.length !== n) {
      // the space has grown
      const p = new Float64Array(n).fill(NaN),
        chosen = new Uint8Array(n),
        rank = new Float64Array(n).fill(NaN);
      const values = new Float32Array(bytesOf(this.model.get("values")).slice(run.offset * 4, (run.offset + run.size) * 4).buffer);
      const own = probabilities(values, run.zeta ?? -Infinity, run.tau),
        at = (i) => (run.at.length ? run.at[i] : i);
      orderOf(values).forEach((i, k) => (rank[at(i)] = k + 1));
      own.forEach((v, i) => (p[at(i)] = v));
      run.own.forEach((i, k) => (chosen[at(i)] = run.fill[k] ? 2 : 1));
      this.alphas.set(index, { ...run, p, chosen, rank });
    }
    return this.alphas.get(index);
  },

  /** What a caption says of runs: by default A and B. */
  captionFacts(runs = this.shownRuns) {
    return runs.map((run) => ({
      ...run.source,
      backbone: run.backbone,
      backbone_params: run.backbone_params,
      chosen: run.own.length,
      gates: run.size,
      pinned: run.pinned,
      used: run.used,
      budget: run.budget,
      step: run.step + 1,
      steps: run.steps,
    }));
  },

  /** What stands in the cells of A or B: analysis.annotate.annotation. */
  cellTexts(k) {
    const { space, seeds } = this.store.doc,
      run = this.shownRuns[k];
    if (!this.annotate) return { texts: null, words: "" };
    if (this.annotate === "rank") return { texts: (g) => (run.rank[g] > 0 ? String(run.rank[g]) : ""), words: "in cells: rank" };
    if (this.annotate === "params") return { texts: (g) => shortCount(space.n[g]), words: "in cells: parameters" };
    const set = seeds.sets.find((one) => one.includes(this.pair[k]));
    if (!set) return { texts: null, words: "no other seed of it is here" };
    // Of units how many seeds chose any of them at the position.
    const lead = leadsOf(space),
      counts = new Int32Array(space.n.length);
    for (const i of set) {
      const cells = new Set();
      this.runOf(i).chosen.forEach((state, g) => state && cells.add(lead[g]));
      for (const g of cells) counts[g] += 1;
    }
    const n = set.length;
    return {
      texts: (g) => (counts[g] ? `${counts[g]}/${n}` : ""),
      shorter: (g) => (counts[g] ? String(counts[g]) : ""),
      words: `in cells: chosen in k of ${n} seeds`,
    };
  },

  /** What tells a run from the others. */
  shortOf(run) {
    const { runs } = this.store.doc,
      facts = Object.keys(run.facts).filter((name) => runs.some((one) => one.facts[name] !== run.facts[name]));
    const words = facts.map((name) => (name === "seed" ? `seed ${run.facts[name]}` : run.facts[name])).join(" · ");
    return words && runs.filter((one) => facts.every((name) => one.facts[name] === run.facts[name])).length === 1 ? words : run.name;
  },

  runWords(k, gate) {
    const run = this.shownRuns[k],
      { space } = this.store.doc;
    return [
      this.label(gate),
      space.position[gate],
      `${say(run.n ? run.n[run.at.length ? run.at.indexOf(gate) : gate] : space.n[gate])} parameters`,
      `p = ${say(run.p[gate])}`,
      `rank ${say(run.rank[gate])} of ${say(run.size)}`,
      ["not chosen", "chosen", "chosen to fill what is left of the budget"][run.chosen[gate]],
    ];
  },

  drawCompare() {
    const { doc } = this.store,
      { space } = doc,
      want = this.want;
    this.settle();
    const passed = doc.runs
      .map((run, i) => i)
      .filter((i) => Object.keys(want).every((name) => !want[name] || doc.runs[i].facts[name] === want[name]));
    const none = !passed.length;
    const kept = passed.join();
    if (!none && kept !== this.keptPairs) {
      this.keptPairs = kept;
      this.pair = this.pair.map((i, k) => (passed.includes(i) ? i : passed[Math.min(k, passed.length - 1)]));
      this.pairBoxes.forEach((box, k) => {
        box.replaceChildren(...passed.map((i) => h("option", { value: i }, doc.runs[i].label)));
        box.value = this.pair[k];
      });
    }
    this.trust.drawSeveral(passed);
    const runs = this.pair.map((i) => this.runOf(i));
    put(
      this.words,
      `${say(passed.length)} of ${say(doc.runs.length)} runs${none ? ": no run has all three; widen a filter" : ""}${runs.includes(null) ? " · opening a run … (the kernel reads it as soon as it is free)" : ""}`,
    );
    if (runs.includes(null)) return;
    this.shownRuns = runs;
    const [a, b] = runs,
      finite = (list) => Array.from(list).filter(Number.isFinite);
    const sums = (list) => cellsOf(space, list).values;
    const every = [...finite(sums(a.p)), ...finite(sums(b.p))],
      high = this.scaleOwn
        ? Math.max(
            ...every.slice(0, 1),
            every.reduce((x, y) => Math.max(x, y), 0),
          )
        : 1;
    const mean = a.p.map((v, g) => (Number.isNaN(v) ? b.p[g] : Number.isNaN(b.p[g]) ? v : (v + b.p[g]) / 2));
    const how = {
      ...this.how,
      keep: (g) =>
        !Number.isNaN(mean[g]) && // of another run
        (!this.how.stack || space.stack[g] === this.how.stack) &&
        (!this.how.type || space.type[g] === this.how.type) &&
        (!this.how.module || space.module[g] === this.how.module),
    };
    const { rows } = arrange(space, mean, how);
    runs.forEach((run, k) => {
      const { texts, shorter, words } = this.cellTexts(k);
      this.maps[k].draw({
        space,
        rows,
        values: run.p,
        state: run.chosen,
        picks: this.picks,
        title: `${"AB"[k]}: ${this.shortOf(run)}`,
        high,
        legend: [{ words: `${run.own.length} gates chosen, ${say(run.used)} of ${say(run.budget)} parameters` }],
        most: 380,
        texts,
        shorter,
        note: words,
      });
    });
    const delta = b.p.map((v, g) => v - a.p[g]),
      reach = this.scaleOwn ? finite(sums(delta)).reduce((x, y) => Math.max(x, Math.abs(y)), 1e-9) : 1;
    const only = a.chosen.map((c, g) => (Boolean(c) !== Boolean(b.chosen[g]) ? 1 : 0));
    this.difference.draw({
      space,
      rows,
      values: delta,
      state: only,
      picks: this.picks,
      title: "B minus A",
      note: "blue: likelier in B; brown: likelier in A",
      scale: "div",
      low: -reach,
      high: reach,
      bar: "Δp",
      counted: "gates more expected in B",
      outlined: "chosen by one of the two",
      legend: [{ words: "chosen by one of the two" }],
      most: 380,
    });
    this.drawSeeds(rows);
    this.pickedBars.el.hidden = !this.picked.length;
    if (this.picked.length)
      this.pickedBars.draw(
        this.picked.map((g) => ({ name: this.label(g), values: runs.map((run) => run.p[g]) })),
        { title: "p of the picked gates", names: runs.map((run, k) => `${"AB"[k]}: ${this.shortOf(run)}`), xLabel: "p" },
      );
    this.drawOverlap(passed);
    this.scene = { name: a.name, step: a.step, steps: a.steps, budget: a.budget, used: a.used, chosen: this.ownGates(a) };
    this.more = {
      runs: runs.map((run) => ({
        run: run.name,
        step: run.step + 1,
        status: run.status,
        budget: run.budget,
        parameters: run.used,
        chosen: [...run.own],
      })),
    };
  },

  /** The sets of seeds that A and B are of: where they differ beyond seeds (figures.difference). */
  drawSeeds(rows) {
    const { doc } = this.store,
      { space } = doc,
      [i, j] = this.pair;
    const same = (a, b) => (one) => one[a].includes(i) && one[b].includes(j);
    const pairs = doc.seeds?.pairs ?? [],
      straight = pairs.find(same("a", "b")),
      found = straight ?? pairs.find(same("b", "a"));
    const agreed = (doc.seeds?.agreement ?? []).map((words) => h("div", {}, words));
    const lacking = "Two runs: seeds alone may make their difference. Of two tasks, budgets or modes with two or more seeds each, it is tested here.";
    this.seedWords.replaceChildren(...(found ? [] : [h("div", {}, lacking)]), ...agreed);
    this.seeded.el.hidden = !found;
    if (!found) return;
    const n = space.n.length,
      made = { values: new Float64Array(n).fill(NaN), q: new Float64Array(n).fill(NaN), state: new Uint8Array(n) };
    found.at.forEach((gate, k) => {
      made.values[gate] = (straight ? 1 : -1) * found.difference[k];
      made.q[gate] = found.q[k] ?? NaN;
    });
    found.remains.forEach((k) => (made.state[found.at[k]] = 1));
    this.overSeeds = made;
    const told = straight ? found.words : found.words.replace(/^(\d+) against (\d+)/, "$2 against $1"),
      sides = [found.a, found.b].map((set) => this.captionFacts(set.map((one) => doc.runs[one])));
    made.caption = seedsDifferenceOf(...(straight ? sides : sides.reverse()), told);
    const reach = this.scaleOwn ? made.values.reduce((x, y) => (Number.isNaN(y) ? x : Math.max(x, Math.abs(y))), 1e-9) : 1;
    this.seeded.draw({
      space,
      rows,
      values: made.values,
      state: made.state,
      picks: this.picks,
      title: "B minus A, means over seeds",
      note: `${told}; hatched: its interval holds 0`,
      scale: "div",
      low: -reach,
      high: reach,
      bar: "Δp",
      counted: "gates more expected in B",
      outlined: "differs beyond seeds",
      legend: [{ words: "differs beyond seeds" }],
      most: 380,
      noise: found.at.filter((gate) => !made.state[gate]),
    });
  },

  ownGates(run) {
    const made = new Uint8Array(run.size);
    run.own.forEach((i) => (made[i] = 1));
    return made;
  },

  drawOverlap(indices) {
    const { space } = this.store.doc,
      known = indices.filter((i) => this.store.doc.runs[i].at).slice(0, OVERLAP),
      runs = known.map((i) => this.runOf(i));
    this.overlap.el.hidden = runs.length < 2;
    if (runs.length < 2) return;
    const cell = (x, y) => {
      let shared = 0,
        either = 0;
      const both = [[], []];
      space.n.forEach((size, g) => {
        const weight = this.by === "params" ? size : 1,
          [inX, inY] = [x.chosen[g] > 0, y.chosen[g] > 0];
        shared += inX && inY ? weight : 0;
        either += inX || inY ? weight : 0;
      });
      const [ofX, ofY] = [x, y].map((one) => cellsOf(space, one.p).values); // of units their sum, the expected rank
      ofX.forEach((value, g) => {
        if (Number.isNaN(value) || Number.isNaN(ofY[g])) return;
        both[0].push(value);
        both[1].push(ofY[g]);
      });
      const value = this.by === "rank" ? spearman(...both) : either ? shared / either : 1;
      return {
        value,
        text: Number.isNaN(value) ? "–" : value.toFixed(2),
        mark: x === this.shownRuns[0] && y === this.shownRuns[1],
        hover: [`${x.label} / ${y.label}`, `${say(value, 3)}`],
      };
    };
    const names = runs.map((run) => this.shortOf(run)),
      words = { gates: "Gates in common (Jaccard)", params: "Parameters in common (Jaccard)", rank: "Rank correlation of p (Spearman)" }[
        this.by
      ];
    this.overlap.draw(
      names,
      names,
      runs.map((x) => runs.map((y) => cell(x, y))),
      {
        title: words,
        note: runs.length < indices.length ? `${runs.length} of ${indices.length} runs: those that were opened, ${OVERLAP} at most` : "",
        low: this.by === "rank" ? -1 : 0,
        high: 1,
        scale: this.by === "rank" ? "div" : "seq",
        pick: (i, j) => {
          this.pair = [i, j].map((k) => known[k]);
          this.pairBoxes.forEach((box, k) => (box.value = this.pair[k]));
          this.queue();
        },
      },
    );
  },

  // -- transfer ----------------------------------------------------------------------------------------

  buildTransfer(doc) {
    const elsewhere = doc.targets.findIndex((target) => target !== doc.sources[0]);
    this.cell = [0, Math.max(0, elsewhere)];
    Object.assign(this, { value: "score", relative: "", seed: "" });
    const words = choicesOf(doc);
    this.controls.append(
      h(
        "div",
        { class: "s3-line" },
        this.select("value", words.value, (v) => (this.value = v), "value"),
        this.select("relative to", words.relative, (v) => (this.relative = v), "relative"),
        this.select("seed", words.seed, (v) => (this.seed = v), "seed"),
        ...this.rowControls().slice(0, -1),
        ...this.partChips(doc),
        ...this.viewMenu(),
      ),
    );
    delete this.fields.own_scale;
    for (const [name, k, list] of [
      ["source", 0, doc.sources],
      ["target", 1, doc.targets],
    ])
      this.fields[name] = { get: () => list[this.cell[k]], set: (v) => (this.cell[k] = list.indexOf(v)) };
    this.matrix = new Matrix("transfer", this.about);
    this.maps = ["source", "own"].map(
      (name) =>
        new Heat(`structure-${name}`, this.about, {
          pick: (gate, event) => this.pick(gate, event),
          hover: (gate) => [
            this.label(gate),
            doc.space.position[gate],
            `${say(doc.space.n[gate])} parameters`,
            ...this.both.map((one) => `${one.set.has(gate) ? "in" : "not in"} ${one.name}`),
          ],
        }),
    );
    this.body.append(
      this.trust.el,
      this.matrix.el,
      (this.pairWords = h("div", { class: "s3-line", role: "status" })),
      h(
        "div",
        { class: "s3-grid" },
        this.maps.map((map) => map.el),
      ),
    );
  },

  /** Look at a cell: a source's row and a target's column. */
  lookAt(i, j) {
    const { doc } = this.store;
    if (i < doc.sources.length) this.cell = [i, j];
    this.note = i < doc.sources.length ? "" : `the row ${doc.matrices[0].rows[i] ?? ""} has no one structure to look at; choose a source`;
    this.queue();
  },

  drawTransfer() {
    const { doc } = this.store,
      { space } = doc;
    this.settle();
    const table = doc.matrices.find((m) => m.value === this.value && m.relative === this.relative && m.seed === this.seed);
    put(this.words, this.note || doc.hint);
    this.trust.drawAll();
    this.matrix.draw(table.rows, doc.targets, table.cells, {
      title: table.title,
      note: table.note,
      scale: table.centred ? "div" : "seq",
      low: 0,
      high: 1,
      gap: doc.sources.length,
      picked: this.cell,
      pick: (i, j) => this.lookAt(i, j),
      rowLabel: "structure of",
      columnLabel: "trained on",
    });
    const [i, j] = this.cell,
      source = doc.sources[i],
      target = doc.targets[j];
    const find = (name) => doc.structures[`${name}|${target}|${this.seed}`] ?? null;
    const names =
      source === target
        ? [[source, `${target}'s own structure`]]
        : [
            [source, `structure of ${source}`],
            [target, `${target}'s own structure`],
          ];
    this.both = names
      .map(([name, words]) => ({ name: words, ...find(name) }))
      .filter((one) => one.gates)
      .map((one) => ({ ...one, set: new Set(one.gates) }));
    const pair = `${source}|${target}|${this.seed}`,
      shared = this.both.length === 2 ? doc.shared[pair] : undefined, // by Python: ranks and whole gates compare places
      chance = doc.chance[pair];
    put(
      this.pairWords,
      `${source} → ${target}: ${table.cells[i][j]?.hover?.[1] ?? "–"}${shared ? ` · ${shared[0]} gates shared of ${this.both.map((one) => one.gates.length).join(" and ")} (Jaccard ${shared[1].toFixed(2)}${chance === undefined ? "" : `, by chance ${chance.toFixed(2)}`})` : ""}`,
    );
    const values = this.both.map((one) => Float64Array.from(space.n, (_, g) => (one.set.has(g) ? 1 : 0)));
    const { rows } = arrange(space, values[0] ?? new Float64Array(space.n.length), {
      ...this.how,
      keep: (g) =>
        (!this.how.stack || space.stack[g] === this.how.stack) &&
        (!this.how.type || space.type[g] === this.how.type) &&
        (!this.how.module || space.module[g] === this.how.module),
    });
    const state = Uint8Array.from(space.n, (_, g) => (this.both.length === 2 && this.both.every((one) => one.set.has(g)) ? 1 : 0));
    this.maps.forEach((map, k) => {
      map.el.hidden = !this.both[k];
      if (this.both[k])
        map.draw({
          space,
          rows,
          values: values[k],
          state,
          picks: this.picks,
          title: this.both[k].name,
          note: this.both[k].words,
          bar: "",
          counted: "gates in it",
          outlined: this.both.length === 2 ? "in both structures" : "",
          legend: this.both.length === 2 ? [{ words: "in both structures" }] : [],
          most: 380,
        });
    });
    const one = this.both[0];
    this.scene = one
      ? {
          name: one.name,
          step: NaN,
          steps: null,
          budget: one.budget,
          used: one.used,
          chosen: Uint8Array.from(space.n, (_, g) => (one.set.has(g) ? 1 : 0)),
        }
      : null;
    this.more = { source, target, value: table.cells[i][j]?.value ?? null, step: null };
  },
});

export default {
  initialize({ model }) {
    storeOf(model);
  },
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.close();
  },
};
