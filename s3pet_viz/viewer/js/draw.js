// Drawing: SVG, and a canvas for the cells of heatmaps. Every picture is drawn at once, from data that are there, at the
// width that it has: nothing is loaded, nothing waits. A picture can be saved as SVG, PNG and CSV, and has a table.

const NS = "http://www.w3.org/2000/svg";
export const CATEGORICAL = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7a5195", "#a89a00"];
const SCALES = {
  light: {
    seq: ["#e6eef7", "#bdd3e9", "#86b3d9", "#4a8cc2", "#1f5f9f", "#08306b"],
    div: ["#7f3b08", "#e08214", "#f4f1ec", "#4a8cc2", "#08306b"],
  },
  dark: {
    seq: ["#22303d", "#244d70", "#2f74a8", "#5b9fd3", "#a3cbec", "#eaf4fd"],
    div: ["#ffb166", "#b5651d", "#2b3138", "#3f7fb5", "#a3cbec"],
  },
};
//: Ink, muted, grid lines, paper, and the outline, which is seen on every colour of the scales beside it.
export const INKS = {
  light: { ink: "#1f2933", muted: "#5f6c78", grid: "#e3e8ed", paper: "#ffffff", outline: "#f26b1d" },
  dark: { ink: "#e6e9ed", muted: "#9aa5b1", grid: "#3a434d", paper: "#111111", outline: "#ff8c42" },
};

/** The colours of the page: what `theme` says, else JupyterLab's, VS Code's or the system's. */
function themeOf(wanted) {
  if (wanted === "light" || wanted === "dark") return wanted;
  const { jpThemeLight } = document.body.dataset;
  if (jpThemeLight) return jpThemeLight === "false" ? "dark" : "light";
  const kind = document.body.dataset.vscodeThemeKind ?? "";
  if (kind) return kind.includes("dark") ? "dark" : "light";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** An HTML element; props are attributes, `on...` listeners, or properties that begin with a dot. */
export function h(tag, props = {}, ...kids) {
  return fill(document.createElement(tag), props, kids);
}

export function s(tag, props = {}, ...kids) {
  return fill(document.createElementNS(NS, tag), props, kids);
}

function fill(node, props, kids) {
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith(".")) node[name.slice(1)] = value;
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...kids.flat().filter((kid) => kid !== null && kid !== undefined && kid !== false));
  return node;
}

const lut = {};
/** 256 colours of a scale. */
function colours(theme, name) {
  return (lut[theme + name] ??= Array.from({ length: 256 }, (_, i) => {
    const stops = SCALES[theme][name],
      at = (i / 255) * (stops.length - 1),
      k = Math.min(Math.floor(at), stops.length - 2);
    const part = (hex, j) => parseInt(hex.slice(1 + 2 * j, 3 + 2 * j), 16);
    return `rgb(${[0, 1, 2].map((j) => Math.round(part(stops[k], j) + (at - k) * (part(stops[k + 1], j) - part(stops[k], j)))).join()})`;
  }));
}

export const levelOf = (share) => Math.max(0, Math.min(255, Math.round(share * 255)));
export const colourAt = (theme, name, level) => colours(theme, name)[level];
export const colourOf = (theme, name, share) => colourAt(theme, name, levelOf(share));

/** A number as people read it. */
export function say(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  return size && (size < 1e-3 || size >= 1e6) ? value.toExponential(digits - 1) : String(+value.toPrecision(digits));
}

const short = (v) =>
  Math.abs(v) >= 1e6 ? `${+(v / 1e6).toPrecision(3)}M` : Math.abs(v) >= 1e4 ? `${+(v / 1e3).toPrecision(3)}k` : say(v, 3);

const asXML = (node) => new XMLSerializer().serializeToString(node).replace(NO_XML, "\ufffd");
//: Signs that no XML file can hold (viewer.static).
const NO_XML = /[^\t\n\r\x20-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu;

let pen = null;
const widths = new Map();
/** Width of text in px at a font size. */
export function widthOf(text, size = 11) {
  const key = `${size} ${text}`;
  if (!widths.has(key)) {
    pen ??= document.createElement("canvas").getContext("2d");
    pen.font = `${size}px Helvetica, Arial, sans-serif`;
    if (widths.size > 10_000) widths.clear();
    widths.set(key, pen.measureText(text).width);
  }
  return widths.get(key);
}

export function clip(text, room, size = 11) {
  if (widthOf(text, size) <= room) return text;
  let cut = text.length;
  while (cut > 1 && widthOf(text.slice(0, cut) + "…", size) > room) cut--;
  return text.slice(0, cut) + "…";
}

/** A file for the reader. */
export function download(name, blob) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A picture: a heading, an SVG (with a canvas under it where there are many cells), and a table behind it. */
export class Picture {
  /** look: () => theme. tip: (lines | null, event) shows a hover text. */
  constructor(name, { look, tip }) {
    this.name = name;
    this.look = look;
    this.tip = tip;
    this.title = h("b");
    this.note = h("span", { class: "s3-muted" });
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.svg = s("svg", { xmlns: NS, role: "img", "font-family": "Helvetica, Arial, sans-serif", "font-size": 11 });
    this.body = h("div", { class: "s3-body" }, this.canvas, this.svg);
    const save = (kind) => () => this.save(kind);
    this.tools = h(
      "span",
      { class: "s3-tools" },
      ["svg", "png", "csv"].map((kind) =>
        h(
          "button",
          {
            type: "button",
            onclick: save(kind),
            title: `Save this picture's ${kind === "csv" ? "numbers" : "drawing"} as ${kind.toUpperCase()}`,
          },
          kind.toUpperCase(),
        ),
      ),
    );
    this.holder = h("div", { class: "s3-scroll" });
    this.details = h("details", { ontoggle: () => this.#fillTable() }, h("summary", {}, "as a table"), this.holder);
    this.el = h(
      "figure",
      { class: `s3-picture s3-${name}` },
      h("figcaption", {}, this.title, this.note, this.tools),
      this.body,
      this.details,
    );
    this.cells = [];
  }

  get ink() {
    return INKS[this.look()];
  }

  /** The width that there is, in px; `wide`: a width that was asked for. */
  get room() {
    return this.wide ?? (this.el.clientWidth || this.width || 640);
  }

  /** Begin anew; returns what is to be drawn on. */
  start(title, height, note = "") {
    this.width = Math.max(220, this.room);
    this.height = height;
    this.title.textContent = title;
    this.note.textContent = note ? ` ${note}` : "";
    this.svg.replaceChildren();
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${height}`);
    this.svg.setAttribute("width", this.width);
    this.svg.setAttribute("height", height);
    this.svg.setAttribute("fill", this.ink.ink);
    this.svg.setAttribute("aria-label", [title, note].filter(Boolean).join(": "));
    this.cells = [];
    return this.svg;
  }

  /** rows: () => [head, ...rows]; made only when it is looked at. */
  table(rows) {
    this.rows = rows;
    this.#fillTable();
  }

  #fillTable() {
    if (!this.details.open || !this.rows) return;
    const [head, ...rows] = this.rows();
    this.holder.replaceChildren(
      h(
        "table",
        {},
        h("caption", { class: "s3-hidden" }, this.title.textContent),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            head.map((name) => h("th", { scope: "col" }, name)),
          ),
        ),
        h(
          "tbody",
          {},
          rows.slice(0, 2000).map((row) =>
            h(
              "tr",
              {},
              row.map((cell, i) => h(i ? "td" : "th", i ? {} : { scope: "row" }, typeof cell === "number" ? say(cell) : String(cell))),
            ),
          ),
        ),
      ),
    );
    if (rows.length > 2000) this.holder.append(`the first 2,000 of ${say(rows.length)} rows; the CSV holds all`);
  }

  /** The picture as a file of its own. paper: {mm, caption}: for a paper, which has its heading elsewhere. */
  source(paper = null) {
    const whole = this.svg.cloneNode(true),
      above = paper ? 5 : 24; // a legend's border would stand at the edge
    const back = [s("rect", { width: this.width, height: this.height + above, fill: this.ink.paper })];
    for (const cell of this.cells) back.push(s("path", cell));
    const inner = s("g", { transform: `translate(0 ${above})` }, back.slice(1), ...whole.childNodes);
    whole.setAttribute("viewBox", `0 0 ${this.width} ${this.height + above}`);
    if (paper) {
      whole.replaceChildren(s("desc", {}, paper.caption), back[0], inner);
      whole.setAttribute("width", `${paper.mm}mm`);
      whole.setAttribute("height", `${+(((this.height + above) * paper.mm) / this.width).toFixed(3)}mm`);
      return asXML(whole);
    }
    const text = s("text", { x: 8, y: 16, "font-size": 13, "font-weight": "bold" }, clip(this.title.textContent, this.width - 30, 13));
    text.append(s("tspan", { dx: 8, "font-size": 11, "font-weight": "normal", fill: this.ink.muted }, this.note.textContent.trim()));
    whole.replaceChildren(back[0], text, inner);
    whole.setAttribute("height", this.height + above);
    return asXML(whole);
  }

  async save(kind) {
    const name = `s3pet-${this.name}.${kind}`;
    if (kind === "csv") {
      const quote = (cell) => (/[",\n]/.test(String(cell)) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell));
      download(
        name,
        new Blob(
          [
            this.rows()
              .map((row) => row.map(quote).join(","))
              .join("\n") + "\n",
          ],
          { type: "text/csv" },
        ),
      );
    } else if (kind === "svg") download(name, new Blob([this.source()], { type: "image/svg+xml" }));
    else {
      const image = new Image();
      image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(this.source())}`;
      await image.decode();
      const canvas = h("canvas", { width: this.width * 2, height: (this.height + 24) * 2 });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => download(name, blob));
    }
  }

  text(x, y, words, props = {}) {
    const node = s("text", { x, y, ...props }, words);
    this.svg.append(node);
    return node;
  }

  line(x1, y1, x2, y2, colour, props = {}) {
    this.svg.append(s("line", { x1, y1, x2, y2, stroke: colour, ...props }));
  }
}

/** Lines over x. series: [{name, x, y, colour, dash, width}], broken where y is NaN. Hover says the values at an x. */
export class Lines extends Picture {
  /** options: title, note, xLabel, zero (the y axis holds 0), height, marks: [{y, words}], pick: (series) on a click. */
  draw(series, { title, note = "", xLabel = "step", zero = false, height = 190, legend = true, marks = [], pick = null }) {
    const svg = this.start(title, height, note),
      ink = this.ink,
      { width } = this;
    const finite = (list) => list.filter(Number.isFinite);
    const ys = finite([...series.flatMap((one) => Array.from(one.y)), ...marks.map((mark) => mark.y), ...(zero ? [0] : [])]);
    const xs = finite(series.flatMap((one) => [one.x[0], one.x[one.x.length - 1]]));
    let [low, high] = [Math.min(...ys), Math.max(...ys)];
    if (!ys.length) [low, high] = [0, 1];
    if (low === high) [low, high] = low ? [low - Math.abs(low) * 0.1, high + Math.abs(high) * 0.1] : [-0.05, 1];
    const [first, last] = xs.length ? [Math.min(...xs), Math.max(...xs)] : [0, 1];
    const labels = ticks(low, high, height / 40),
      left = 12 + Math.max(24, ...labels.map((v) => widthOf(short(v))));
    const top = legend ? 24 : 8,
      bottom = height - 32,
      right = width - 14;
    const px = (x) => left + ((x - first) / (last - first || 1)) * (right - left);
    const py = (y) => bottom - ((y - low) / (high - low)) * (bottom - top);
    for (const v of labels) {
      this.line(left, py(v), right, py(v), ink.grid);
      this.text(left - 6, py(v) + 4, short(v), { "text-anchor": "end", fill: ink.muted });
    }
    for (const v of ticks(first, last, Math.max(2, (right - left) / 70)).filter(Number.isInteger))
      this.text(px(v), bottom + 15, short(v), { "text-anchor": "middle", fill: ink.muted });
    this.text((left + right) / 2, height - 3, xLabel, { "text-anchor": "middle", fill: ink.muted });
    for (const mark of marks) {
      this.line(left, py(mark.y), right, py(mark.y), ink.muted, { "stroke-dasharray": "4 3" });
      this.text(right, py(mark.y) - 4, mark.words, { "text-anchor": "end", fill: ink.muted });
    }
    let at = left;
    for (const one of series) {
      let d = "",
        open = false;
      for (let i = 0; i < one.x.length; i++) {
        if (Number.isFinite(one.y[i])) {
          const [cx, cy] = [px(one.x[i]).toFixed(1), py(one.y[i]).toFixed(1)];
          d += `${open ? "L" : "M"}${cx} ${cy}`;
          if (!open && !Number.isFinite(one.y[i + 1])) svg.append(s("circle", { cx, cy, r: 3, fill: one.colour })); // no line would show it
        }
        open = Number.isFinite(one.y[i]);
      }
      const style = {
        fill: "none",
        stroke: one.colour,
        "stroke-width": one.width ?? 1.6,
        "stroke-dasharray": one.dash,
        "stroke-linejoin": "round",
      };
      svg.append(s("path", { d, ...style }));
      if (pick)
        svg.append(
          s("path", {
            d,
            fill: "none",
            stroke: "none",
            "pointer-events": "stroke",
            "stroke-width": 9,
            style: "cursor:pointer",
            onclick: (event) => pick(one, event),
          }),
        );
      if (!legend) continue;
      const room = Math.min(widthOf(one.name), Math.max(60, (right - left) / series.length - 34));
      if (at + 22 + room > right + 4) continue;
      this.line(at, 11, at + 18, 11, one.colour, { "stroke-width": 2.5, "stroke-dasharray": one.dash });
      this.text(at + 22, 15, clip(one.name, room + 1));
      at += 34 + room;
    }
    this.marker = s("line", {
      y1: top,
      y2: bottom,
      stroke: ink.outline,
      "stroke-width": 1.5,
      "stroke-dasharray": "3 3",
      visibility: "hidden",
    });
    svg.append(this.marker);
    this.place = px;
    svg.onmousemove = (event) => {
      const box = svg.getBoundingClientRect(),
        x = event.clientX - box.left;
      if (x < left - 4 || x > right + 4 || !series.length) return this.tip(null);
      const wanted = first + ((x - left) / (right - left)) * (last - first);
      const lines = [];
      for (const one of series) {
        const i = nearest(one.x, wanted);
        if (!lines.length && i >= 0) lines.push(`${xLabel} ${say(one.x[i])}`);
        if (i >= 0 && Number.isFinite(one.y[i])) lines.push(`${one.name}: ${say(one.y[i])}`);
      }
      this.tip(lines, event);
    };
    svg.onmouseleave = () => this.tip(null);
    this.table(() => [[xLabel, "line", "value"], ...series.flatMap((one) => Array.from(one.x, (x, i) => [x, one.name, one.y[i]]))]);
  }

  /** Show which x is looked at, without drawing the rest again. */
  mark(x) {
    if (!this.marker) return;
    const at = this.place(x);
    this.marker.setAttribute("visibility", Number.isFinite(at) ? "visible" : "hidden");
    if (Number.isFinite(at)) for (const name of ["x1", "x2"]) this.marker.setAttribute(name, at);
  }
}

function nearest(sorted, wanted) {
  let low = 0,
    high = sorted.length - 1;
  if (high < 0) return -1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= wanted) low = middle;
    else high = middle;
  }
  return Math.abs(sorted[low] - wanted) <= Math.abs(sorted[high] - wanted) ? low : high;
}

/** Horizontal bars. rows: [{name, values: [..], error, mark, strong, gates}] with one colour a value; a click picks.
 *  log: values are log10, and the axis says their powers. */
export class Bars extends Picture {
  draw(rows, { title, note = "", names, xLabel = "", pick = null, log = false }) {
    const step = rows.length > 14 ? 15 : 19,
      height = 30 + step * rows.length + 34;
    const svg = this.start(title, height, note),
      ink = this.ink,
      { width } = this;
    const left = Math.min(width * 0.45, 12 + Math.max(30, ...rows.map((row) => widthOf(row.name)))),
      right = width - 16;
    const every = rows
      .flatMap((row) => [...row.values, ...(row.error ? [row.values[0] - row.error, row.values[0] + row.error] : [])])
      .filter(Number.isFinite);
    const low = log ? Math.min(...every) - 0.15 : Math.min(0, ...every),
      high = Math.max(low + 1e-12, ...every);
    const px = (v) => left + ((v - low) / (high - low)) * (right - left);
    for (const v of ticks(low, high, Math.max(2, (right - left) / 80))) {
      this.line(px(v), 24, px(v), height - 30, ink.grid);
      this.text(px(v), height - 17, log ? short(Math.round(10 ** v)) : short(v), { "text-anchor": "middle", fill: ink.muted });
    }
    this.text((left + right) / 2, height - 3, xLabel, { "text-anchor": "middle", fill: ink.muted });
    names.forEach((name, k) => {
      const x = left + k * ((right - left) / names.length);
      svg.append(s("rect", { x, y: 7, width: 12, height: 9, fill: CATEGORICAL[k] }));
      this.text(x + 17, 15, clip(name, (right - left) / names.length - 20));
    });
    rows.forEach((row, i) => {
      const y = 26 + i * step,
        thick = (step - 4) / row.values.length;
      this.text(left - 6, y + step / 2 + 2, clip(row.name, left - 8), { "text-anchor": "end", "font-weight": row.strong ? "bold" : null });
      row.values.forEach((value, k) => {
        if (!Number.isFinite(value)) return;
        const base = log ? low : 0,
          [a, b] = [px(Math.min(base, value)), px(Math.max(base, value))];
        svg.append(s("rect", { x: a, y: y + k * thick, width: Math.max(0.5, b - a), height: thick, fill: row.colour ?? CATEGORICAL[k] }));
        if (row.error && !k)
          this.line(px(value - row.error), y + thick / 2, px(value + row.error), y + thick / 2, ink.ink, { "stroke-width": 1.5 });
      });
      svg.append(
        s("rect", {
          x: 0,
          y: y - 2,
          width,
          height: step,
          fill: "none",
          "pointer-events": "all",
          style: pick ? "cursor:pointer" : null,
          onmousemove: (event) =>
            this.tip(
              [
                row.name,
                ...names.map(
                  (name, k) =>
                    `${name}: ${say(log ? Math.round(10 ** row.values[k]) : row.values[k])}${row.error && !k ? ` ± ${say(row.error, 2)}` : ""}`,
                ),
              ],
              event,
            ),
          onmouseleave: () => this.tip(null),
          onclick: (event) => pick?.(row, event),
        }),
      );
    });
    this.table(() => [
      ["", ...names, ...(rows.some((r) => r.error) ? ["standard error"] : [])],
      ...rows.map((row) => [
        row.name,
        ...row.values.map((v) => (log ? Math.round(10 ** v) : v)),
        ...(rows.some((r) => r.error) ? [row.error ?? ""] : []),
      ]),
    ]);
  }
}

/** A small matrix of numbers: rows and columns with names, colour by value, a click picks a cell. */
export class Matrix extends Picture {
  /** cells: rows of {value, text, hover: [..], mark} or null. gap: a space after so many rows. */
  draw(
    rows,
    columns,
    cells,
    { title, note = "", scale = "seq", low, high, gap = 0, picked = null, pick = null, rowLabel = "", columnLabel = "" },
  ) {
    const left = Math.min(this.el.clientWidth * 0.3 || 200, 14 + Math.max(...rows.map((name) => widthOf(name)))) + (rowLabel ? 18 : 0);
    const width = this.el.clientWidth || 640,
      side = Math.min(120, (width - left - 16) / columns.length);
    const upright = columns.some((name) => widthOf(name) > side - 6),
      head = (upright ? Math.min(170, 10 + Math.max(...columns.map((n) => widthOf(n)))) : 18) + (columnLabel ? 16 : 0);
    const tall = side > 54 ? 34 : 24,
      place = (i) => head + i * tall + (gap && i >= gap ? 8 : 0);
    const svg = this.start(title, place(rows.length - 1) + tall + 6, note),
      ink = this.ink,
      theme = this.look();
    if (rowLabel)
      this.text(11, head + (tall * rows.length) / 2, rowLabel, {
        transform: `rotate(-90 11 ${head + (tall * rows.length) / 2})`,
        "text-anchor": "middle",
        fill: ink.muted,
      });
    if (columnLabel) this.text(left + (side * columns.length) / 2, 11, columnLabel, { "text-anchor": "middle", fill: ink.muted });
    columns.forEach((name, j) => {
      const x = left + (j + 0.5) * side;
      if (upright) this.text(x + 4, head - 6, clip(name, 160), { transform: `rotate(-90 ${x + 4} ${head - 6})` });
      else this.text(x, head - 6, name, { "text-anchor": "middle" });
    });
    rows.forEach((name, i) => {
      this.text(left - 6, place(i) + tall / 2 + 4, clip(name, left - 10 - (rowLabel ? 18 : 0)), { "text-anchor": "end" });
      columns.forEach((column, j) => {
        const cell = cells[i][j],
          x = left + j * side,
          y = place(i);
        if (!cell) return;
        const share = cell.shade ?? (cell.value - low) / (high - low || 1),
          known = Number.isFinite(cell.value);
        svg.append(
          s("rect", { x: x + 0.5, y: y + 0.5, width: side - 1, height: tall - 1, fill: known ? colourOf(theme, scale, share) : ink.grid }),
        );
        if (side > 26) {
          const dark = scale === "div" ? Math.abs(share - 0.5) > 0.28 : share > 0.52;
          this.text(x + side / 2, y + tall / 2 + 4, known ? clip(cell.text, side - 2) : "–", {
            "text-anchor": "middle",
            fill: dark === (theme === "light") ? "#ffffff" : "#14202b",
          });
        }
        if (cell.mark)
          svg.append(
            s("rect", { x: x + 2, y: y + 2, width: side - 4, height: tall - 4, fill: "none", stroke: ink.outline, "stroke-width": 2 }),
          );
        if (picked && picked[0] === i && picked[1] === j) svg.append(...ring(x, y, side, tall, ink));
        svg.append(
          s("rect", {
            x,
            y,
            width: side,
            height: tall,
            fill: "none",
            "pointer-events": "all",
            style: pick ? "cursor:pointer" : null,
            onmousemove: (event) => this.tip(cell.hover ?? [`${name} / ${column}: ${cell.text}`], event),
            onmouseleave: () => this.tip(null),
            onclick: () => pick?.(i, j),
          }),
        );
      });
    });
    if (picked) {
      svg.setAttribute("tabindex", "0");
      svg.setAttribute("aria-label", [title, ...(cells[picked[0]]?.[picked[1]]?.hover ?? [])].join(", "));
      svg.onkeydown = (event) => {
        const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
        if (!way) return;
        const [i, j] = picked.map((at, k) => at + way[k]);
        if (cells[i]?.[j]) pick(i, j);
        event.preventDefault();
        event.stopPropagation();
      };
    }
    this.table(() => [["", ...columns], ...rows.map((name, i) => [name, ...cells[i].map((cell) => (cell ? cell.value : ""))])]);
  }
}

/** What marks a cell that is looked at, on light and on dark cells alike: a light line within a dark one. */
export function ring(x, y, w, height, ink, colour = null) {
  const box = (inset, stroke, width) =>
    s("rect", {
      x: x + inset,
      y: y + inset,
      width: Math.max(1, w - 2 * inset),
      height: Math.max(1, height - 2 * inset),
      fill: "none",
      stroke,
      "stroke-width": width,
    });
  return [box(-1, "#14202b", 2), box(1, "#ffffff", 2), ...(colour ? [box(3, colour, 2.5)] : [])];
}
