"""What the tiny backbone is pretrained on: span corruption and a supervised mixture, as T5 was.

The mixture teaches general skills (finding who did what, changing voice and tense, comparing two sentences
word by word, knowing synonyms, opposites and numbers).  It never shows one of the five embedded tasks: no example
has their prefixes or their labels; their label words occur only in lists of random words to copy or compare.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import lexicon as lx
from grammar import NP, TENSES, Grammar, Opinions
from make_tasks import BREAKS
from pairs import change, pair_clause, respell, sibling

Example = tuple[str, str]
# Words of the five tasks.  They enter the vocabulary and lists of random words to copy or compare, nothing else.
TASK_WORDS = [
    "sentiment",
    "acceptability",
    "paraphrase",
    "entailment",
    "similarity",
    "positive",
    "negative",
    "acceptable",
    "unacceptable",
    "equivalent",
    "not_equivalent",
    "not_entailment",
    "neutral",
    "contradiction",
]


def split_words(text: str) -> list[str]:
    """Words and punctuation, apart."""
    return text.replace(",", " ,").replace(".", " .").replace("?", " ?").split()


def join_words(words: list[str]) -> str:
    """The inverse of ``split_words``."""
    return " ".join(words).replace(" ,", ",").replace(" .", ".").replace(" ?", "?")


def document(g: Grammar) -> str:
    """One or two sentences; the second often restates the first or agrees with it, as in real text."""
    roll = g.rng.random()
    if roll < 0.35:
        return g.sentence(1)
    if roll < 0.65:
        c = pair_clause(g, 0.6)
        return f"{g.spelled(c)}. {respell(g, c, 0.4).text(g.chance(0.5))}."
    if roll < 0.8:
        op, side = Opinions(g), g.rng.randrange(2)
        return f"{op.sentence(side)}. {op.simple(side, 'it', 0.3)}."
    if roll < 0.9:
        op, side = Opinions(g), g.rng.randrange(2)
        return op.sentence(side) + "."
    a = g.clause(0)
    return f"{a.text()}. {replace(g.clause(0), subj=a.subj).text()}."


def span(g: Grammar) -> Example:
    """T5's objective: about 20 % of the words hidden in short spans behind sentinels."""
    words = split_words(document(g))
    hide = [False] * len(words)
    for _ in range(max(1, round(len(words) * 0.2 / 1.7))):
        start, length = g.rng.randrange(len(words)), g.rng.choice((1, 1, 2, 3))
        for i in range(start, min(start + length, len(words))):
            hide[i] = True
    source: list[str] = []
    target: list[str] = []
    for i, word in enumerate(words):
        if not hide[i]:
            source.append(word)
            continue
        if i == 0 or not hide[i - 1]:
            mark = f"<extra_id_{sum(w.startswith('<extra') for w in target)}>"
            source.append(mark)
            target.append(mark)
        target.append(word)
    return join_words(source), join_words(target)


def plain_text(g: Grammar) -> Example:
    """Text to read on from its beginning: what a causal model has instead of spans."""
    return "", document(g)


def synonym(g: Grammar) -> Example:
    """Another word with the same meaning."""
    while True:
        pool = g.rng.choice((lx.PLAIN, lx.OPINION, lx.OPINION))
        roll = g.rng.random()
        if roll < 0.4:
            adj = g.rng.choice(pool)
            others = [a.word for a in lx.synonyms_of_adj(adj, pool)]
            word = adj.word
        elif roll < 0.7:
            noun = g.rng.choice(lx.NOUNS)
            many = g.chance(0.3)
            word = noun.pl if many else noun.sg
            others = [n.pl if many else n.sg for n in lx.synonyms_of_noun(noun)]
        else:
            verb = g.rng.choice((*lx.TRANSITIVE, *lx.INTRANSITIVE))
            form = g.rng.choice(("base", "past", "part", "third", "ing"))
            word = getattr(verb, form)
            others = [getattr(v, form) for v in lx.synonyms_of_verb(verb)]
        if others and g.chance(0.3):
            if g.chance(0.5):
                return f"same? {word} {g.rng.choice((word, *others))}", "yes"
            return f"same? {word} {g.rng.choice(VOCABULARY)}", "no"
        if others:
            return f"synonym of {word}", g.rng.choice(others)


def opposite(g: Grammar) -> Example:
    """A word from the other end of the scale."""
    pool = g.rng.choice((lx.PLAIN, lx.OPINION, lx.OPINION))
    adj = g.rng.choice(pool)
    return f"opposite of {adj.word}", g.rng.choice([a.word for a in lx.opposites_of_adj(adj, pool)])


def kind(g: Grammar) -> Example:
    """The category of a noun, or the odd one out of three."""
    a, b = g.rng.sample(sorted(lx.HYPERNYM), 2)
    if g.chance(0.4):
        side = g.rng.randrange(2)
        words = [x.word for x in lx.OPINION if x.side == side]
        words += [w for v, s in lx.LIKING if s == side for w in (v.base, v.past)]
        words += lx.BAD_NOUNS if side else lx.GOOD_NOUNS
        return f"kind of {g.rng.choice(words)}", ("praise", "blame")[side]
    if g.chance(0.5):
        noun = g.rng.choice(lx.BY_CATEGORY[a])
        many = g.chance(0.3)
        return f"kind of {noun.pl if many else noun.sg}", lx.HYPERNYM[a][many]
    words = [n.sg for n in g.rng.sample(lx.BY_CATEGORY[a], 2)]
    odd = g.rng.choice(lx.BY_CATEGORY[b]).sg
    words.insert(g.rng.randrange(3), odd)
    return "odd one out: " + " ".join(words), odd


def number_form(g: Grammar) -> Example:
    """Singular to plural and back, or a verb's form."""
    if g.chance(0.5):
        noun = g.rng.choice(lx.NOUNS)
        return (f"plural of {noun.sg}", noun.pl) if g.chance(0.5) else (f"singular of {noun.pl}", noun.sg)
    verb = g.rng.choice((*lx.TRANSITIVE, *lx.INTRANSITIVE))
    form = g.rng.choice(("past", "part", "third", "ing", "base"))
    source = getattr(verb, g.rng.choice(("base", "third", "ing")))
    return f"{form} form of {source}", getattr(verb, form)


def voice(g: Grammar) -> Example:
    """Active to passive or back."""
    c = pair_clause(g, 0.4)
    to_passive = g.chance(0.5)
    return f"{'passive' if to_passive else 'active'}: {c.text(not to_passive)}.", c.text(to_passive) + "."


def tense(g: Grammar) -> Example:
    """The same clause in another tense, or denied."""
    c = g.clause(extras=0.3)
    c = replace(c, time="")
    if g.chance(0.3):
        return f"deny: {replace(c, neg=False).text()}.", replace(c, neg=True).text() + "."
    new = g.rng.choice(TENSES)
    return f"{new} tense: {c.text()}.", replace(c, tense=new).text() + "."


def question(g: Grammar) -> Example:
    """Who, whom, where, when or did what, about one or two sentences."""
    c = pair_clause(g, 1.2)
    assert c.obj is not None
    asks = {"subject": c.subj.text(), "object": c.obj.text(), "verb": c.verb.base}
    if c.place is not None:
        asks["where"] = f"{c.prep} {c.place.text()}"
    if c.time:
        asks["when"] = c.time
    ask = g.rng.choice(list(asks))
    text = g.spelled(c, passive=0.5, front=0.3) + "."
    if ask in ("subject", "object") and g.chance(0.6):
        by = "who did" if ask == "subject" else "to whom"
        other = pair_clause(g, 0.0)
        joined = [text, g.spelled(other, passive=0.5) + "."]
        g.rng.shuffle(joined)
        return f"{by} {g.rng.choice((c.verb, *lx.synonyms_of_verb(c.verb))).base}? {' '.join(joined)}", asks[
            ask
        ]
    return f"{ask}: {text}", asks[ask]


def yes_no(g: Grammar) -> Example:
    """A yes/no question about one sentence."""
    yes = g.chance(0.5)
    c = replace(pair_clause(g, 0.2), neg=not yes and g.chance(0.25))
    asked = respell(g, c if yes else change(g, replace(c, neg=False)), 0.2)
    if (
        not yes and asked.neg
    ):  # the change was the denial itself: ask the plain question about a denied sentence
        c, asked = replace(c, neg=True), replace(asked, neg=False)
    return f"question: {asked.question()}? {g.spelled(c, passive=0.4)}.", "yes" if yes else "no"


def spot(g: Grammar) -> Example:
    """Which part of the clause changed, or which word is new, spelled in any voice."""
    c = replace(pair_clause(g, 0.0), place=g.place(), prep="near", tense="past", neg=False)
    c = replace(c, time=g.rng.choice(lx.TIMES["past"]))
    assert c.obj is not None
    assert c.place is not None
    part = g.rng.choice(("subject", "object", "verb", "where", "when"))
    if part == "subject":
        new = replace(c, subj=sibling(g, c.subj, c.obj))
    elif part == "object":
        new = replace(c, obj=sibling(g, c.obj, c.subj))
    elif part == "verb":
        new = replace(c, verb=g.rng.choice([v for v in lx.TRANSITIVE if v.group != c.verb.group]))
    elif part == "where":
        new = replace(c, place=sibling(g, c.place))
    else:
        new = replace(c, time=g.rng.choice([t for t in lx.TIMES["past"] if t != c.time]))
    fronts = ("", "", "time", "place")
    new = respell(g, new, 0.25)
    texts = [x.text(g.chance(0.3), g.rng.choice(fronts)) for x in (c, new)]
    assert new.obj is not None
    assert new.place is not None
    if g.chance(0.5):
        heads = {"subject": new.subj.head, "object": new.obj.head, "verb": new.verb.base}
        return f"new word: {texts[0]}. {texts[1]}.", (heads | {"where": new.place.head, "when": new.time})[
            part
        ]
    return f"what changed? {texts[0]}. {texts[1]}.", part


def compare_lists(g: Grammar) -> Example:
    """Whether two short lists hold the same words, or which word of the second is new."""
    left = g.rng.sample(VOCABULARY, g.rng.randrange(1, 6))
    right = list(left)
    g.rng.shuffle(right)
    asks_new = g.chance(0.5)
    if asks_new or g.chance(0.5):
        at = g.rng.randrange(len(right))
        right[at] = g.rng.choice([w for w in VOCABULARY if w not in left])
        lists = f"{' '.join(left)} and {' '.join(right)}"
        return (f"new word: {lists}", right[at]) if asks_new else (f"same words? {lists}", "no")
    return f"same words? {' '.join(left)} and {' '.join(right)}", "yes"


def shared(g: Grammar) -> Example:
    """Which noun two sentences share, or how many words two lists share."""
    if g.chance(0.5):
        a, b = (pair_clause(g, 0.0) for _ in range(2))
        noun = g.rng.choice(lx.BY_CATEGORY["animal"] + lx.BY_CATEGORY["person"])
        both = NP(noun=noun)
        a = replace(a, subj=both) if g.chance(0.5) else replace(a, obj=both)
        b = replace(b, subj=both) if g.chance(0.5) else replace(b, obj=both)
        return f"in both: {g.spelled(a)}. {g.spelled(respell(g, b, 0.2))}.", noun.sg
    if g.chance(0.6):
        return compare_lists(g)
    nouns = g.rng.sample(lx.NOUNS, 9)
    k = g.rng.randrange(5)
    left, right = nouns[:4], nouns[:k] + nouns[4 : 8 - k]
    g.rng.shuffle(right)
    words = [" ".join(n.sg for n in side) for side in (left, right)]
    return f"count shared: {words[0]} and {words[1]}", ("zero", *lx.NUMBERS)[k]


def same_who(g: Grammar) -> Example:
    """Whether two different events have the same actor."""
    a, b = pair_clause(g, 0.2), pair_clause(g, 0.2)
    yes = g.chance(0.5)
    if yes:
        b = replace(b, subj=a.subj)
    elif g.chance(0.5):
        b = replace(b, subj=sibling(g, a.subj), obj=a.obj if g.chance(0.5) else b.obj)
    elif a.verb.kind == "being":
        b = replace(b, obj=a.subj, subj=g.other_than(a.subj, "person"))
    else:
        b = replace(b, subj=sibling(g, a.subj))
    b = replace(b, subj=b.subj.bare()) if g.chance(0.5) else b
    texts = [g.spelled(x, passive=0.4) for x in (a, respell(g, b, 0.15))]
    same = a.subj.head == b.subj.head or yes
    return f"same actor? {texts[0]}. {texts[1]}.", "yes" if same else "no"


def repair(g: Grammar) -> Example:
    """Denoising: a broken or shuffled sentence back to a whole one."""
    while True:
        c = g.clause(extras=0.6)
        if g.chance(0.25):
            words = c.text().split()
            i = g.rng.randrange(len(words) - 1)
            words[i], words[i + 1] = words[i + 1], words[i]
            return f"repair: {' '.join(words)}.", c.text() + "."
        how = g.rng.choice(BREAKS)
        noisy = how(g.rng, c)
        if how.__name__ != "break_missing" and noisy:
            keep = g.chance(0.3)
            return f"repair: {c.text() if keep else noisy}.", c.text() + "."


def clause_part(g: Grammar) -> Example:
    """The main or last part of an opinion, or the same opinion without its denial."""
    op, side = Opinions(g), g.rng.randrange(2)
    if g.chance(0.5):
        main, aside = op.simple(side, op.topic(), 0.2), op.simple(1 - side, op.part(), 0.2)
        roll = g.rng.random()
        if roll < 0.4:
            return f"in the end: {aside}{g.rng.choice((' but ', ', yet '))}{main}.", main + "."
        word = g.rng.choice(("although", "even though", "while"))
        text = f"{word} {aside}, {main}" if g.chance(0.5) else f"{main} {word} {aside}"
        return f"in the end: {text}.", main + "."
    adj = g.rng.choice(lx.OPINION)
    no = g.rng.choice(("not", "never", "hardly", "not at all", "far from", "anything but"))
    about = op.topic() if g.chance(0.5) else op.part()
    other = g.rng.choice(lx.opposites_of_adj(adj, lx.OPINION)).word
    return f"restate: {about} was {no} {adj.word}.", f"{about} was {other}."


def numbers(g: Grammar) -> Example:
    """Order and size of numbers."""
    a, b = (g.rng.randrange(51) / 10 for _ in range(2))
    roll = g.rng.random()
    if roll < 0.4:
        big = g.chance(0.5)
        return f"{'larger' if big else 'smaller'}: {a} and {b}", str(max(a, b) if big else min(a, b))
    if roll < 0.7:
        step = g.rng.choice((0.4, 0.8, 1.0, 2.0))
        total = round(a + step, 1)
        if total <= 5:
            return f"add: {a} and {step}", str(total)
        return f"next: {min(a, 4.9)}", str(round(min(a, 4.9) + 0.1, 1))
    k = g.rng.randrange(1, 7)
    words = [g.rng.choice(lx.NOUNS).sg for _ in range(k)]
    return "count: " + " ".join(words), lx.NUMBERS[k - 1]


def position(g: Grammar) -> Example:
    """First word, last word, or a copy, of any words, the tasks' own among them."""
    words = [g.rng.choice(VOCABULARY) for _ in range(g.rng.randrange(2, 6))]
    text = " ".join(words)
    how = g.rng.choice(("first", "last", "copy"))
    return f"{how} word: {text}", {"first": words[0], "last": words[-1], "copy": text}[how]


def vocabulary() -> list[str]:
    """Every word that tasks and skills can produce, in a fixed order."""
    words: list[str] = [*lx.NAMES, *TASK_WORDS]
    for noun in lx.NOUNS:
        words += [noun.sg, noun.pl]
    for verb in (*lx.TRANSITIVE, *lx.INTRANSITIVE, *(v for v, _ in lx.LIKING)):
        words += [verb.base, verb.third, verb.past, verb.part, verb.ing]
    words += [a.word for a in (*lx.PLAIN, *lx.OPINION)]
    words += [
        *lx.COLORS,
        *lx.PARTS,
        *lx.GOOD_NOUNS,
        *lx.BAD_NOUNS,
        *lx.DEGREE,
        *lx.FREQ,
        *lx.PREPS,
        *lx.NUMBERS,
    ]
    words += [w for pair in lx.MANNER for w in pair]
    words += [w for group in lx.TIMES.values() for phrase in group for w in phrase.split()]
    words += [w for pair in lx.HYPERNYM.values() for w in pair]
    words += [f"{i / 10:.1f}" for i in range(51)]
    return list(dict.fromkeys(words))


VOCABULARY = vocabulary()
# name -> (how, weight in the first stage, weight in the second, where comparing two texts comes first)
Mixture = dict[str, tuple[Callable[[Grammar], Example], float, float]]
MIXTURE: Mixture = {
    "span_corruption": (span, 0.18, 0.06),
    "synonym": (synonym, 0.09, 0.1),
    "opposite": (opposite, 0.05, 0.03),
    "word_kind": (kind, 0.06, 0.05),
    "word_form": (number_form, 0.02, 0.01),
    "voice": (voice, 0.05, 0.03),
    "tense_and_denial": (tense, 0.03, 0.02),
    "who_did_what": (question, 0.06, 0.04),
    "yes_no_question": (yes_no, 0.11, 0.18),
    "what_changed": (spot, 0.10, 0.13),
    "shared_word": (shared, 0.09, 0.14),
    "same_actor": (same_who, 0.04, 0.08),
    "repair": (repair, 0.05, 0.06),
    "main_clause": (clause_part, 0.06, 0.04),
    "numbers": (numbers, 0.03, 0.02),
    "position": (position, 0.02, 0.01),
}
# The same for a causal model.
CAUSAL_MIXTURE: Mixture = {"plain_text": (plain_text, *MIXTURE["span_corruption"][1:])} | {
    name: skill for name, skill in MIXTURE.items() if name != "span_corruption"
}


def stream(
    rng: random.Random, count: int, stage: int = 1, mixture: Mixture = MIXTURE
) -> list[tuple[str, str, str]]:
    """``count`` random (skill, source, target) examples."""
    plain, rich = Grammar(rng, plain=True), Grammar(rng)
    names = list(mixture)
    picks = rng.choices(names, [mixture[n][stage] for n in names], k=count)
    return [(n, *mixture[n][0](rich if rng.random() < 0.4 else plain)) for n in picks]
