// The card of s3.trust. The kernel makes it, in its own time; a page without one holds what it was written with.

/** How long the kernel is given before it is asked again, in ms: the question or the answer may be lost. */
const JUDGE_AGAIN = 5000;

/** Which card is meant: of a run at a step, of some of several runs, of a study. */
export function cardKey(id, { step = null, runs = null } = {}) {
  return step !== null ? `${id}@${step}` : runs ? `${id}:${runs.join()}` : id;
}

class TrustCard {
  constructor(view) {
    Object.assign(this, { view, el: h("section", { class: "s3-trust", role: "status" }), step: null, asked: new Map() });
  }

  get shown() {
    return this.view.parts.has("trust");
  }

  get cards() {
    return JSON.parse(this.view.model.get("trust") || "{}");
  }

  /** Of a run: as it was when it was first asked for, again on request, and once more when it has ended. */
  drawRun() {
    const { live } = this.view.store,
      ended = !["starting", "running", "paused"].includes(live.status);
    if (this.shown && (this.step === null || ended)) this.step = live.step;
    const more = () => {
      this.step = live.step;
      this.view.queue();
    };
    this.#draw({ step: this.step }, (card) => {
      const old = card.step !== null && live.step > card.step && !this.view.model.get("standing");
      return [
        h("span", { class: "s3-muted" }, card.step === null ? "" : `as of step ${say(card.step)}`),
        old && h("button", { type: "button", onclick: more }, "judge again"),
      ];
    });
  }

  /** Of those of several runs that are not filtered out; a page without a kernel has all of its runs only. */
  drawSeveral(runs) {
    const all = this.view.store.doc.runs.length,
      some = this.view.model.get("standing") && runs.length < all;
    this.#draw({ runs }, () => [
      some && h("span", { class: "s3-muted" }, `of all ${say(all)} runs: this page has no kernel to judge some of them`),
    ]);
  }

  drawAll() {
    this.#draw({}, () => []);
  }

  #draw(about, aside) {
    const { view } = this,
      { model, store } = view;
    this.el.hidden = !this.shown;
    if (this.el.hidden) return;
    const key = cardKey(store.doc.id, about),
      { cards } = this,
      standing = model.get("standing"),
      card = standing ? Object.values(cards)[0] : cards[key];
    if (!card && !standing) this.#ask(key, about);
    const kids = card ? this.#card(card, aside(card)) : [h("span", { class: "s3-muted" }, this.#waits())];
    const text = kids.map((kid) => kid && kid.outerHTML).join("");
    if (text !== this.text) this.el.replaceChildren(...kids);
    this.text = text;
  }

  #waits() {
    const { gone } = this.view.store;
    if (this.view.model.get("standing")) return "This page holds no card: s3pet trust makes one.";
    return gone
      ? "The kernel of this view is gone: s3.trust makes the card."
      : "being judged … (the kernel begins as soon as it is free; the view goes on)";
  }

  #ask(key, { runs = null }) {
    const { store } = this.view;
    if (store.gone || Date.now() - this.asked.get(key) < JUDGE_AGAIN) return;
    this.asked.set(key, Date.now());
    store.ask({ kind: "trust", key, runs });
    setTimeout(() => this.view.queue(), JUDGE_AGAIN + 1);
  }

  #card({ problem, name, verdict, answers, parts, open }, aside) {
    if (problem) return [h("div", { class: "s3-alert", role: "alert" }, problem)];
    const table = (head, rows) =>
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            head.map((words) => h("th", { scope: "col" }, words)),
          ),
        ),
        h("tbody", {}, rows),
      );
    const answered = answers.map(([question, answer, words, level]) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, question),
        h("td", { class: `s3-is-${level}` }, `${SIGNS[level]} ${answer}`),
        h("td", {}, words),
      ),
    );
    const remedies = open.map(([what, call, took]) => h("li", {}, `${what}${took && `, ${took}`}: `, h("code", {}, call)));
    const lines = parts.map((cells) =>
      h(
        "tr",
        {},
        cells.map((cell) => h("td", {}, cell)),
      ),
    );
    return [
      h("div", { class: "s3-line" }, h("b", {}, name), `${verdict}.`, ...aside),
      table(["question", "answer", "in words"], answered),
      remedies.length > 0 && h("details", {}, h("summary", {}, "what is not known, and what would find it out"), h("ul", {}, remedies)),
      lines.length > 0 &&
        h("details", {}, h("summary", {}, "by task and budget"), table(["question", "about", "answer", "in words"], lines)),
    ].filter(Boolean);
  }
}
