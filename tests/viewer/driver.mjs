// Answers questions about the viewer's module, one JSON line each: {"do": name, "with": arguments}.
// Numbers that JSON has no word for travel as "NaN", "Infinity" and "-Infinity".
import { createInterface } from "node:readline";

const viewer = await import(process.argv[2]);
const ODD = { NaN: NaN, Infinity: Infinity, "-Infinity": -Infinity };
const bytes = (text) => { const b = Buffer.from(text, "base64"); return new DataView(b.buffer, b.byteOffset, b.byteLength); };
const { Rows } = viewer;
let clock = 0;
const timers = new Map();
Date.now = () => clock;
globalThis.setTimeout = (call, wait) => { const key = Symbol("timer"); timers.set(key, { call, at: clock + wait }); return key; };
globalThis.clearTimeout = (key) => timers.delete(key);

/** A model as anywidget gives it, that a test feeds. */
class Model {
  constructor(state) {
    Object.assign(this, { state: {}, heard: {}, sent: [] });
    this.set(state);
  }
  set(state) {
    for (const [name, value] of Object.entries(state)) this.state[name] = ["scalars", "values", "last"].includes(name) ? bytes(value) : value;
    for (const listener of this.heard.change ?? []) listener();
  }
  get(name) { return this.state[name]; }
  on(name, listener) { (this.heard[name] ??= []).push(listener); }
  send(message) { this.sent.push(message); }
}

/** What a page knows of a run's history. */
function known(store, gates) {
  const { rows, last, live } = store, all = Array.from({ length: rows.n }, (_, row) => row);
  return {
    n: rows.n, era: rows.era, waiting: store.waiting, steps: rows.column("step", all), zeta: rows.column("zeta", all), status: live.status ?? null,
    alpha: all.map((row) => rows.alpha(row, gates).alpha), last: last ? { step: last.step, alpha: last.alpha } : null,
  };
}

const models = {};
const DO = {
  exports: () => Object.keys(viewer).sort(),
  solve: ({ alpha, counts, budget, tau }) => {
    const zeta = viewer.solveShift(alpha, counts, budget, tau), order = viewer.orderOf(alpha);
    return { zeta, p: viewer.probabilities(alpha, zeta, tau), order, ...viewer.select(order, counts, budget) };
  },
  unpack: ({ codes, low, scale }) => viewer.unpack(Uint16Array.from(codes), low, scale),
  thin: ([n, most]) => viewer.thin(n, most),
  likeness: (rows) => viewer.likeness(rows),
  meanRanks: (values) => viewer.meanRanks(values),
  spearman: ([a, b]) => viewer.spearman(a, b),
  entries: ({ alpha, counts, budgets }) => viewer.entries(viewer.orderOf(alpha), counts, budgets),
  budgetSteps: ({ counts, points }) => viewer.budgetSteps(counts, points),
  ticks: ([low, high, about]) => viewer.ticks(low, high, about),
  arrange: ({ space, p, how, kept }) => viewer.arrange(space, p, kept ? { ...how, keep: (gate) => kept.includes(gate) } : how),
  parseBudget: ([text, backbone]) => viewer.parseBudget(text, backbone),
  counts: (values) => values.map((value) => viewer.shortCount(value)),
  scaled: (values) => viewer.scaled(values),
  say: (values) => values.map((value) => viewer.say(value)),
  shared: ({ doc }) => ({ choices: Object.fromEntries(Object.entries(viewer.choicesOf(doc)).map(([name, list]) => [name, list.map(([value]) => value)])), fields: viewer.fieldsOf(doc), names: viewer.namesOf(doc) }),
  problems: ({ doc, states, last }) => states.map((text) => viewer.problemOf(JSON.parse(text), doc, last)),
  link: (states) => viewer.linkOf(states),
  linked: ({ hashes, viewers }) => hashes.map((hash) => { const found = viewer.fromLink(String(hash), viewers); return found?.states ? { states: Object.fromEntries(found.states) } : found; }),
  caption: (facts) => viewer.captionOf(facts),
  difference: ({ a, b, shared, either }) => viewer.differenceOf(a, b, shared, either),
  seedsDifference: ({ a, b, told }) => viewer.seedsDifferenceOf(a, b, told),
  cardKey: ([id, about]) => viewer.cardKey(id, about),
  rows: ({ messages, gates }) => {
    const rows = new Rows();
    const gaps = messages.map(([about, scalars, values]) => rows.take(about, bytes(scalars), bytes(values), gates));
    const all = Array.from({ length: rows.n }, (_, row) => row);
    return { gaps, n: rows.n, rowOf: all.length ? [-1, 0, 1, 4, 5, 1e9].map((step) => rows.rowOf(step)) : null, parts: rows.parts.length, steps: rows.column("step", all), alpha: all.map((row) => rows.alpha(row, gates).alpha), orders: all.map((row) => rows.alpha(row, gates).order) };
  },
  open: ({ name, state }) => { viewer.storeOf((models[name] = new Model(state))); },
  tell: ({ name, state }) => models[name].set(state),
  wait: (ms) => { // timers that are due, in their order
    for (const end = clock + ms; ; ) {
      const due = [...timers].filter(([, one]) => one.at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) { clock = end; return null; }
      timers.delete(due[0]);
      clock = due[1].at;
      due[1].call();
    }
  },
  asked: (name) => models[name].sent.splice(0),
  close: (name) => { for (const listener of models[name].heard.destroy ?? []) listener(); delete models[name]; },
  known: ({ name, gates }) => known(viewer.storeOf(models[name]), gates),
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const asked = JSON.parse(line, (_, value) => (typeof value === "string" && value in ODD ? ODD[value] : value));
    answer = { is: DO[asked.do](asked.with) ?? null };
  } catch (error) {
    answer = { error: String(error.stack) };
  }
  const plain = (_, value) => (ArrayBuffer.isView(value) ? Array.from(value) : typeof value === "number" && !Number.isFinite(value) ? String(value) : value);
  process.stdout.write(JSON.stringify(answer, plain) + "\n");
}
