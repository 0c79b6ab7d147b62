// What a page knows of the runs that a model shows. The kernel sends rows with a number; a gap is asked for.

/** What is missing is asked for again after so many ms: the question or the answer may be lost, too. */
const ASK_AGAIN = 3000;
/** How often the kernel is looked at, in ms. */
const PULSE = 2000;
const stores = (globalThis.__s3pet ??= { stores: new Map() }).stores;

/** The store of a model: one a page, however many views show it. */
export function storeOf(model) {
  const id = model.get("uid");
  if (!stores.has(id)) stores.set(id, new Store(model));
  return stores.get(id);
}

/** Numbers of a step beside its gates, in the order of viewer.feed.SCALARS. */
export const SCALARS = ["step", "seconds", "zeta", "train_loss", "val_loss", "entropy", "expected", "low", "scale"];

const bytesOf = (view) => (view ? new Uint8Array(view.buffer ?? view, view.byteOffset ?? 0, view.byteLength) : new Uint8Array(0));

/** Rows of the step log, as far as they have come. */
export class Rows {
  constructor() {
    this.clear("", 0);
  }

  clear(era, wide) {
    this.era = era;
    this.wide = wide; // float32 alpha; else 16-bit codes
    this.n = 0;
    this.parts = []; // {from, count, scalars, values}
  }

  /** Take rows up. Returns whether there is a gap, so that the whole is needed. */
  take(message, scalars, values, gates) {
    const { era, from, count, wide } = message;
    if (era !== this.era) this.clear(era, wide);
    if (from > this.n) return true;
    const skip = this.n - from;
    if (count <= skip) return false;
    const width = SCALARS.length,
      size = wide ? 4 : 2;
    const numbers = new Float64Array(bytesOf(scalars).slice(skip * width * 8, count * width * 8).buffer);
    const raw = bytesOf(values).slice(skip * gates * size, count * gates * size).buffer;
    this.parts.push({ from: this.n, count: count - skip, scalars: numbers, values: wide ? new Float32Array(raw) : new Uint16Array(raw) });
    this.n = from + count;
    if (this.parts.length > 64) this.#join(gates);
    return false;
  }

  #join(gates) {
    const width = SCALARS.length;
    const scalars = new Float64Array(this.n * width),
      values = new (this.wide ? Float32Array : Uint16Array)(this.n * gates);
    for (const part of this.parts) {
      scalars.set(part.scalars, part.from * width);
      values.set(part.values, part.from * gates);
    }
    this.parts = [{ from: 0, count: this.n, scalars, values }];
  }

  #part(row) {
    return this.parts.find((part) => row >= part.from && row < part.from + part.count);
  }

  scalar(row, name) {
    const part = this.#part(row);
    return part.scalars[(row - part.from) * SCALARS.length + SCALARS.indexOf(name)];
  }

  /** The last row that is no later than a step. */
  rowOf(step) {
    let row = this.n - 1;
    while (row > 0 && this.scalar(row, "step") > step) row--;
    return row;
  }

  column(name, rows) {
    return rows.map((row) => this.scalar(row, name));
  }

  /** alpha and the order of the gates at a row; gates: their number. */
  alpha(row, gates) {
    const part = this.#part(row),
      at = (row - part.from) * gates;
    const values = part.values.subarray(at, at + gates);
    if (this.wide) return { alpha: values, order: null };
    return unpack(values, this.scalar(row, "low"), this.scalar(row, "scale"));
  }
}

/** One model's data, and who listens. */
class Store {
  constructor(model) {
    this.model = model;
    this.rows = new Rows();
    this.listeners = new Set();
    this.timer = null;
    this.docText = this.liveText = "";
    this.live = {};
    this.gone = false;
    model.on("change", () => {
      this.#refresh();
      this.#tell();
    }); // once for all that came in one message
    model.on("comm_live_update", () => this.#kernel());
    const pulse = model.widget_manager && setInterval(() => this.#kernel(), PULSE); // a shutdown is not announced
    model.on("destroy", () => {
      clearInterval(pulse);
      clearTimeout(this.timer);
      stores.delete(model.get("uid"));
    });
    this.#refresh();
    this.#want(); // a page that has heard nothing at all, too
  }

  #refresh() {
    const [doc, live] = [this.model.get("doc") || "null", this.model.get("live") || "{}"];
    if (doc !== this.docText) {
      [this.docText, this.liveText, this.doc] = [doc, "", JSON.parse(doc)];
      this.rows.clear("", 0);
    }
    if (live !== this.liveText) {
      this.liveText = live;
      this.#live(JSON.parse(live));
    }
  }

  /** `live`, `rows` and `last` come in one message, so they belong together. */
  #live(live) {
    this.live = live;
    const { rows, last } = live;
    if (live.doc !== this.doc?.id) return this.#want();
    if (!this.doc?.space) return;
    const gates = this.doc.space.n.length;
    if (rows) this.rows.take(rows, this.model.get("scalars"), this.model.get("values"), gates);
    this.#want();
    const bytes = bytesOf(this.model.get("last"));
    this.last = last && bytes.byteLength === gates * 4 ? { ...last, alpha: new Float32Array(bytes.slice().buffer) } : null;
    if (live.seen) this.ask({ kind: "seen", seq: live.seq }); // the kernel wants to know that the end has arrived
  }

  /** Whether the kernel is there, as the page's widget manager knows it. */
  async #kernel() {
    const manager = this.model.widget_manager,
      was = this.gone;
    const real = await Promise.resolve(manager?.get_model(this.model.get("place"))).catch(() => null);
    const dead = manager && "kernel" in manager && ["dead", "terminating", undefined].includes(manager.kernel?.status);
    this.gone = dead || real?.comm_live === false;
    if (this.gone !== was) this.#tell();
  }

  /** Ask for the whole until it is there. */
  #want() {
    if (this.timer !== null || !this.waiting || this.gone) return;
    this.ask({ kind: "whole" });
    this.timer = setTimeout(() => {
      this.timer = null;
      this.#want();
    }, ASK_AGAIN);
  }

  #tell() {
    for (const listener of this.listeners) listener();
  }

  /** Ask the kernel. It may be busy: what depends on the answer shows as pending. */
  ask(message) {
    this.model.send(message);
  }

  /** Whether something is missing of what the kernel has told of, the document or rows of the history, or all of it. */
  get waiting() {
    const { doc, rows } = this.live;
    if (!this.doc && this.liveText === "{}") return true;
    return Boolean(doc && doc !== this.doc?.id) || Boolean(rows && this.rows.n < rows.from + rows.count);
  }
}
