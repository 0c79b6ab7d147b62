// The heatmap: rows = module and PET type, columns = layers. Cells on a canvas, all else in SVG.

/** Units of one position share a cell: of each gate the first in its cell, itself where it has one of its own. */
const leads = new WeakMap();
function leadsOf(space) {
  if (!leads.has(space)) {
    const first = new Map();
    const leadOf = (row, gate) => {
      if (!(space.unit?.[gate] >= 0)) return gate;
      const cell = row * space.columns.length + space.col[gate];
      return first.get(cell) ?? first.set(cell, gate).get(cell);
    };
    leads.set(space, Int32Array.from(space.row, leadOf));
  }
  return leads.get(space);
}

/** What cells show, at the first gate of each: the sum of the values over its units (of p: the expected rank), how many
 *  are chosen (the rank), how many there are, and the state; elsewhere NaN and 0. most: units of a cell, at most. */
export function cellsOf(space, values, state = []) {
  const lead = leadsOf(space),
    n = lead.length,
    made = { values: new Float64Array(n).fill(NaN), state: new Uint8Array(n), ranks: new Int32Array(n), units: new Int32Array(n), most: 1 };
  lead.forEach((at, gate) => {
    if (!Number.isNaN(values[gate])) made.values[at] = (Number.isNaN(made.values[at]) ? 0 : made.values[at]) + values[gate];
    made.units[at] += 1;
    if (state[gate]) made.ranks[at] += 1;
    if (state[gate] && made.state[at] !== 1) made.state[at] = state[gate];
    made.most = Math.max(made.most, made.units[at]);
  });
  // Units that were pinned in stand in the same cell, and are part of its rank.
  const { pinned } = space;
  for (let i = 0; state.length && i < (pinned?.inside ?? 0); i++) {
    const at = pinned.gates[i].unit === undefined ? -1 : lead.find((g) => space.row[g] === pinned.row[i] && space.col[g] === pinned.col[i]);
    if (at >= 0) {
      made.units[at] += 1;
      made.ranks[at] += 1;
      if (!Number.isNaN(made.values[at])) made.values[at] += 1;
      made.most = Math.max(made.most, made.units[at]);
    }
  }
  return made;
}

/** Rows to draw, top to bottom: {label, gates: one a column or -1} or {head, label, of: rows below}.
 *  p: of each gate of the space, NaN where unknown. how: {sort, group, hidePale, keep(gate), keepApart(gates, i)}; of
 *  rows also inert and pinned: by column, the gates that were not searched, because they cannot help or by hand. */
export function arrange(space, p, { sort = "order", group = "none", hidePale = false, keep = () => true, keepApart = () => true } = {}) {
  const lead = leadsOf(space);
  p = cellsOf(space, p).values;
  const rows = space.rows.map((label) => ({
    label,
    gates: new Int32Array(space.columns.length).fill(-1),
    inert: new Map(),
    pinned: new Map(),
    key: "",
  }));
  for (let i = 0; i < space.row.length; i++) {
    const row = rows[space.row[i]];
    if (keep(i) && lead[i] === i) row.gates[space.col[i]] = i;
    row.key = group === "module" ? space.module[i] : group === "type" ? space.type[i] : "";
  }
  for (const kind of ["inert", "pinned"])
    space[kind]?.row.forEach((at, i) => {
      const apart = space[kind];
      if (keepApart(apart, i)) rows[at][kind].set(apart.col[i], i);
      rows[at].key = group === "module" ? apart.module[i] : group === "type" ? apart.type[i] : "";
    });
  const filled = rows.filter((row) => row.inert.size || row.pinned.size || row.gates.some((g) => g >= 0));
  const sum = (row, of) => row.gates.reduce((a, g) => a + (g >= 0 ? of(g) || 0 : 0), 0);
  const shown = filled.filter((row) => !hidePale || !row.gates.every((g) => g < 0 || !(p[g] >= PALE)));
  let order = shown.map((_, i) => i);
  if (sort === "p") order.sort((a, b) => sum(shown[b], (g) => p[g]) - sum(shown[a], (g) => p[g]) || a - b);
  if (sort === "params") order.sort((a, b) => sum(shown[b], (g) => p[g] * space.n[g]) - sum(shown[a], (g) => p[g] * space.n[g]) || a - b);
  if (sort === "likeness") order = likeness(shown.map((row) => Array.from(row.gates, (g) => (g >= 0 ? p[g] : NaN))));
  const sorted = order.map((i) => shown[i]),
    made = [];
  for (const key of new Set(sorted.map((row) => row.key))) {
    const mine = sorted.filter((row) => row.key === key);
    if (key) made.push({ head: true, label: key, of: mine });
    made.push(...mine);
  }
  return { rows: made, pale: filled.length - shown.length };
}

/** A row is pale throughout where no gate is likelier than this. */
export const PALE = 0.05;
/** Widths of a paper's column and of its page. */
const PAPER_MM = [84, 178];
/** px of a text in a cell that can still be read. */
const LEAST_TEXT = 6.5;
/** Below these px a shorter text is taken, where there is one. */
const EASY_TEXT = 9;

/** The font size, in px, at which the longest text fits a cell; 0 where it could not be read. */
export function fitOf(textOf, values, width, height) {
  const longest = Array.from(values, (value, gate) => (Number.isNaN(value) ? 0 : textOf(gate).length)).reduce((a, b) => Math.max(a, b), 0);
  const size = Math.min(11, height, (width - 4) / (0.58 * longest || 1));
  return size < LEAST_TEXT ? 0 : size;
}
let gradients = 0;

const round = (x) => Math.round(x * 100) / 100;
const pathOf = (x, y, w, h) => `M${round(x)} ${round(y)}h${round(w)}v${round(h)}h${round(-w)}z`;

export class Heat extends Picture {
  /** pick(gates, event), pickPinned(i), hover(gate) => lines, key(event) for keys that are not the heatmap's own. */
  constructor(name, about, { pick, hover, pickPinned }) {
    super(name, about);
    Object.assign(this, { focus: null });
    this.pick = (gate, event) => pick(this.#unitsAt(gate) ?? gate, event);
    this.hover = (gate) => this.#rankWords(gate) ?? hover(gate);
    this.svg.setAttribute("tabindex", "0");
    this.svg.addEventListener("keydown", (event) => this.#key(event));
    this.svg.addEventListener("mousemove", (event) => {
      const gate = this.#gateAt(event);
      this.svg.style.cursor = gate === undefined ? "" : "pointer";
      this.tip(this.#pinnedAt(event) ?? (gate === undefined ? (this.#inertAt(event) ?? this.#sumAt(event)) : this.hover(gate)), event);
    });
    this.svg.addEventListener("mouseleave", () => this.tip(null));
    this.svg.addEventListener("blur", () => this.#focusOn(null));
    this.svg.addEventListener("click", (event) => {
      const gate = this.#gateAt(event);
      if (gate !== undefined) return this.pick(gate, event);
      const i = this.#apartAt(event, "pinned")[2];
      if (i !== undefined) pickPinned?.(i);
    });
  }

  /** space; rows: from `arrange`; values: a gate each, NaN where nothing is drawn; state: 0, 1 chosen, 2 fills the rest;
   *  picks: [{gate, colour}]; scale, low, high: of the colours; sums: of rows and columns, weights for them;
   *  texts(gate): what stands in its cell, shorter(gate): where that is too long; noise: gates with a stroke across; held(i): whether the pinned gate i is in, where that was edited. */
  draw({
    space,
    rows,
    values,
    state,
    picks = [],
    title,
    note = "",
    scale = "seq",
    low = 0,
    high = 1,
    bar = "p",
    sums = null,
    legend = [],
    most = 420,
    counted = "gates expected",
    outlined = "chosen",
    texts = null,
    inertText = "",
    held = null,
    shorter = null,
    noise = [],
  }) {
    this.drawn = arguments[0];
    const cells = cellsOf(space, values, state);
    if (scale === "div" && high === 1) low = -cells.most;
    if (high === 1) high = cells.most; // a sum over units reaches their number
    if (bar === "p" && cells.most > 1) bar = "Σ p"; // the expected rank
    const hatched = rows.some((row) => row.inert?.size),
      named = inertText && hatched;
    let hatch = "none";
    const sides = new Set(rows.flatMap((row) => Array.from(row.pinned?.values() ?? [], (i) => i < space.pinned.inside)));
    for (const [inside, words] of [
      [true, "pinned in by hand"],
      [false, "pinned out by hand"],
    ])
      if (sides.has(inside)) legend = [...legend, { words, pin: inside }];
    if (hatched) legend = [...legend, { words: "left out: cannot help", colour: this.ink.muted, hatched }];
    ({ values, state } = cells);
    this.ofCells = cells;
    const width = Math.max(260, this.room),
      n = space.columns.length,
      stacks = new Set(space.columns.filter(Boolean).map((c) => c[0]));
    const left = Math.min(width * (this.wide ? 0.46 : 0.34), 12 + Math.max(20, ...rows.map((row) => (row.head ? 0 : widthOf(row.label)))));
    const side = sums ? Math.min(90, width * 0.1) : 0,
      right = 16 + side + (bar ? 50 : 0);
    const cw = (width - left - right) / n,
      up = cw < Math.max(...space.columns.map((c) => widthOf(c))) + 4;
    // Names of signs, in as many lines as they need.
    const needs = legend.map(({ words }) => widthOf(words) + 34),
      signs = [];
    const first = needs.some((need) => left + need - 17 > width) ? 8 : left;
    for (const need of needs) {
      const [x, line] = signs.length ? signs[signs.length - 1].next : [first, 0],
        at = x > first && x + need - 17 > width ? [first, line + 1] : [x, line];
      signs.push({ at, next: [at[0] + need, at[1]] });
    }
    const lines = signs.length ? signs[signs.length - 1].at[1] : 0;
    const over = (sums ? 34 : 0) + (stacks.size > 1 ? 18 : 4) + (legend.length ? 22 : 0) + 16 * lines;
    const under = up ? 8 + Math.max(...space.columns.map((c) => widthOf(c))) : 20;
    const rh = Math.max(rows.some((row) => row.head) ? 12 : 5, Math.min(21, Math.floor((most - over - under) / rows.length)));
    if (texts && shorter && fitOf(texts, values, cw, rh) < EASY_TEXT) texts = shorter;
    this.textless = texts ? !fitOf(texts, values, cw, rh) : Boolean(named) && Math.min(cw, rh) < 8;
    if (texts && this.textless) note = [note, "the cells are too narrow for text"].filter(Boolean).join("; ");
    const svg = this.start(title, over + Math.max(rh * rows.length + under, bar ? 70 : 0), note),
      ink = this.ink,
      theme = this.look();
    Object.assign(this, { geometry: { left, over, cw, rh, n }, space, list: rows, values, scene: { scale, low, high } });
    this.rowAt = new Int32Array(space.row.length).fill(-1); // where each gate is drawn, if it is
    this.columnAt = new Int32Array(space.row.length);
    rows.forEach((row, r) => {
      for (let c = 0; !row.head && c < n; c++) if (row.gates[c] >= 0) [this.rowAt[row.gates[c]], this.columnAt[row.gates[c]]] = [r, c];
    });
    const lead = leadsOf(space);
    this.#cells(theme);
    // Labels.
    const each = Math.max(1, Math.ceil(11 / cw));
    space.columns.forEach((name, c) => {
      if (!name || c % each) return;
      const x = left + (c + 0.5) * cw,
        y = over + rh * rows.length;
      if (up)
        this.text(x + 4, y + 5, name, { transform: `rotate(-90 ${x + 4} ${y + 5})`, "text-anchor": "end", "font-size": cw < 12 ? 9 : 11 });
      else this.text(x, y + 14, name, { "text-anchor": "middle" });
    });
    rows.forEach((row, r) => {
      const y = over + (r + 0.5) * rh + 4;
      if (row.head) {
        const gates = row.of.flatMap((one) => Array.from(one.gates).filter((g) => g >= 0));
        const total = (of) => gates.reduce((a, g) => a + (of(g) || 0), 0);
        const words = `${row.label}: ${say(
          total((g) => values[g]),
          3,
        )} of ${gates.reduce((a, g) => a + cells.units[g], 0)} ${counted}, ${say(Math.round(total((g) => values[g] * space.n[g])))} parameters; ${gates.reduce((a, g) => a + cells.ranks[g], 0)} ${outlined}`;
        this.text(8, y, clip(words, width - 20), { "font-weight": "bold", fill: ink.muted, class: "s3-group" });
      } else if (rh >= 9 || !(r % Math.ceil(10 / rh)))
        this.text(left - 6, y, clip(row.label, left - 8), { "text-anchor": "end", "font-size": Math.min(11, rh + 2) });
    });
    if (stacks.size > 1)
      for (const letter of stacks) {
        const mine = space.columns.map((c, i) => (c[0] === letter ? i : -1)).filter((i) => i >= 0);
        this.text(
          left + ((mine[0] + mine[mine.length - 1] + 1) / 2) * cw,
          over - (sums ? 38 : 5),
          { E: "encoder", D: "decoder" }[letter] ?? letter,
          { "text-anchor": "middle", "font-weight": "bold" },
        );
      }
    this.sums = null;
    if (sums) this.#margins(sums, width - right + 6, side);
    if (hatched) {
      const id = `s3-hatch-${(gradients += 1)}`;
      hatch = `url(#${id})`;
      const stroke = s("path", { d: "M0 0v5", stroke: ink.muted, "stroke-width": 1.2 });
      svg.append(
        s("defs", {}, s("pattern", { id, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, stroke)),
      );
      this.#hatch(hatch);
      if (named && Math.min(cw, rh) >= 8)
        this.list.forEach((row, r) =>
          row.inert?.forEach((_, c) => {
            const [x, y] = [left + (c + 0.5) * cw, over + (r + 0.5) * rh + 4];
            const look = { "text-anchor": "middle", "font-size": 11, "paint-order": "stroke", "stroke-width": 3, class: "s3-rank" };
            this.text(x, y, inertText, { ...look, stroke: ink.paper, fill: ink.ink });
          }),
        );
    }
    // What is chosen; what only fills the rest; what is picked.
    for (const [kind, dash] of [
      [1, null],
      [2, "3 2"],
    ]) {
      let d = "";
      state.forEach((one, gate) => {
        if (one === kind && this.#drawn(gate)) d += this.#box(gate, 0.75);
      });
      svg.append(
        s("path", {
          d,
          fill: "none",
          stroke: ink.outline,
          "stroke-width": cw < 6 ? 1 : 2,
          "stroke-dasharray": dash,
          class: kind === 1 ? "s3-chosen" : "s3-fill",
        }),
      );
    }
    const strokes = noise
      .filter((gate) => this.#drawn(gate))
      .map((gate) => `M${left + this.columnAt[gate] * cw + 2} ${over + (this.rowAt[gate] + 1) * rh - 2}l${cw - 4} ${4 - rh}`);
    if (strokes.length)
      svg.append(s("path", { d: strokes.join(""), stroke: ink.muted, "stroke-width": 1, fill: "none", class: "s3-noise", "pointer-events": "none" }));
    if (texts || cells.most > 1)
      this.#texts(texts ?? ((gate) => (cells.units[gate] > 1 && cells.ranks[gate] ? String(cells.ranks[gate]) : "")));
    this.held = held;
    this.#pins();
    const ringed = new Set();
    for (const { gate: picked, colour } of picks) {
      const gate = lead[picked];
      if (this.#drawn(gate) && !ringed.has(gate)) {
        ringed.add(gate);
        const [r, c] = [this.rowAt[gate], this.columnAt[gate]];
        svg.append(...ring(left + c * cw, over + r * rh, cw, rh, ink, colour));
      }
    }
    this.focusBox = s("g", {});
    svg.append(this.focusBox);
    this.#focusOn(this.focus);
    legend.forEach(({ words, dash, colour, hatched: filled, pin }, k) => {
      const [x, line] = signs[k].at,
        y = 4 + 16 * line;
      if (pin !== undefined) svg.append(...this.#pin(x + 6, y + 5, pin));
      else
        svg.append(
          s("rect", {
            x,
            y,
            width: 12,
            height: 10,
            fill: filled ? hatch : "none",
            stroke: colour ?? ink.outline,
            "stroke-width": filled ? 0.5 : 2,
            "stroke-dasharray": dash,
          }),
        );
      this.text(x + 17, y + 9, words);
    });
    if (bar) this.#bar(bar, width - 44, theme);
    this.table(() => [
      ["row", "column", "position", "parameters", bar || "value", outlined],
      ...Array.from(space.row, (_, g) => g)
        .filter((g) => this.#drawn(g))
        .map((g) => [
          space.rows[space.row[g]],
          space.columns[space.col[g]],
          space.position[g],
          space.n[g],
          values[g],
          cells.units[g] > 1 ? `rank ${cells.ranks[g]} of ${cells.units[g]}` : ["", outlined, "fills the rest"][state[g]],
        ]),
    ]);
  }

  /** The units that share a gate's cell; null where it has one of its own. */
  #unitsAt(gate) {
    if (!(this.ofCells?.units[gate] > 1)) return null;
    return Array.from(leadsOf(this.space), (lead, g) => (lead === gate ? g : -1)).filter((g) => g >= 0);
  }

  #rankWords(gate) {
    if (!(this.ofCells?.units[gate] > 1)) return null;
    const { space, ofCells } = this;
    return [
      `${space.columns[space.col[gate]]} ${space.rows[space.row[gate]]}`,
      space.position[gate],
      `${say(space.n[gate])} parameters for each rank`,
      `rank ${ofCells.ranks[gate]} of the ${ofCells.units[gate]} offered`,
      `sum over them ${say(ofCells.values[gate])}`,
    ];
  }

  #drawn(gate) {
    return this.rowAt?.[gate] >= 0;
  }

  /** The cells of gates that cannot help. */
  #hatch(fill) {
    const { left, over, cw, rh } = this.geometry;
    let d = "";
    this.list.forEach((row, r) =>
      row.inert?.forEach((_, c) => (d += pathOf(left + c * cw + 0.75, over + r * rh + 0.75, cw - 1.5, rh - 1.5))),
    );
    this.svg.append(s("path", { d, fill, stroke: this.ink.muted, "stroke-width": 0.5, class: "s3-inert" }));
  }

  /** The mark of a pinned gate: a square on one that is in, a cross on one that is out. */
  #pin(x, y, inside) {
    const r = Math.min(3.5, this.geometry.cw / 3, this.geometry.rh / 3),
      d = inside ? pathOf(x - r, y - r, 2 * r, 2 * r) : `M${x - r} ${y - r}l${2 * r} ${2 * r}m0 ${-2 * r}l${-2 * r} ${2 * r}`,
      { ink, paper } = this.ink;
    return [
      s("path", { d, fill: "none", stroke: paper, "stroke-width": 4 }),
      s("path", { d, fill: inside ? ink : "none", stroke: ink, "stroke-width": 1.5, class: inside ? "s3-pin-in" : "s3-pin-out" }),
    ];
  }

  /** Text in cells, as large as the longest fits; none where that is too small to read. */
  #texts(textOf) {
    const { left, over, cw, rh } = this.geometry,
      { ink, paper } = this.ink,
      said = Array.from(this.values, (_, gate) => (this.#drawn(gate) ? textOf(gate) : "")),
      size = fitOf(textOf, this.values, cw, rh);
    if (!size) return;
    said.forEach((words, gate) => {
      if (!words) return;
      const [x, y] = [left + (this.columnAt[gate] + 0.5) * cw, over + (this.rowAt[gate] + 0.5) * rh + 0.34 * size];
      const look = { "text-anchor": "middle", "font-size": size, "paint-order": "stroke", "stroke-width": 3, class: "s3-rank" };
      this.text(x, y, words, { ...look, stroke: paper, fill: ink });
    });
  }

  #pins() {
    const { left, over, cw, rh } = this.geometry;
    this.list.forEach((row, r) =>
      row.pinned?.forEach((i, c) => {
        const inside = this.held?.(i) ?? i < this.space.pinned.inside;
        this.svg.append(...this.#pin(left + (c + 0.5) * cw, over + (r + 0.5) * rh, inside));
      }),
    );
  }

  #apartAt(event, kind) {
    if (!this.geometry) return [];
    const { left, over, cw, rh } = this.geometry,
      box = this.svg.getBoundingClientRect(),
      column = Math.floor((event.clientX - box.left - left) / cw);
    const row = this.list[Math.floor((event.clientY - box.top - over) / rh)];
    return [row, column, row?.[kind]?.get(column)];
  }

  /** What is said of a gate that was pinned, where the pointer is on one. */
  #pinnedAt(event) {
    const i = this.#apartAt(event, "pinned")[2];
    if (i === undefined) return null;
    const { pinned } = this.space;
    const side = i < pinned.inside ? "in: it is in the structure" : "out of the structure";
    const alike = pinned.position.filter(
      (name, k) => name === pinned.position[i] && k < pinned.inside === i < pinned.inside && pinned.type[k] === pinned.type[i],
    ).length;
    const facts = [pinned.label[i], pinned.position[i], `${say(pinned.n[i])} parameters`];
    if (alike === 1) return [...facts, `pinned ${side}; nothing was searched here`];
    const gate = Array.from(leadsOf(this.space)).find((g) => this.space.row[g] === pinned.row[i] && this.space.col[g] === pinned.col[i]);
    const whole = gate === undefined ? [] : (this.#rankWords(gate) ?? []).slice(3);
    return [...facts, `and ${alike - 1} units more at this position, pinned ${side}`, ...whole];
  }

  /** What is said of a gate that cannot help, where the pointer is on one. */
  #inertAt(event) {
    const [row, column, i] = this.#apartAt(event, "inert");
    if (i === undefined) return null;
    return [
      `${this.space.columns[column]} ${row.label}`,
      this.space.inert.position[i],
      "left out: whatever its weights are, the output is the same",
    ];
  }

  /** The box of a gate's cell, so much smaller. */
  #box(gate, inset) {
    const { left, over, cw, rh } = this.geometry,
      gap = cw > 4 ? inset : 0;
    return pathOf(left + this.columnAt[gate] * cw + gap, over + this.rowAt[gate] * rh + gap, cw - 2 * gap, rh - 2 * gap);
  }

  /** Gates to draw by their colour: one list for each of the 256. */
  #coloured() {
    const { low, high } = this.scene,
      lists = Array.from({ length: 256 }, () => []);
    this.values.forEach((value, gate) => {
      if (!Number.isNaN(value) && this.#drawn(gate)) lists[levelOf((value - low) / (high - low || 1))].push(gate);
    });
    return lists;
  }

  #cells(theme) {
    const ratio = globalThis.devicePixelRatio || 1,
      { canvas, width, height } = this,
      { left, over, cw, rh } = this.geometry,
      gap = cw > 4 ? 0.5 : 0,
      pen = canvas.getContext("2d");
    const [w, h] = [width, height].map((size) => Math.floor(size * ratio));
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    canvas.style.cssText = `width:${width}px;height:${height}px`;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width + 1, height + 1);
    this.#coloured().forEach((gates, level) => {
      if (gates.length) pen.fillStyle = colourAt(theme, this.scene.scale, level);
      for (const gate of gates)
        pen.fillRect(left + this.columnAt[gate] * cw + gap, over + this.rowAt[gate] * rh + gap, cw - 2 * gap, rh - 2 * gap);
    });
  }

  /** The picture as it was drawn last, at a width in mm, in light colours and without its heading: an SVG file for a
   *  paper, whose caption, captionOf(sheet), is its description. */
  paper(mm, captionOf) {
    const sheet = new Heat(this.name, { look: () => "light", tip() {} }, { pick() {}, hover: () => [] });
    sheet.wide = Math.round((mm * 96) / 25.4);
    sheet.draw(mm < 120 ? { ...this.drawn, sums: null } : this.drawn); // a column has no room for bars beside the rows
    return sheet.source({ mm, caption: captionOf(sheet) });
  }

  source(paper = null) {
    const theme = this.look();
    this.cells = this.#coloured().flatMap((gates, level) =>
      gates.map((gate) => ({ d: this.#box(gate, 0.5), fill: colourAt(theme, this.scene.scale, level) })),
    );
    return super.source(paper);
  }

  /** Sums of rows at the right, of columns on top. */
  #margins({ weights, words }, x0, side) {
    const { left, over, cw, rh, n } = this.geometry,
      ink = this.ink,
      colour = CATEGORICAL[0];
    const rows = new Float64Array(this.list.length),
      columns = new Float64Array(n);
    this.values.forEach((value, gate) => {
      if (!(value > 0) || !this.#drawn(gate)) return;
      rows[this.rowAt[gate]] += value * weights[gate];
      columns[this.columnAt[gate]] += value * weights[gate];
    });
    this.sums = { rows, columns, words, x0 };
    const [most, top] = [rows, columns].map((list) => list.reduce((a, b) => Math.max(a, b), 0) || 1);
    const boxes = (list, box) => list.reduce((d, sum, i) => (sum ? d + pathOf(...box(sum, i)) : d), "");
    const bars = (d, name) => this.svg.append(s("path", { d, fill: colour, opacity: 0.75, class: name }));
    bars(
      boxes(Array.from(rows), (sum, r) => [x0, over + r * rh + rh * 0.2, (sum / most) * (side - 4), rh * 0.6]),
      "s3-row-sums",
    );
    bars(
      boxes(Array.from(columns), (sum, c) => [left + c * cw + cw * 0.2, over - 3 - (sum / top) * 28, cw * 0.6, (sum / top) * 28]),
      "s3-column-sums",
    );
    this.text(x0, over - 4, "sums", { fill: ink.muted, "font-size": 10 });
  }

  #bar(words, x, theme) {
    const { over, rh } = this.geometry,
      height = Math.max(60, rh * this.list.length),
      id = `s3-gradient-${(gradients += 1)}`;
    const { scale, low, high } = this.scene;
    this.svg.append(
      s(
        "defs",
        {},
        s(
          "linearGradient",
          { id, x1: 0, y1: 1, x2: 0, y2: 0 },
          Array.from({ length: 11 }, (_, i) => s("stop", { offset: i / 10, "stop-color": colourOf(theme, scale, i / 10) })),
        ),
      ),
      s("rect", { x, y: over, width: 10, height, fill: `url(#${id})` }),
    );
    for (const v of ticks(low, high, 4))
      this.text(x + 14, over + height * (1 - (v - low) / (high - low || 1)) + 4, say(v, 3), { "font-size": 10 });
    this.text(x + 5, over - 10, words, { "text-anchor": "middle" });
  }

  /** What the bar says that the pointer is on. */
  #sumAt(event) {
    if (!this.sums) return null;
    const { left, over, cw, rh, n } = this.geometry,
      { rows, columns, words, x0 } = this.sums,
      box = this.svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top],
      [r, c] = [Math.floor((y - over) / rh), Math.floor((x - left) / cw)];
    if (x >= x0 && this.list[r] && !this.list[r].head) return [`${this.list[r].label}: ${say(rows[r])} ${words}`];
    if (y < over && y > over - 34 && c >= 0 && c < n && columns[c]) return [`${this.space.columns[c]}: ${say(columns[c])} ${words}`];
    return null;
  }

  #gateAt(event) {
    if (!this.geometry) return undefined;
    const { left, over, cw, rh } = this.geometry,
      box = this.svg.getBoundingClientRect();
    const row = this.list[Math.floor((event.clientY - box.top - over) / rh)],
      gate = row?.gates?.[Math.floor((event.clientX - box.left - left) / cw)];
    return gate >= 0 && !Number.isNaN(this.values[gate]) ? gate : undefined;
  }

  #focusOn(gate) {
    this.focus = gate;
    if (!this.focusBox) return;
    this.focusBox.replaceChildren();
    if (gate === null || !this.#drawn(gate)) return this.tip(null);
    const [r, c] = [this.rowAt[gate], this.columnAt[gate]],
      { left, over, cw, rh } = this.geometry;
    this.focusBox.append(...ring(left + c * cw, over + r * rh, cw, rh, this.ink, this.ink.outline));
    const box = this.svg.getBoundingClientRect();
    this.tip(this.hover(gate), { clientX: box.left + left + (c + 1) * cw, clientY: box.top + over + (r + 1) * rh });
    this.svg.setAttribute("aria-label", this.hover(gate).join(", "));
  }

  /** Arrows go from cell to cell, Enter picks. */
  #key(event) {
    const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Enter" && this.focus !== null) this.pick(this.focus, event);
    else if (way && this.list) {
      const from = this.focus !== null && this.#drawn(this.focus);
      let [r, c] = from
        ? [this.rowAt[this.focus], this.columnAt[this.focus]]
        : [way[0] < 0 ? this.list.length : -1, way[1] < 0 ? this.geometry.n : -1];
      if (!from) [r, c] = way[0] ? [r, 0] : [0, c];
      for (let hop = 0; hop < this.list.length + this.geometry.n; hop++) {
        r += way[0];
        c += way[1];
        if (r < 0 || c < 0 || r >= this.list.length || c >= this.geometry.n) break;
        const gate = this.list[r].gates?.[c] ?? -1;
        if (gate >= 0) {
          this.#focusOn(gate);
          break;
        }
      }
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
