// The table of runs: sorted, filtered and picked in the page; what needs a run to be read or changed is asked of the kernel.

const COLUMNS = ["name", "task", "backbone", "budget", "mode", "seed", "status", "steps", "score", "agreement", "tags"];
const FALLS = new Set(["seed", "steps", "score", "agreement"]); // numbers, the largest first
const LOOKS = [
  ["open", "Open", 1, 1, "The viewer of this run"],
  ["compare", "Compare", 2, 24, "Two beside each other, their difference, the overlap of all"],
  ["multiples", "Side by side", 2, 48, "A small heatmap of each, on one scale and one order of rows"],
  ["consensus", "Consensus", 2, 200, "The mean of all, and the gates that most of them chose"],
];

class Table {
  constructor(model, el) {
    Object.assign(this, { model, el, picked: new Set(), by: "run", down: false, words: "", asking: 0, writing: false });
    el.classList.add("s3pet-viewer", "s3pet-runs");
    el.setAttribute("data-lm-suppress-shortcuts", "true");
    el.s3pet = { state: () => this.state() };
    this.head = h("div", { class: "s3-line" });
    this.actions = h("div", { class: "s3-line", role: "toolbar" });
    this.note = h("div", { role: "status" });
    this.body = h("div", { class: "s3-runs" });
    this.filter = h("input", {
      type: "text",
      "aria-label": "filter",
      placeholder: "filter: sentiment 0.2%",
      oninput: () => {
        this.words = this.filter.value;
        this.list();
      },
    });
    this.away = h("input", { type: "checkbox", onchange: () => this.list() });
    this.count = h("span", { class: "s3-muted" });
    this.head.append(this.filter, h("label", {}, this.away, "archived too"), this.count);
    el.replaceChildren(this.head, this.actions, this.note, this.body);
    this.listen = () => this.draw();
    for (const name of ["change:doc", "change:said"]) model.on(name, this.listen);
    this.themed = new MutationObserver(() => this.draw());
    this.themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-vscode-theme-kind", "class"] });
    this.draw();
  }

  close() {
    for (const name of ["change:doc", "change:said"]) this.model.off(name, this.listen);
    this.themed.disconnect();
  }

  state() {
    return { runs: this.shown.map((row) => row.run), picked: this.chosen, by: this.by, said: this.note.textContent, all: this.doc.rows.length };
  }

  /** Picked runs that are still there, in the order of the table. */
  get chosen() {
    return this.doc.rows.map((row) => row.run).filter((run) => this.picked.has(run));
  }

  get shown() {
    const words = this.words.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = this.doc.rows.filter((row) => {
      const text = [...COLUMNS, "run", "note"].map((name) => row[name] ?? "").join(" ").toLowerCase();
      return (this.away.checked || !row.archived) && words.every((word) => text.includes(word));
    });
    const value = (row) => row.order?.[this.by] ?? row[this.by];
    const none = (v) => v === null || v === undefined || v === "";
    return rows.sort((one, two) => {
      const [a, b] = [value(one), value(two)];
      if (none(a) || none(b)) return none(a) - none(b); // what is not known comes last, either way
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
      return this.down ? -order : order;
    });
  }

  draw() {
    this.doc = JSON.parse(this.model.get("doc"));
    this.el.dataset.theme = themeOf(this.doc.theme);
    const said = JSON.parse(this.model.get("said") || "{}");
    if (said.number !== this.heard) {
      this.heard = said.number;
      this.tell(said.text ?? "", said.problem);
    }
    this.list();
  }

  tell(text, problem = false) {
    this.note.replaceChildren(...(text ? [h("div", { class: problem ? "s3-alert" : "s3-note" }, text)] : []));
  }

  list() {
    const rows = this.shown,
      hidden = this.doc.rows.length - rows.length,
      used = COLUMNS.filter((name) => name === "name" || rows.some((row) => (row[name] ?? "") !== ""));
    this.count.textContent = `${rows.length} runs${hidden ? `, ${hidden} not shown` : ""}${this.doc.live ? `, ${this.doc.live} running` : ""}`;
    const all = h("input", {
      type: "checkbox",
      "aria-label": "pick all that are shown",
      ".checked": rows.length > 0 && rows.every((row) => this.picked.has(row.run)),
      onchange: () => {
        for (const row of rows) all.checked ? this.picked.add(row.run) : this.picked.delete(row.run);
        this.list();
      },
    });
    const heads = used.map((name) =>
      h(
        "th",
        { scope: "col", "aria-sort": this.by === name ? (this.down ? "descending" : "ascending") : "none" },
        h("button", { type: "button", class: "s3-sort", onclick: () => this.order(name) }, name, this.by === name ? (this.down ? " ▼" : " ▲") : ""),
      ),
    );
    const lines = rows.map((row) => {
      const box = h("input", {
        type: "checkbox",
        "aria-label": `pick ${row.name}`,
        ".checked": this.picked.has(row.run),
        onchange: () => {
          box.checked ? this.picked.add(row.run) : this.picked.delete(row.run);
          this.list();
        },
      });
      const open = h("button", { type: "button", class: "s3-open", title: row.path, onclick: () => this.ask("open", [row.run]) }, row.name);
      const cells = used.map((name) => h("td", {}, name === "name" ? open : (row[name] ?? "")));
      if (row.note) cells[0].append(h("div", { class: "s3-muted" }, row.note));
      const picture = h("img", { alt: "", src: `data:image/png;base64,${row.image}`, width: 88, height: 40, class: "s3-thumb" });
      return h("tr", { class: row.archived ? "s3-away" : "" }, h("td", {}, box), h("td", {}, picture), ...cells);
    });
    this.body.replaceChildren(
      h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, all), h("th", {}), ...heads)), h("tbody", {}, lines)),
      ...(this.doc.problems.length ? [h("div", { class: "s3-muted" }, `left out: ${this.doc.problems.join("; ")}`)] : []),
    );
    this.bar();
  }

  order(name) {
    this.down = this.by === name ? !this.down : FALLS.has(name);
    this.by = name;
    this.list();
  }

  /** What can be done with the picked runs; deleting is asked twice. */
  bar() {
    const runs = this.chosen,
      n = runs.length,
      some = `${n} run${n === 1 ? "" : "s"}`;
    if (!n) this.asking = 0;
    const button = (words, onclick, props = {}) => h("button", { type: "button", onclick, ...props }, words);
    const keep = button("Keep", () => this.set({ asking: 0 }));
    if (this.asking === 1)
      return this.actions.replaceChildren(`Delete ${some} for good?`, button(`Delete ${some}…`, () => this.set({ asking: 2 })), keep);
    if (this.asking === 2) {
      const sure = button(`Yes, delete ${some}`, () => {
        this.ask("delete", runs);
        this.set({ asking: 0 });
      });
      return this.actions.replaceChildren("They cannot be brought back. Really?", sure, keep);
    }
    const looks = LOOKS.map(([kind, words, least, most, title]) =>
      button(words, () => this.ask(kind, runs), { title, disabled: n < least || n > most }),
    );
    const changes = this.doc.control ? this.changes(runs, button) : [];
    this.actions.replaceChildren(h("span", { class: "s3-muted" }, n ? `${some} picked` : "pick runs"), ...looks, ...changes);
  }

  changes(runs, button) {
    const rows = this.doc.rows.filter((row) => this.picked.has(row.run));
    if (this.writing && rows.length === 1) {
      const box = (name) => h("input", { type: "text", "aria-label": name, placeholder: name, ".value": rows[0].marks[name] });
      const [name, tags, note] = ["name", "tags", "note"].map(box);
      const save = button("Save", () => {
        this.ask("mark", runs, { name: name.value, note: note.value, tags: tags.value.split(",").map((tag) => tag.trim()).filter(Boolean) });
        this.set({ writing: false });
      });
      return [name, tags, note, save, button("Cancel", () => this.set({ writing: false }))];
    }
    this.writing = false;
    const away = rows.length > 0 && rows.every((row) => row.archived);
    return [
      button("Name, tags, note", () => this.set({ writing: true }), { disabled: runs.length !== 1 }),
      button(away ? "Restore" : "Archive", () => this.ask("mark", runs, { archived: !away }), { disabled: !runs.length }),
      button("Delete…", () => this.set({ asking: 1 }), { disabled: !runs.length }),
    ];
  }

  set(values) {
    Object.assign(this, values);
    this.bar();
  }

  ask(kind, runs, changes = {}) {
    this.tell(`asked the kernel: ${kind} ${runs.slice(0, 3).join(", ")}${runs.length > 3 ? ", …" : ""}`);
    this.model.send({ kind, runs, changes });
  }
}

export default {
  render({ model, el }) {
    const table = new Table(model, el);
    return () => table.close();
  },
};
