// The viewer: what is looked at, the controls, and the pictures. The kernel only feeds the store.

const CURVE_POINTS = 512,
  TOP = 6,
  PLAY_SECONDS = 15,
  PLAY_RATE = 12,
  SLIDER = 1000,
  PATH_POINTS = 61,
  PATH_GATES = 40;
const SIGNS = {
  starting: "◌",
  running: "▶",
  paused: "❚❚",
  finished: "✔",
  stopped: "■",
  failed: "✖",
  dead: "✖",
  good: "✔",
  note: "ℹ",
  warning: "▲",
  problem: "✖",
};
const ACTIONS = { running: ["pause", "stop"], paused: ["resume", "stop"], stopped: ["resume"], failed: ["resume"], dead: ["resume"] };
const DOING = { pause: "pausing", resume: "resuming", stop: "stopping" };
const TELL = 300; // ms without a change before the kernel is told what is looked at

/** One view of a model: its own step, budget and filters; the selection belongs to the model. */
class View {
  constructor(model, el) {
    Object.assign(this, { model, el, store: storeOf(model), row: null, budget: null, playing: null, pending: null, memo: {}, fields: {} });
    el.classList.add("s3pet-viewer");
    el.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab's keys stay out of it
    el.tabIndex = -1;
    el.s3pet = { state: () => this.state(), view: this };
    this.tipBox = h("div", { class: "s3-tip", role: "tooltip", hidden: true });
    this.about = { look: () => this.theme, tip: (lines, event) => this.tip(lines, event) };
    this.listen = () => this.queue();
    this.store.listeners.add(this.listen);
    this.sized = new ResizeObserver(() => el.clientWidth !== this.drawnWidth && this.queue());
    this.sized.observe(el);
    this.themed = new MutationObserver(() => this.queue());
    this.themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-vscode-theme-kind", "class"] });
    el.addEventListener("keydown", (event) => this.key(event));
    this.draw();
  }

  close() {
    this.store.listeners.delete(this.listen);
    this.sized.disconnect();
    this.themed.disconnect();
    clearInterval(this.playing);
    clearTimeout(this.telling);
    cancelAnimationFrame(this.frame);
  }

  /** Draw once, soon, however much has changed. */
  queue() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  draw() {
    this.colour();
    if (this.shape !== (this.store.doc?.id ?? "")) this.build();
    this.drawnWidth = this.el.clientWidth;
    this.status();
    if (!this.drawnWidth || !this.store.doc?.space) return; // not on the screen yet: the observer calls again
    ({ run: () => this.drawRun(), compare: () => this.drawCompare(), transfer: () => this.drawTransfer() })[this.store.doc.kind]();
    this.tellView();
  }

  colour() {
    this.theme = themeOf(this.ownTheme ?? this.store.doc?.theme);
    this.el.dataset.theme = this.theme;
  }

  // -- controls ----------------------------------------------------------------------------------------

  build() {
    const doc = this.store.doc;
    this.shape = doc?.id ?? "";
    this.row = this.scene = this.likeliest = this.era = null;
    this.how = { sort: "order", group: "none", hidePale: false, stack: "", type: "", module: "" }; // as the new controls say
    this.scaleOwn = false;
    this.ownTheme = this.told = undefined;
    this.wanted = doc?.view ?? null; // a state to open with
    this.linkSaid = "";
    this.fields = {};
    this.trust = new TrustCard(this);
    this.edit = null; // of a structure by hand
    this.captions = {}; // for a paper, by what copies them
    this.annotate = "";
    clearInterval(this.playing);
    this.playing = null;
    this.budget = this.store.live.budget ?? null; // a page of its own may begin at another
    this.more = undefined;
    this.memo = {};
    this.head = h("div", { class: "s3-line" });
    this.words = h("div", { class: "s3-line", role: "status" });
    this.trouble = h("div", {});
    this.controls = h("div", {});
    this.body = h("div", {});
    this.el.replaceChildren(this.head, this.words, this.trouble, this.controls, this.body, this.tipBox);
    this.copied = h("span", { class: "s3-muted", role: "status" });
    this.title = h("b", {}, doc?.title ?? "");
    this.state_ = h("span", { class: "s3-status" });
    this.bar = h("i");
    this.buttons = ["pause", "resume", "stop"].map((name) =>
      h(
        "button",
        {
          type: "button",
          onclick: () => this.request(name),
          title: {
            pause: "Hold the search after the present step",
            resume: "Let the search go on",
            stop: "End the search after the present step; it can be resumed",
          }[name],
        },
        name[0].toUpperCase() + name.slice(1),
      ),
    );
    const control = doc?.control ? [h("span", { class: "s3-progress" }, this.bar), ...this.buttons] : [];
    this.head.append(this.title, h("span", { class: "s3-muted" }, doc?.subtitle ?? ""), this.state_, ...control);
    if (!doc?.space) return;
    ({ run: () => this.buildRun(doc), compare: () => this.buildCompare(doc), transfer: () => this.buildTransfer(doc) })[doc.kind]();
    const names = namesOf(doc);
    this.fields.selection = { get: () => this.picked.map((gate) => names[gate]), set: (picked) => (this.picked = placesOf(doc, picked)) };
  }

  /** field: its name in the view's state. */
  select(label, options, onchange, field) {
    const box = h(
      "select",
      {
        onchange: () => {
          onchange(box.value);
          this.queue();
        },
      },
      options.map(([key, words]) => h("option", { value: key }, words)),
    );
    if (field) this.fields[field] = { get: () => box.value, set: (v) => onchange((box.value = v)) };
    return h("label", {}, label, box);
  }

  check(label, on, onchange, title = "", field = "") {
    const box = h("input", {
      type: "checkbox",
      ".checked": on,
      onchange: () => {
        onchange(box.checked);
        this.queue();
      },
    });
    if (field) this.fields[field] = { get: () => box.checked, set: (v) => onchange((box.checked = v)) };
    return h("label", { title }, box, label);
  }

  /** The theme, and what can be copied; of every view its state. */
  viewMenu(more = []) {
    const theme = this.select("theme", choicesOf(this.store.doc).theme, (v) => (this.ownTheme = v), "theme");
    theme.lastChild.value = this.store.doc.theme;
    const view = [["view", "this view as JSON"], ...(this.model.get("standing") ? [["link", "a link to this view"]] : [])];
    this.copyBox = this.select("copy", [["", "…"], ...more, ...view], (v) => v && this.copy(v));
    return [theme, this.copyBox, this.copied];
  }

  /** How rows are shown, and what is saved: the same for every kind of view. */
  rowControls() {
    const words = choicesOf(this.store.doc),
      stack = this.select("stack", words.stack, (v) => (this.how.stack = v), "stack");
    return [
      this.select("rows", words.rows, (v) => (this.how.sort = v), "rows"),
      this.select("group", words.group, (v) => (this.how.group = v), "group"),
      words.stack.length > 2 && stack,
      this.select("type", words.type, (v) => (this.how.type = v), "type"),
      this.select("module", words.module, (v) => (this.how.module = v), "module"),
      this.check("hide pale rows", false, (v) => (this.how.hidePale = v), `Leave out rows in which no gate has p of ${PALE} or more`, "hide_pale"),
      this.check("own scale", false, (v) => (this.scaleOwn = v), "Colours over this picture's own range, not from 0 to 1", "own_scale"),
    ].filter(Boolean);
  }

  /** Which parts are shown. */
  partChips(doc) {
    const shown = (this.parts = new Set(doc.parts)),
      offered = partsOf(doc);
    const show = (name, on) => (on ? shown.add(name) : shown.delete(name));
    const chips = offered.map(([name, words]) => this.check(words, shown.has(name), (v) => show(name, v)));
    this.fields.show = {
      get: () => offered.map(([name]) => name).filter((name) => shown.has(name)),
      set: (list) =>
        offered.forEach(([name], k) => {
          show(name, list.includes(name));
          chips[k].firstChild.checked = list.includes(name);
        }),
    };
    return [h("span", { class: "s3-muted" }, "show"), ...chips];
  }

  buildRun(doc) {
    const run = doc.run;
    this.stepBox = h("input", {
      type: "range",
      min: 0,
      max: 0,
      step: 1,
      "aria-label": "step",
      oninput: () => this.goTo(+this.stepBox.value),
    });
    this.play = h("button", { type: "button", onclick: () => this.togglePlay(), title: "Replay the search (space)" }, "Play");
    this.stepWords = h("span", {});
    this.budgetBox = h("input", {
      type: "range",
      min: 0,
      max: SLIDER,
      step: 1,
      "aria-label": "budget",
      oninput: () => this.askBudget(Math.round(run.smallest * (run.total / run.smallest) ** (this.budgetBox.value / SLIDER))),
    });
    this.budgetText = h("input", {
      type: "text",
      "aria-label": "budget in parameters or percent",
      title: "8404 or 0.2%",
      onchange: () => this.typeBudget(),
    });
    this.ownButton = h(
      "button",
      { type: "button", onclick: () => this.askBudget(null), title: run.budget ? `Back to ${say(run.budget)} parameters` : "" },
      "the run's budget",
    );
    const chips = this.partChips(doc),
      menu = this.viewMenu([
      ["code", "code that opens this"],
      ["json", "the structure as JSON"],
      ["lora", "a LoraConfig (PEFT)"],
      ["picks", "the picked gates"],
      ["caption", "a caption for a paper"],
    ]);
    const annotate = this.select("in cells", choicesOf(doc).in_cells, (v) => (this.annotate = v), "in_cells");
    const edit = this.check(
      "edit",
      false,
      (v) => this.toggleEdit(v),
      "Click gates into the structure and out of it (Shift: one unit out). In Python: view.edited; anywhere: copy, the structure as JSON",
    );
    this.fields.step = { get: () => (this.row === null ? null : this.scene.step), set: (v) => this.goToStep(v) };
    this.fields.budget = { get: () => this.budget, set: (v) => this.askBudget(v) };
    this.fields.edit = { get: () => this.sharedEdit(), set: (v) => this.openEdit(v, edit.firstChild) };
    this.controls.append(
      h("div", { class: "s3-line" }, h("label", { class: "s3-slider" }, "step", this.stepBox), this.stepWords, this.play),
      h("div", { class: "s3-line" }, h("label", { class: "s3-slider" }, "budget", this.budgetBox), this.budgetText, this.ownButton),
      h("div", { class: "s3-line" }, ...this.rowControls()),
      h("div", { class: "s3-line" }, ...chips, annotate, edit, ...menu),
    );
    const about = this.about,
      pick = (gate, event) => (this.edit ? this.editGate(gate, event) : this.pick(gate, event));
    const pickPinned = (i) => this.edit && this.editGate(doc.space.n.length + i);
    this.map = new Heat("heatmap", about, { pick, pickPinned, hover: (gate) => this.gateWords(gate) });
    this.captions.caption = (sheet) => this.caption(sheet);
    this.paperButtons(this.map, this.captions.caption);
    this.losses = new Lines("losses", about);
    this.entropies = new Lines("entropy", about);
    this.expected = new Lines("expected", about);
    this.traces = new Lines("traces", about);
    this.sums = ["layer", "module", "PET type"].map((by) => new Bars(`sums-${by.replace(" ", "-")}`, about));
    this.path = new Bars("budget-path", about);
    this.worth = new Bars("worth", about);
    this.facts = h("div", {});
    this.health = h("div", {});
    this.curvesRow = h("div", { class: "s3-three" }, this.losses.el, this.entropies.el, this.expected.el);
    this.traceRow = h("div", { class: "s3-grid" }, this.traces.el, this.facts);
    this.sumsRow = h(
      "div",
      { class: "s3-three" },
      this.sums.map((one) => one.el),
    );
    this.body.append(this.trust.el, this.map.el, this.curvesRow, this.traceRow, this.sumsRow, this.path.el, this.worth.el, this.health);
  }

  goTo(row) {
    this.row = row >= this.count - 1 ? null : Math.max(0, row); // at the end: follow
    this.queue();
  }

  /** A step as it was recorded, from 0; null: the newest, whichever it is. */
  goToStep(step) {
    const { rows } = this.store,
      row = step === null || !rows.n ? null : step > rows.scalar(rows.n - 1, "step") ? this.count - 1 : rows.rowOf(step);
    this.goTo(row ?? this.count);
    if (row !== null && row < rows.n && rows.scalar(row, "step") !== step)
      this.linkSaid = `step ${say(step + 1)} is not kept here; step ${say(rows.scalar(row, "step") + 1)} is shown`;
  }

  /** A budget in parameters; null: the run's own. */
  askBudget(budget) {
    const { run } = this.store.doc;
    this.budget = budget === null || budget === run.budget ? null : Math.min(run.total, Math.max(run.smallest, budget));
    this.queue();
  }

  typeBudget() {
    const { run } = this.store.doc,
      text = this.budgetText.value.trim(),
      wanted = parseBudget(text, run.backbone_params);
    if (Number.isNaN(wanted)) return this.say(`budget: expected parameters (8404) or a share of the backbone (0.2%), found ${text}`);
    this.askBudget(wanted);
    const shown = this.budget ?? run.budget; // the smallest gate at least, all gates at most
    this.say(shown === wanted ? "" : `budgets here go from ${say(run.smallest)} to ${say(run.total)} parameters`);
    this.budgetText.value = say(shown);
  }

  togglePlay() {
    if (this.playing) {
      clearInterval(this.playing);
      this.playing = null;
    } else if (this.count > 1) {
      if (this.row === null) this.row = 0;
      const stride = Math.max(1, Math.ceil(this.count / (PLAY_SECONDS * PLAY_RATE)));
      this.playing = setInterval(() => {
        this.goTo((this.row ?? this.count) + stride);
        if (this.row === null) this.togglePlay();
      }, 1000 / PLAY_RATE);
    }
    this.play.textContent = this.playing ? "Hold" : "Play";
  }

  key(event) {
    if (/^(INPUT|SELECT|BUTTON|TEXTAREA|SUMMARY)$/.test(event.target.tagName) && event.key !== "Escape") return;
    if (event.key === " " && this.play) this.togglePlay();
    else if (event.key === "Escape") this.picked = [];
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // -- the selection -----------------------------------------------------------------------------------

  get picked() {
    const count = this.store.doc?.space?.n.length ?? 0; // picked in another run, perhaps
    return (this.model.get("selection") ?? []).filter((gate) => gate < count);
  }

  set picked(gates) {
    this.model.set("selection", gates);
    this.model.save_changes?.();
    this.queue();
  }

  /** A click picks one gate; with Shift, Ctrl or Cmd several. A second click lets it go. */
  pick(gates, event) {
    const asked = Array.isArray(gates) ? gates : [gates],
      { picked } = this,
      all = asked.every((g) => picked.includes(g));
    if (!asked.length) return;
    const more = event.shiftKey || event.ctrlKey || event.metaKey;
    if (all) this.picked = more ? picked.filter((g) => !asked.includes(g)) : picked.length > asked.length ? asked : [];
    else this.picked = more ? [...new Set([...picked, ...asked])] : asked;
  }

  get picks() {
    return this.picked.map((gate, k) => ({ gate, colour: CATEGORICAL[k % CATEGORICAL.length] }));
  }

  label(gate) {
    const { space } = this.store.doc;
    const unit = space.unit?.[gate] >= 0 ? ` unit ${space.unit[gate]}` : "";
    return `${space.columns[space.col[gate]]} ${space.rows[space.row[gate]]}${unit}`;
  }

  tip(lines, event) {
    this.tipBox.hidden = !lines;
    if (!lines) return;
    this.tipBox.replaceChildren(...lines.map((line, i) => h(i ? "div" : "b", {}, line)));
    const { clientWidth, clientHeight } = document.documentElement,
      { style } = this.tipBox;
    style.left = style.top = "0";
    const { x, y, width, height } = this.tipBox.getBoundingClientRect(); // in JupyterLab "fixed" is within the notebook, and scrolls with it
    style.left = `${Math.max(4, Math.min(event.clientX + 14, clientWidth - width - 8)) - x}px`;
    style.top = `${(event.clientY + 16 + height > clientHeight ? event.clientY - height - 10 : event.clientY + 16) - y}px`;
  }

  // -- what it says ------------------------------------------------------------------------------------

  say(words) {
    if (this.copied) this.copied.textContent = words;
  }

  request(name) {
    this.pending = { name, status: this.store.live.status, asked: this.store.live.asked };
    this.store.ask({ kind: "request", request: name });
    this.queue();
  }

  status() {
    const { live, doc, gone } = this.store,
      status = live.status ?? "";
    if (this.pending && (live.status !== this.pending.status || live.asked !== this.pending.asked)) this.pending = null;
    const waits = this.pending
      ? ` · ${DOING[this.pending.name]} … (the kernel passes it on as soon as it is free)`
      : live.doing
        ? ` · ${live.doing} …`
        : "";
    put(this.state_, status ? `${SIGNS[status] ?? "•"} ${status}${waits}` : "");
    for (const button of this.buttons)
      button.disabled = gone || this.pending !== null || live.doing || !(ACTIONS[status] ?? []).includes(button.textContent.toLowerCase());
    const done = live.early_stop ? 1 : live.steps_total ? (live.step ?? 0) / live.steps_total : 0;
    this.bar.style.width = `${100 * done}%`;
    const notes = [];
    if (gone)
      notes.push([
        "s3-note",
        "The kernel of this view is gone: this is the last picture that it sent. Run the cell again to follow the search, which runs in a process of its own.",
      ]);
    if (live.problem) notes.push(["s3-alert", `the run cannot be read now: ${live.problem}`]);
    if (live.error)
      notes.push(["s3-alert", `${{ dead: "the search died", failed: "the search failed" }[status] ?? "error"}: ${live.error}`]);
    if (doc?.run && !doc.run.named)
      notes.push(["s3-note", "The run names no budget, so it chose no gates: choose a budget. At first all gates fit."]);
    if (this.linkSaid) notes.push(["s3-note", this.linkSaid]);
    if (doc?.left_out?.length) notes.push(["s3-note", `left out: ${doc.left_out.join("; ")}`]);
    const text = JSON.stringify(notes);
    if (text !== this.troubleText)
      this.trouble.replaceChildren(...notes.map(([kind, words]) => h("div", { class: kind, role: "alert" }, words)));
    this.troubleText = text;
    if (!doc?.space) put(this.words, live.words ?? "");
  }

  /** What is drawn, for tests and for other scripts. */
  state() {
    const { store, scene } = this,
      { doc, live } = store,
      gates = (test) => (scene ? Array.from(scene.chosen, (c, i) => (test(c) ? i : -1)).filter((i) => i >= 0) : []);
    const base = {
      run: scene?.name ?? doc?.run?.name ?? null,
      status: live.status ?? null,
      selected: [...this.picked],
      kernel: store.gone ? "gone" : "there",
    };
    return {
      ...base,
      step: scene ? scene.step + 1 : null,
      steps: scene?.steps ?? live.steps_total ?? null,
      budget: scene?.budget ?? null,
      parameters: scene?.used ?? null,
      chosen: gates((c) => c > 0),
      fills: gates((c) => c === 2),
      ...this.more,
    };
  }

  // -- one run -----------------------------------------------------------------------------------------

  get count() {
    const { rows, last } = this.store,
      n = rows.n;
    return n + (last && (!n || last.step > rows.scalar(n - 1, "step")) ? 1 : 0);
  }

  /** The newest step that is here, from 0. */
  get lastStep() {
    const { rows, last } = this.store;
    return Math.max(rows.n ? rows.scalar(rows.n - 1, "step") : 0, last?.step ?? 0);
  }

  /** alpha, p and the choice at a row and a budget: what `run.p` and `run.structure` give. */
  sceneOf(row, budget) {
    const { store } = this,
      { doc, live, rows, last } = store,
      { run, space } = doc,
      gates = space.n.length;
    const newest = row === this.count - 1 && last;
    const { alpha, order = null } = newest ? last : rows.alpha(row, gates);
    const at = (name) => (newest ? last[name] : rows.scalar(row, name));
    const own = budget === null,
      wanted = budget ?? run.budget,
      sorted = order ?? (newest ? (last.order ??= orderOf(alpha)) : orderOf(alpha));
    const free = wanted - (run.pinned ?? 0); // what the gates pinned in leave
    const zeta = own ? at("zeta") : solveShift(alpha, space.n, free, run.tau);
    const p = probabilities(alpha, zeta ?? -Infinity, run.tau),
      rank = new Int32Array(gates);
    sorted.forEach((gate, k) => (rank[gate] = k + 1));
    let { chosen, cut, used } = select(sorted, space.n, free);
    if (own && newest && live.own) {
      // as the run itself wrote it
      const mine = new Set(live.own);
      chosen = chosen.map((c, i) => (mine.has(i) ? (cut >= 0 && rank[i] > rank[cut] ? 2 : 1) : 0));
      used = live.own.reduce((a, i) => a + space.n[i], 0);
    }
    used += run.pinned ?? 0;
    return {
      name: run.name,
      step: at("step"),
      steps: live.steps_total,
      alpha,
      p,
      chosen,
      cut,
      used,
      rank,
      order: sorted,
      budget: wanted,
      own,
      zeta,
    };
  }

  gateWords(gate) {
    const { scene } = this,
      { space } = this.store.doc,
      over = scene.cut < 0 ? null : scene.alpha[gate] - scene.alpha[scene.cut];
    return [
      this.label(gate),
      space.position[gate],
      `${say(space.n[gate])} parameters`,
      `p = ${say(scene.p[gate])}, α = ${say(scene.alpha[gate])}`,
      `rank ${say(scene.rank[gate])} of ${say(space.n.length)}`,
      scene.chosen[gate] ? ["", "chosen", "chosen to fill what is left of the budget"][scene.chosen[gate]] : this.whyNot(gate),
      over === null
        ? "every gate fits the budget"
        : `${say(Math.abs(over), 3)} in α ${over > 0 ? "above" : over < 0 ? "below" : "from"} the cut`,
      ...(space.beside?.[gate] ? [`adds nothing beside ${space.beside[gate]}`] : []),
    ];
  }

  /** Why a gate is out: what was left at its turn, as analysis.why_not says it. */
  whyNot(gate) {
    const { scene } = this,
      { space, run } = this.store.doc;
    if (this.edit) return "not chosen";
    let left = scene.budget - (run.pinned ?? 0);
    for (const g of scene.order) {
      if (g === gate) break;
      if (space.n[g] <= left) left -= space.n[g];
    }
    const below = Array.from(scene.order)
      .slice(scene.rank[gate])
      .some((g) => scene.chosen[g]);
    return `not chosen: ${below ? "too large, " : ""}${say(left)} parameters were left at its turn`;
  }

  drawRun() {
    const { store, how } = this,
      { doc, live, rows } = store,
      { run, space } = doc,
      n = space.n.length,
      count = this.count;
    this.body.hidden = this.controls.hidden = !count;
    if (!count) return put(this.words, live.words ?? "no step yet: the backbone and the data are loaded");
    if (!store.waiting || store.gone) this.settle(this.lastStep);
    if (rows.n && rows.era !== this.era) {
      if (this.row !== null && this.era) this.row = rows.rowOf(this.lookedAt); // thinned, or taken back: not another step
      this.era = rows.era;
    }
    const row = Math.min(this.row ?? count - 1, count - 1),
      found = this.sceneOf(row, this.budget),
      scene = (this.scene = this.edit ? this.edited(found) : found);
    if (rows.n) this.lookedAt = scene.step;
    this.stepBox.max = count - 1;
    if (document.activeElement !== this.stepBox || this.row === null || this.playing) this.stepBox.value = row;
    this.stepBox.disabled = this.play.disabled = count < 2;
    const thinned = live.rows?.stride > 1 ? ` (every ${live.rows.stride}th step is kept here)` : "";
    put(
      this.stepWords,
      `${say(scene.step + 1)}${live.steps_total ? ` of ${say(live.steps_total)}` : ""}${thinned}${store.waiting ? " · earlier steps are on their way" : ""}`,
    );
    const place = run.total > run.smallest ? (SLIDER * Math.log(scene.budget / run.smallest)) / Math.log(run.total / run.smallest) : SLIDER;
    if (document.activeElement !== this.budgetBox || this.budget === null) this.budgetBox.value = Math.round(place);
    if (document.activeElement !== this.budgetText) this.budgetText.value = say(scene.budget);
    this.ownButton.disabled = this.budget === null;
    const nChosen = scene.chosen.reduce((a, c) => a + (c > 0), 0),
      share = run.backbone_params ? ` · ${say((100 * scene.used) / run.backbone_params, 3)} % of the backbone` : "";
    const shown = Array.from(
      { length: n },
      (_, g) =>
        (!how.stack || space.stack[g] === how.stack) &&
        (!how.type || space.type[g] === how.type) &&
        (!how.module || space.module[g] === how.module),
    );
    const filtered = shown.includes(false)
      ? ` · ${shown.reduce((a, on, g) => a + (on && scene.chosen[g] > 0), 0)} of ${say(shown.filter(Boolean).length)} shown gates are chosen`
      : "";
    const left = this.row === null && live.seconds_left ? ` · ${live.seconds_left} left` : "";
    put(
      this.words,
      this.edit
        ? this.editWords(scene)
        : `step ${say(scene.step + 1)}${live.steps_total ? ` of ${say(live.steps_total)}` : ""}${live.early_stop && this.row === null ? ` (finished ${live.early_stop})` : ""}${left} · ${say(nChosen)} of ${say(n)} gates chosen${space.pinned?.inside ? ` and ${say(space.pinned.inside)} pinned in` : ""} · ${say(scene.used)} of ${say(scene.budget)} parameters used (${say((100 * scene.used) / scene.budget, 4)} %)${share}${filtered}`,
    );
    const wanted = (apart, i) =>
      (!how.stack || apart.stack[i] === how.stack) &&
      (!how.type || apart.type[i] === how.type) &&
      (!how.module || apart.module[i] === how.module);
    const arranged = arrange(space, scene.p, { ...how, keep: (g) => shown[g], keepApart: wanted });
    const fills = scene.chosen.includes(2),
      seen = cellsOf(space, scene.p).values.filter((v) => !Number.isNaN(v)),
      high = this.scaleOwn ? seen.reduce((a, b) => Math.max(a, b)) : 1,
      low = this.scaleOwn ? seen.reduce((a, b) => Math.min(a, b)) : 0;
    const { texts, words: inCells } = this.textsOf(scene),
      notes = [
        arranged.pale ? `${arranged.pale} pale rows are hidden` : scene.own ? "" : `solved again for ${say(scene.budget)} parameters`,
        inCells,
      ];
    this.map.draw({
      space,
      rows: arranged.rows,
      values: scene.p,
      state: scene.chosen,
      picks: this.picks,
      title: `Gates at step ${say(scene.step + 1)}`,
      note: notes.filter(Boolean).join("; "),
      low,
      high,
      sums: { weights: space.n, words: "expected parameters" },
      texts,
      inertText: this.annotate === "inert" ? "i" : "",
      held: this.edit && ((i) => this.edit.gates.has(n + i)),
      legend: [{ words: "chosen" }, ...(fills ? [{ words: "chosen to fill what is left of the budget", dash: "3 2" }] : [])],
    });
    this.trust.drawRun();
    this.drawCurves(scene, row);
    this.drawTraces(scene, row);
    this.drawSums(scene, shown);
    this.drawPath(scene);
    this.drawWorth();
    const finding = (one) => h("div", { class: "s3-finding" }, h("b", {}, `${SIGNS[one.level]} ${one.title} `), one.text);
    this.once("health", this.health, "health", live.findings, () => this.health.replaceChildren(...(live.findings ?? []).map(finding)));
  }

  /** What stands in the cells, and what it is: analysis.annotate.annotation; while editing, what was changed. */
  textsOf(scene) {
    const { space, effects } = this.store.doc;
    if (this.edit && !space.unit)
      return { texts: (g) => (scene.added.includes(g) ? "+" : scene.removed.includes(g) ? "−" : ""), words: "+ put in, − taken out" };
    if (!this.annotate) return { texts: null, words: "" };
    if (this.annotate === "rank") return { texts: (g) => String(scene.rank[g]), words: "in cells: rank" };
    if (this.annotate === "params") return { texts: (g) => shortCount(space.n[g]), words: "in cells: parameters" };
    if (this.annotate === "inert") return { texts: null, words: "i: cannot help" };
    const values = this.annotate === "alpha" ? scene.alpha : new Float64Array(space.n.length).fill(NaN);
    if (this.annotate === "importance") effects.forEach((e) => (values[e.gate] = e.increase));
    const { texts, power } = scaled(values),
      what = this.annotate === "alpha" ? "α" : "rise of the loss without it";
    return { texts: (g) => texts[g], words: `in cells: ${what}${power ? ` × 1e${power}` : ""}` };
  }

  /** Draw a part if it is shown and what it depends on has changed. */
  once(part, el, name, on, draw) {
    el.hidden = !this.parts.has(part);
    const key = JSON.stringify([on, this.drawnWidth, this.theme]);
    if (el.hidden || this.memo[name] === key) return;
    this.memo[name] = key;
    draw();
  }

  drawCurves(scene, row) {
    const { rows, doc } = this.store,
      blue = CATEGORICAL[0];
    this.once("curves", this.curvesRow, "curves", [rows.era, rows.n], () => {
      const at = thin(rows.n, CURVE_POINTS),
        x = rows.column("step", at).map((v) => v + 1),
        of = (name) => rows.column(name, at);
      const expected = of("expected"),
        { budget } = doc.run;
      // Held at the budget it is a constant, and says nothing.
      const constant = budget && expected.every((v) => Math.abs(v / budget - 1) < 1e-3);
      this.expected.el.hidden = Boolean(constant); // before the others measure their width
      this.losses.draw(
        [
          { name: "train", x, y: of("train_loss"), colour: blue },
          { name: "validation", x, y: of("val_loss"), colour: CATEGORICAL[1], dash: "5 3" },
        ],
        { title: "Loss" },
      );
      this.entropies.draw([{ name: "entropy", x, y: of("entropy"), colour: CATEGORICAL[2] }], {
        title: "Entropy of the gates, bits",
        zero: true,
        legend: false,
      });
      if (!constant)
        this.expected.draw([{ name: "expected", x, y: expected, colour: blue }], {
          title: "Expected parameters",
          zero: true,
          legend: false,
          marks: budget ? [{ y: budget, words: "budget" }] : [],
        });
    });
    for (const chart of [this.losses, this.entropies, this.expected])
      if (!chart.el.hidden) chart.mark(this.row === null ? NaN : scene.step + 1);
  }

  /** p of the picked gates over the steps, or of the likeliest. */
  drawTraces(scene, row) {
    const { rows, doc } = this.store,
      { space, run } = doc;
    if (this.likeliest?.n !== this.count)
      this.likeliest = { n: this.count, gates: Array.from(this.sceneOf(this.count - 1, null).order.slice(0, TOP)) };
    const gates = this.picked.length ? this.picked : this.likeliest.gates; // of the newest step: they stay while steps are replayed
    this.once("trace", this.traceRow, "traces", [rows.era, rows.n, gates], () => {
      const at = thin(rows.n, Math.max(16, Math.min(CURVE_POINTS, Math.round(2e6 / space.n.length)))),
        x = rows.column("step", at).map((v) => v + 1);
      const lines = gates.map((gate, k) => ({
        gate,
        name: this.label(gate),
        x,
        y: new Float64Array(at.length),
        colour: CATEGORICAL[k % CATEGORICAL.length],
        dash: k >= CATEGORICAL.length ? "5 3" : null,
      }));
      at.forEach((r, j) => {
        const { alpha } = rows.alpha(r, space.n.length),
          zeta = rows.scalar(r, "zeta");
        for (const line of lines) line.y[j] = expit((alpha[line.gate] - zeta) / run.tau);
      });
      this.traces.draw(lines, {
        title: this.picked.length ? "p of the picked gates" : "p of the likeliest gates",
        note: this.picked.length ? "as recorded" : "as recorded; click cells to pick others",
        zero: true,
        height: 210,
        legend: lines.length <= 4,
        pick: (line, event) => this.pick(line.gate, event),
      });
    });
    this.traces.mark(this.row === null ? NaN : scene.step + 1);
    const one = this.picked[this.picked.length - 1] ?? gates[0];
    this.once("trace", this.traceRow, "facts", [one, scene.step, scene.budget, rows.n, this.picked.length], () => {
      const words = this.gateWords(one),
        effect = doc.effects?.find((e) => e.gate === one);
      const facts = [
        ["gate", words[0]],
        ["position", words[1]],
        [
          "PET type",
          [space.type[one], ...Object.entries(JSON.parse(space.options[one])).map(([name, value]) => `${name} = ${value}`)].join(", "),
        ],
        ["parameters", `${words[2]} (${say((100 * space.n[one]) / scene.budget, 3)} % of the budget)`],
        ["now", words.slice(3).join("; ")],
        ...(effect ? [["loss without it", `${effect.increase >= 0 ? "+" : ""}${say(effect.increase)} ± ${say(effect.se, 2)}`]] : []),
      ];
      this.facts.replaceChildren(
        h(
          "table",
          {},
          h(
            "tbody",
            {},
            facts.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value))),
          ),
        ),
      );
    });
  }

  drawSums(scene, shown) {
    const { space } = this.store.doc;
    this.sumsRow.hidden = !this.parts.has("sums");
    if (this.sumsRow.hidden) return;
    const keys = [(g) => space.columns[space.col[g]], (g) => space.module[g], (g) => space.type[g]];
    this.sums.forEach((chart, k) => {
      const groups = new Map();
      space.n.forEach((size, g) => {
        if (!shown[g]) return;
        const key = keys[k](g),
          one = groups.get(key) ?? groups.set(key, { name: key, values: [0, 0], gates: [] }).get(key);
        one.values[0] += scene.p[g] * size;
        if (scene.chosen[g]) one.values[1] += size;
        one.gates.push(g);
      });
      const order = k ? [...groups.keys()] : space.columns.filter((c) => groups.has(c));
      const rows = order.map((key) => ({ ...groups.get(key), strong: groups.get(key).gates.some((g) => this.picked.includes(g)) }));
      chart.draw(rows, {
        title: `By ${["layer", "module", "PET type"][k]}`,
        names: ["expected", "chosen"],
        xLabel: "parameters",
        pick: (bar, event) =>
          this.pick(
            bar.gates.filter((g) => scene.chosen[g]),
            event,
          ),
      });
    });
  }

  /** Which gates enter as the budget grows. */
  drawPath(scene) {
    const { space } = this.store.doc;
    this.once("path", this.path.el, "path", [scene.step, this.picked, scene.budget], () => {
      const budgets = budgetSteps(space.n, PATH_POINTS),
        { pinned = 0 } = this.store.doc.run,
        enters = entries(scene.order, space.n, budgets).enters.map((budget) => budget + pinned);
      const first = Array.from(space.n, (_, g) => g)
        .filter((g) => Number.isFinite(enters[g]))
        .sort((a, b) => enters[a] - enters[b] || scene.rank[a] - scene.rank[b]);
      const rows = first.slice(0, PATH_GATES).map((gate) => ({
        name: this.label(gate),
        values: [Math.log10(enters[gate])],
        gate,
        strong: this.picked.includes(gate),
        colour: scene.chosen[gate] ? CATEGORICAL[0] : this.map.ink.muted,
      }));
      this.path.draw(rows, {
        title: "Gates in the order in which they enter as the budget grows",
        note: first.length > PATH_GATES ? `the first ${PATH_GATES} of ${say(first.length)}; blue: chosen now` : "blue: chosen now",
        names: ["enters at a budget of"],
        xLabel: "parameters, log scale",
        log: true,
        pick: (row, event) => this.pick(row.gate, event),
      });
    });
  }

  /** What `s3.explain` measured, where it did. */
  drawWorth() {
    const { effects } = this.store.doc;
    this.once("worth", this.worth.el, "worth", [this.picked, Boolean(effects)], () => {
      this.worth.el.hidden = !effects;
      if (!effects) return;
      const rows = [...effects]
        .sort((a, b) => b.increase - a.increase)
        .map((e) => ({ name: this.label(e.gate), values: [e.increase], error: e.se, gate: e.gate, strong: this.picked.includes(e.gate) }));
      this.worth.draw(rows, {
        title: "How much the loss rises without each gate",
        note: "± one standard error",
        names: ["loss increase"],
        xLabel: "loss",
        pick: (row, event) => this.pick(row.gate, event),
      });
    });
  }

  // -- the structure by hand -----------------------------------------------------------------------------

  /** A gate as a structure has it. Those that were pinned are numbered after the searched ones: in, then out. */
  gateOf(g) {
    const { space } = this.store.doc,
      n = space.n.length;
    if (g >= n) return space.pinned.gates[g - n];
    return {
      index: g,
      position: space.position[g],
      stack: space.stack[g],
      layer: space.layer[g],
      module: space.module[g],
      pet_type: space.type[g],
      n_params: space.n[g],
      options: JSON.parse(space.options[g]),
      ...(space.unit?.[g] >= 0 ? { unit: space.unit[g] } : {}),
    };
  }

  /** The gates that the scene chose, those pinned in with them. */
  chosenOf(scene) {
    const { space } = this.store.doc,
      n = space.n.length;
    return [
      ...Array.from(scene.chosen, (c, g) => (c ? g : -1)).filter((g) => g >= 0),
      ...Array.from({ length: space.pinned?.inside ?? 0 }, (_, k) => n + k),
    ];
  }

  /** Begin with what is chosen now; null: end, and forget it. */
  toggleEdit(on) {
    const { scene } = this;
    if (!on || !scene) this.edit = null;
    else {
      const base = this.chosenOf(scene);
      this.edit = { base, gates: new Set(base), budget: scene.budget, own: scene.own, step: scene.step, last: this.row === null };
    }
    this.tellEdit();
  }

  /** A click puts a gate in, or takes it out; of units the next one, with Shift one out, and all out after the last. */
  editGate(asked, event) {
    const { gates } = this.edit,
      { order } = this.scene,
      units = Array.isArray(asked) ? Array.from(order).filter((g) => asked.includes(g)) : [asked],
      inside = units.filter((g) => gates.has(g)),
      next = units.find((g) => !gates.has(g));
    if (event?.shiftKey && inside.length) gates.delete(inside[inside.length - 1]);
    else if (next !== undefined && !event?.shiftKey) gates.add(next);
    else if (next === undefined) inside.forEach((g) => gates.delete(g));
    this.tellEdit();
  }

  tellEdit() {
    const { edit } = this;
    const told = edit && {
      gates: [...edit.gates].sort((a, b) => a - b),
      budget: edit.own ? null : edit.budget,
      step: edit.last ? null : edit.step,
    };
    this.model.set("edit", told);
    this.model.save_changes?.();
    this.queue();
  }

  /** The structure by hand as a view's state has it: gates by name, the others as `tellEdit`. */
  sharedEdit() {
    const { edit } = this,
      names = edit && namesOf(this.store.doc);
    return edit && { gates: [...edit.gates].sort((a, b) => a - b).map((g) => names[g]), budget: edit.own ? null : edit.budget, step: edit.last ? null : edit.step };
  }

  openEdit(asked, box) {
    box.checked = Boolean(asked);
    this.edit = null;
    if (asked) {
      const { rows } = this.store,
        last = asked.step === null || !rows.n || asked.step > rows.scalar(rows.n - 1, "step"),
        scene = this.sceneOf(last ? this.count - 1 : rows.rowOf(asked.step), asked.budget),
        gates = new Set(placesOf(this.store.doc, asked.gates));
      this.edit = { base: this.chosenOf(scene), gates, budget: scene.budget, own: scene.own, step: scene.step, last: asked.step === null };
    }
    this.tellEdit();
  }

  /** The scene with the edited choice in the place of the found one. */
  edited(scene) {
    const { edit } = this,
      chosen = Uint8Array.from(scene.chosen, (_, g) => (edit.gates.has(g) ? 1 : 0)),
      used = [...edit.gates].reduce((sum, g) => sum + this.gateOf(g).n_params, 0);
    return {
      ...scene,
      chosen,
      used,
      added: [...edit.gates].filter((g) => !edit.base.includes(g)),
      removed: edit.base.filter((g) => !edit.gates.has(g)),
    };
  }

  editWords(scene) {
    const over = scene.used - this.edit.budget,
      changes = `${scene.added.length} put in, ${scene.removed.length} taken out by hand`;
    const room = over > 0 ? `${say(over)} OVER THE BUDGET: take gates out` : `${say(-over)} left`;
    return `editing · ${changes} · ${say(scene.used)} of ${say(this.edit.budget)} parameters used, ${room}`;
  }

  /** What the structure's source says of the changes, as `Structure.edit` says it. */
  editsOf(scene) {
    const name = (g) => {
      const { position, pet_type: type, unit } = this.gateOf(g);
      return `${position} ${type}${unit === undefined ? "" : `.${unit}`}`;
    };
    const [added, removed] = [scene.added ?? [], scene.removed ?? []].map((gates) => gates.map(name));
    return added.length || removed.length ? { edits: [{ by: "hand", added, removed }] } : {};
  }

  // -- sharing -----------------------------------------------------------------------------------------

  /** What is looked at, as JSON: `view.share()` in Python. */
  share() {
    const { doc } = this.store,
      made = { version: STATE, kind: doc.kind, of: doc.of };
    for (const name of fieldsOf(doc)) if (this.fields[name]) made[name] = this.fields[name].get();
    return made;
  }

  /** Open what a link says, `fromLink`: now, or as soon as the history is there. */
  open({ problem = "", states = new Map() }) {
    const id = this.store.doc?.id;
    if (problem || states.has(id)) this.linkSaid = problem;
    if (states.has(id)) {
      this.wanted = states.get(id);
      this.el.scrollIntoView({ block: "nearest" });
    }
    this.queue();
  }

  /** Show the state that was asked for, whole or not at all. last: the newest step, from 0. */
  settle(last) {
    const { wanted } = this;
    if (!wanted) return;
    this.wanted = null;
    const problem = problemOf(wanted, this.store.doc, last);
    this.linkSaid = problem && `this view was not opened as the link says; ${problem}`;
    if (!problem && this.playing) this.togglePlay();
    if (!problem)
      for (const name of fieldsOf(this.store.doc)) if (Object.hasOwn(wanted, name)) this.fields[name]?.set(wanted[name]);
    this.colour();
    this.status();
  }

  /** Tell the kernel what is looked at, once it rests; it need not answer, and it may be busy. A message of its own: as
   * a change of the model it would hold back the selection, which waits until the kernel is done with the change before. */
  tellView() {
    if (this.wanted || !this.scene || this.model.get("standing")) return;
    const text = JSON.stringify(this.share());
    if (this.told === undefined) this.told = text; // as it opened
    clearTimeout(this.telling);
    if (text === this.told) return;
    this.telling = setTimeout(() => {
      this.told = text;
      this.model.send({ kind: "view", view: JSON.parse(text) });
    }, TELL);
  }

  /** The caption of the heatmap in a paper, as figures.caption; and what else this drawing of it shows. */
  caption(heat = this.map) {
    const { scene } = this,
      { doc, live } = this.store,
      source = doc.structure?.source ?? {},
      { pinned } = doc.space;
    const text = captionOf({
      ...Object.fromEntries(["task", "mode", "seed"].map((name) => [name, source[name]])),
      backbone: doc.structure?.backbone,
      chosen: scene.chosen.reduce((a, c) => a + (c > 0), 0),
      gates: doc.space.n.length,
      pinned: pinned?.inside ?? 0,
      used: scene.used,
      budget: scene.own && !doc.run.named ? null : scene.budget,
      backbone_params: doc.run.backbone_params,
      step: scene.step + 1,
      steps: live.steps_total,
    });
    const edits = this.edit && `Edited by hand: ${scene.added.length} put in, ${scene.removed.length} taken out`;
    return this.captionWith(text, [edits], heat, this.textsOf(scene).words);
  }

  /** A caption, and what else is seen in a drawing: filters, and what stands in its cells. */
  captionWith(text, first, heat, inCells) {
    const { how } = this,
      only = ["stack", "type", "module"].filter((name) => how[name]).map((name) => `${name === "type" ? "PET type" : name} ${how[name]}`);
    const more = [
      ...first,
      only.length && `Only gates of ${only.join(", ")} are drawn`,
      how.hidePale && `Rows in which every p is below ${PALE} are left out`,
      !heat.textless && inCells.replace(/^./, (letter) => letter.toUpperCase()),
    ];
    return [text, ...more.filter(Boolean).map((words) => `${words}.`)].join(" ");
  }

  /** Buttons that save a heatmap for a paper. captionOf(sheet): the caption of a drawing. */
  paperButtons(map, captionOf) {
    for (const mm of PAPER_MM) {
      const title = `Save this picture for a paper: SVG, ${mm} mm wide, light colours; its caption is copied`;
      map.tools.append(h("button", { type: "button", title, onclick: () => this.forPaper(mm, map, captionOf) }, `${mm} mm`));
    }
  }

  async forPaper(mm, map, captionOf) {
    let caption;
    const drawing = map.paper(mm, (sheet) => (caption = captionOf(sheet)));
    download(`s3pet-${map.name}-${mm}mm.svg`, new Blob([drawing], { type: "image/svg+xml" }));
    this.clipboard = caption;
    this.say(`${(await toClipboard(caption)) ? "its caption was copied" : "its caption"}: ${caption}`);
  }

  async copy(kind) {
    const { doc } = this.store;
    let text;
    if (kind === "view") text = JSON.stringify(this.share(), null, 1);
    else if (kind === "link") {
      const link = linkOf({ [doc.id]: this.share() });
      try {
        history.replaceState(null, "", link); // the address says it too
      } catch {
        location.hash = link; // where a page may not write its history
      }
      text = location.href;
    } else text = this.captions[kind] ? this.captions[kind]() : this.textsToCopy()[kind];
    this.clipboard = text;
    this.say((await toClipboard(text)) ? "copied" : "the browser refused the clipboard");
    this.copyBox.lastChild.value = "";
  }

  /** Of a run, what can be pasted elsewhere. */
  textsToCopy() {
    const { scene, store } = this,
      { space, run, code } = store.doc,
      chosen = (this.edit ? [...this.edit.gates].sort((a, b) => a - b) : this.chosenOf(scene)).map((g) => this.gateOf(g));
    const at = `${this.budget === null ? "" : `budget=${this.budget}`}${this.row === null ? "" : `${this.budget === null ? "" : ", "}step=${scene.step}`}`;
    const loras = chosen.filter((gate) => gate.pet_type === "LoRA"),
      option = (gate, name, other) => gate.options[name] ?? other;
    // Units of one position are one LoRA whose rank is their number, at the scale of each.
    const units = (gate) => loras.filter((other) => other.position === gate.position).length;
    const lora = loras.filter((gate, k) => loras.findIndex((other) => other.position === gate.position) === k);
    const ranks = lora.map((gate) => option(gate, "r", 1) * units(gate)),
      scales = lora.map((gate) => option(gate, "lora_alpha", 16) * units(gate));
    const pattern = (values) =>
      `{${lora
        .map((gate, k) => [gate, values[k]])
        .filter(([, v]) => v !== values[0])
        .map(([gate, v]) => `${JSON.stringify(`^${gate.position.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`)}: ${v}`)
        .join(", ")}}`;
    return {
      code: `import s3pet_viz as s3\n\nrun = ${code}\nstructure = run.structure(${at})\n`,
      json: JSON.stringify(
        {
          ...store.doc.structure,
          budget: !this.edit ? scene.budget : scene.used > this.edit.budget ? null : this.edit.budget,
          n_params: scene.used,
          source: { ...store.doc.structure?.source, run: run.name, step: this.edit?.step ?? scene.step, ...this.editsOf(scene) },
          gates: chosen,
        },
        null,
        1,
      ),
      lora: lora.length
        ? `from peft import LoraConfig\n\n# ${loras.length} LoRA gates of ${chosen.length} chosen${loras.length < chosen.length ? "; s3.to_peft says what PEFT can hold of the others" : ""}\nconfig = LoraConfig(\n    r=${ranks[0]}, lora_alpha=${scales[0]},\n    target_modules=[\n${lora.map((gate) => `        ${JSON.stringify(gate.position)},`).join("\n")}\n    ],\n    rank_pattern=${pattern(ranks)}, alpha_pattern=${pattern(scales)},\n)\n`
        : "# no LoRA gate is chosen\n",
      picks: JSON.stringify(
        this.picked.map((g) => [space.position[g], `${space.type[g]}${space.unit?.[g] >= 0 ? `.${space.unit[g]}` : ""}`]),
      ),
    };
  }
}

/** Set text only where it changes: a screen reader reads a status again whenever it is written. */
function put(node, words) {
  if (node.textContent !== words) node.textContent = words;
}

async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const box = h("textarea", { ".value": text, style: "position:fixed;opacity:0" });
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    return done;
  }
}
