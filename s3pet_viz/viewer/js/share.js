// A view's state as JSON, in a link, and what may stand in it; and the caption of a picture.
// What comes by a link is a stranger's: it is checked whole, as viewer.state.check_state does, before anything changes.

export const STATE = 1;
const LINK = "#view=",
  LONGEST_LINK = 1 << 21;
const ROWS = [
  ["order", "in the model's order"],
  ["p", "by p"],
  ["params", "by parameters"],
  ["likeness", "like rows together"],
];
const GROUPS = [
  ["none", "none"],
  ["module", "by module"],
  ["type", "by PET type"],
];
const OVERLAPS = [
  ["gates", "by gates"],
  ["params", "by parameters"],
  ["rank", "rank correlation of p"],
];
const VALUES = { score: "score", loss: "held-out loss" };
const RELATIVE = { "": "nothing", own: "the target's own structure", random: "random structures", full: "full fine-tuning" };
const PARTS = { curves: "curves", trace: "traces", sums: "sums", path: "other budgets", worth: "what gates are worth", health: "health", trust: "can I trust it?" };
const partsOf = (doc) => Object.entries(PARTS).filter(([name]) => (doc.kind === "run" ? name !== "worth" || doc.effects : name === "trust"));

/** The fields that are one of some words: [[value, words], ...] of each (viewer.state.choices). */
export function choicesOf(doc) {
  const { space, kind } = doc,
    each = (list) => [...new Set(list)],
    any = (list) => [["", "all"], ...each(list).map((v) => [v, v])],
    same = (list) => list.map((v) => [v, v]);
  const made = { theme: same(["auto", "light", "dark"]), rows: ROWS, group: GROUPS };
  for (const name of ["stack", "type", "module"]) made[name] = any(space[name]);
  if (kind === "run")
    made.in_cells = [
      ["", space.unit ? "the chosen rank" : "nothing"],
      ["rank", "rank"],
      ...(doc.effects?.length ? [["importance", "importance"]] : []),
      ["alpha", "α"],
      ["params", "parameters"],
      ...(space.inert ? [["inert", "what cannot help"]] : []),
    ];
  else if (kind === "compare") {
    made.in_cells = [
      ["", space.unit ? "the chosen rank" : "nothing"],
      ["rank", "rank"],
      ...(doc.seeds.sets.length ? [["seeds", "k of n seeds"]] : []),
      ["params", "parameters"],
    ];
    made.a = made.b = same(doc.runs.map((run) => run.label));
    made.overlap = OVERLAPS;
    for (const name of ["task", "budget", "seed"]) made[name] = any(doc.runs.map((run) => run.facts[name]));
  } else {
    made.source = same(doc.sources);
    made.target = same(doc.targets);
    made.value = each(doc.matrices.map((m) => m.value)).map((v) => [v, VALUES[v]]);
    made.relative = each(doc.matrices.map((m) => m.relative)).map((v) => [v, RELATIVE[v]]);
    made.seed = each(doc.matrices.map((m) => m.seed)).map((v) => [v, v === "" ? "all (mean)" : v]);
  }
  return made;
}

/** Each gate as a state names it; those that were pinned after the searched ones (viewer.state.names_of). */
export function namesOf({ space }) {
  const name = (position, type, unit) => [position, unit >= 0 ? `${type}.${unit}` : type];
  return [
    ...space.n.map((_, g) => name(space.position[g], space.type[g], space.unit?.[g])),
    ...(space.pinned?.gates ?? []).map((gate) => name(gate.position, gate.pet_type, gate.unit)),
  ];
}

const keyOf = (name) => JSON.stringify(name);
/** Numbers of gates by name. */
export function placesOf(doc, names) {
  const at = new Map(namesOf(doc).map((name, g) => [keyOf(name), g]));
  return [...new Set(names.map((name) => at.get(keyOf(name))))];
}

/** Why a state cannot be opened here, beginning with the field; "" where it can. last: the newest step, from 0. */
export function problemOf(state, doc, last) {
  const object = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  const found = (value) => clipped(JSON.stringify(value) ?? "nothing");
  if (!object(state)) return `expected a view's state, found ${found(state)}`;
  const words = choicesOf(doc),
    fields = fieldsOf(doc),
    { run } = doc;
  const wrong = (name, expected, value) => `${name}: expected ${expected}, found ${found(value)}`;
  const number = (name, value, [least, most]) =>
    value === null || (Number.isSafeInteger(value) && value >= least && value <= most)
      ? ""
      : wrong(name, most >= least ? `null or a whole number from ${least} to ${most}` : "null (no step is recorded)", value);
  const numbers = run ? { step: [0, last ?? -1], budget: [run.smallest, run.total] } : {};
  const gates = (name, value, known) => {
    if (!Array.isArray(value)) return wrong(name, "a list of gates", value);
    const have = new Set(known.map(keyOf)),
      strange = value.find((gate) => !have.has(keyOf(gate)));
    return strange === undefined ? "" : wrong(name, "gates of this view", strange);
  };
  const is = { version: STATE, kind: doc.kind, of: doc.of };
  const check = (name, value) => {
    if (!fields.includes(name)) return `unknown field ${found(name)}`;
    if (Object.hasOwn(is, name)) return value === is[name] ? "" : wrong(name, found(is[name]), value);
    if (Object.hasOwn(words, name)) return words[name].some(([one]) => one === value) ? "" : wrong(name, "one of those that can be chosen here", value);
    if (name === "hide_pale" || name === "own_scale") return typeof value === "boolean" ? "" : wrong(name, "true or false", value);
    if (Object.hasOwn(numbers, name)) return number(name, value, numbers[name]);
    if (name === "show") {
      const parts = partsOf(doc).map(([part]) => part);
      return Array.isArray(value) && value.every((part) => parts.includes(part)) ? "" : wrong(name, "a list of parts", value);
    }
    if (name === "selection") return gates(name, value, namesOf(doc).slice(0, doc.space.n.length));
    if (value === null) return "";
    if (!object(value) || Object.keys(value).sort().join() !== "budget,gates,step") return wrong(name, "gates, budget and step", value);
    return (
      gates("edit: gates", value.gates, namesOf(doc)) ||
      number("edit: budget", value.budget, numbers.budget) ||
      number("edit: step", value.step, numbers.step)
    );
  };
  for (const name of Object.keys(state)) {
    const problem = check(name, state[name]);
    if (problem) return problem;
  }
  return "";
}

/** The names of a state's fields (viewer.state.defaults). */
export function fieldsOf({ kind }) {
  const own = {
    run: ["own_scale", "in_cells", "step", "budget", "edit"],
    compare: ["own_scale", "in_cells", "a", "b", "task", "budget", "seed", "overlap"],
    transfer: ["source", "target", "value", "relative", "seed"],
  }[kind];
  return ["version", "kind", "of", "theme", "rows", "group", "stack", "type", "module", "hide_pale", "show", ...own, "selection"];
}

const clipped = (text) => (text.length <= 60 ? text : `${text.slice(0, 57)}...`);

/** The fragment of an address that opens these states, by viewer. */
export function linkOf(states) {
  const bytes = new TextEncoder().encode(JSON.stringify(states));
  const signs = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return LINK + btoa(signs).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** What a fragment holds: null: no view; {problem}; or {states: a Map}. viewers: of this page. */
export function fromLink(hash, viewers) {
  if (!hash.startsWith(LINK)) return null;
  const text = hash.slice(LINK.length);
  if (text.length > LONGEST_LINK) return { problem: "the link of a view is too long to be one" };
  let made;
  try {
    if (!/^[\w-]+$/.test(text)) throw new Error("no base64url");
    const signs = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    made = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(signs, (sign) => sign.charCodeAt(0))));
    if (typeof made !== "object" || made === null || Array.isArray(made)) throw new Error("no states");
  } catch {
    return { problem: "the link of a view is damaged; this is the page as it opens without one" };
  }
  const states = new Map(Object.entries(made).filter(([name]) => viewers.includes(name)));
  if (!states.size) return { problem: "the link is of a view of another page; this is the page as it opens without one" };
  return { states };
}

const known = (value) => value !== null && value !== undefined && value !== "";
const searchOf = ({ task, backbone, mode }, how) => {
  const folder = known(task) ? ` for ${String(task).replace(/\/+$/, "").split("/").pop()}` : "";
  return `a structure search${folder}${known(backbone) ? ` on ${backbone}` : ""} (${[known(mode) && `mode ${mode}`, ...how].filter(Boolean).join(", ")})`;
};
const howOf = ({ step, steps, seed }) => [
  `step ${say(step)}${steps ? ` of ${say(steps)}` : ""}`,
  known(seed) ? `n = 1 seed: ${seed}` : "n = 1 search",
];
const gatesOf = ({ chosen, gates, pinned }, are = "") =>
  `${say(chosen)} of ${say(gates)} gates${are}${pinned ? ` and ${say(pinned)} pinned in by hand` : ""}`;
const sizeOf = ({ used, budget, backbone_params: all }) => {
  const share = all ? ` (${+((100 * budget) / all).toPrecision(3)} % of the backbone's ${say(all)})` : "";
  return `${say(used)} parameters${budget ? ` of a budget of ${say(budget)}${share}` : "; no budget was named"}`;
};

/** What a paper needs to know of a picture of one run: figures.caption. facts: task, backbone, mode, seed, pinned, chosen,
 *  gates, used, budget (null: none was named), backbone_params, step (from 1), steps. */
export function captionOf(facts) {
  return (
    `Gate probabilities p of ${searchOf(facts, howOf(facts))}. ` +
    `Outlined: the ${gatesOf(facts, " that are chosen")}; ${sizeOf(facts)}. One seed: no interval can be given.`
  );
}

/** Of B minus A, a run each: figures.caption(b, minus=a). shared, either: how many gates both chose, and one or both. */
export function differenceOf(a, b, shared, either) {
  const side = (name, facts) => `${name}: ${searchOf(facts, howOf(facts))}, ${gatesOf(facts, " chosen")}, ${sizeOf(facts)}`;
  return (
    `Gate probabilities p of B minus A. ${side("A", a)}. ${side("B", b)}. Both chose ${say(shared)} of the ${say(either)} gates that one ` +
    `or both chose (Jaccard ${(either ? shared / either : 1).toFixed(2)}). One seed a side: seeds alone may make the difference.`
  );
}

/** Of B minus A, means over the seeds of each: figures.caption(b, minus=a). a, b: facts of each seed; told: what is left. */
export function seedsDifferenceOf(a, b, told) {
  const side = (name, seeds) => {
    const steps = seeds.map((one) => one.step),
      [low, high] = [Math.min(...steps), Math.max(...steps)],
      named = seeds.map((one) => one.seed).sort((x, y) => x - y);
    const how = [`${low === high ? say(low) : `${say(low)} to ${say(high)}`} steps`, `n = ${seeds.length} seed${seeds.length > 1 ? "s" : ""}: ${named.join(", ")}`];
    return `${name}: ${searchOf(seeds[0], how)}`;
  };
  return (
    `Gate probabilities p of B minus A, means over seeds. ${side("A", a)}. ${side("B", b)}. Tested, ${told.replace(" · ", ": ")} ` +
    "(Benjamini and Hochberg, q at most 0.05). Hatched: the interval holds 0."
  );
}
