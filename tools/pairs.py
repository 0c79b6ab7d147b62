"""The three tasks about two sentences: paraphrase, entailment and similarity.

Both sentences come from clause trees, so what they share and what follows is known, not guessed.
"""

from __future__ import annotations

import random
from dataclasses import replace

import lexicon as lx
from grammar import NP, Clause, Grammar

Row = dict[str, str | int | float]


def respell_np(g: Grammar, np: NP, p: float) -> NP:
    """Synonyms for the noun and its adjective, each with probability ``p``."""
    if np.noun is None:
        return np
    noun, adjs = np.noun, np.adjs
    others = lx.synonyms_of_noun(noun)
    if others and g.chance(p):
        noun = g.rng.choice(others)
    if adjs and g.chance(p):
        same = [a for a in lx.PLAIN if a.word == adjs[0]]
        swaps = lx.synonyms_of_adj(same[0]) if same else ()
        adjs = (swaps[0].word, *adjs[1:]) if swaps else adjs
    return replace(np, noun=noun, adjs=adjs)


def respell(g: Grammar, c: Clause, p: float) -> Clause:
    """The same meaning in other words."""
    verbs = lx.synonyms_of_verb(c.verb)
    manner = c.manner
    for pair in lx.MANNER:
        if manner in pair and len(pair) > 1 and g.chance(p):
            manner = pair[1 - pair.index(manner)]
            break
    return replace(
        c,
        subj=respell_np(g, c.subj, p),
        verb=g.rng.choice(verbs) if verbs and g.chance(p) else c.verb,
        obj=respell_np(g, c.obj, p) if c.obj is not None else None,
        manner=manner,
        place=respell_np(g, c.place, p) if c.place is not None else None,
    )


def sibling(g: Grammar, np: NP, avoid: NP | None = None) -> NP:
    """Another thing or person of the same kind, which is a different one."""
    if np.noun is None:
        taken = {np.name, avoid.name if avoid is not None else ""}
        return replace(np, name=g.rng.choice([n for n in lx.NAMES if n not in taken]))
    taken_groups = {n.noun.group for n in (np, avoid) if n is not None and n.noun is not None}
    pool = [n for n in lx.BY_CATEGORY[np.noun.category] if n.group not in taken_groups]
    return replace(np, noun=g.rng.choice(pool))


def change(g: Grammar, c: Clause) -> Clause:
    """The clause with one part of its meaning changed; roles are swapped when both sides could act."""
    assert c.obj is not None
    ways = ["subj", "subj", "obj", "obj", "verb", "verb", "neg"]
    if c.verb.kind == "being":
        ways += ["roles"] * 4
    if c.place is not None:
        ways += ["place"]
    if any(np.adjs and np.adjs[0] not in lx.COLORS for np in (c.subj, c.obj)):
        ways += ["adj"] * 2
    way = g.rng.choice(ways)
    if way == "roles":
        return replace(c, subj=c.obj, obj=c.subj)
    if way == "subj":
        return replace(c, subj=sibling(g, c.subj, c.obj))
    if way == "obj":
        return replace(c, obj=sibling(g, c.obj, c.subj))
    if way == "neg":
        return replace(c, neg=not c.neg)
    if way == "place" and c.place is not None:
        return replace(c, place=sibling(g, c.place))
    if way == "adj":
        which = g.rng.choice(
            [k for k in ("subj", "obj") if (n := getattr(c, k)).adjs and n.adjs[0] not in lx.COLORS]
        )
        np: NP = getattr(c, which)
        old = next(a for a in lx.PLAIN if a.word == np.adjs[0])
        new = replace(np, adjs=(g.rng.choice(lx.opposites_of_adj(old)).word, *np.adjs[1:]))
        return replace(c, subj=new) if which == "subj" else replace(c, obj=new)
    pool = [v for v in lx.TRANSITIVE if v.kind == c.verb.kind and v.group != c.verb.group]
    return replace(c, verb=g.rng.choice(pool))


def pair_clause(g: Grammar, extras: float) -> Clause:
    """A clause with an object whose parts can all be changed."""
    kind = g.rng.choice(("being", "being", "thing", "food", "work"))
    return g.clause(kind=kind, extras=extras)


def altered(g: Grammar, c: Clause, subtle: float = 1.0) -> Clause:
    """The clause with its meaning plainly changed: two of its parts; with probability 0.18 `subtle` its roles or a
    denial instead."""
    assert c.obj is not None
    roll = g.rng.random() / subtle if subtle else 1.0
    if roll < 0.08 and c.verb.kind == "being":
        return replace(c, subj=c.obj, obj=c.subj)
    if roll < 0.18:
        return replace(c, neg=not c.neg)
    other_verbs = [v for v in lx.TRANSITIVE if v.kind == c.verb.kind and v.group != c.verb.group]
    parts = {"subj", "obj", "verb"} - {g.rng.choice(("subj", "obj", "verb"))}
    subj = sibling(g, c.subj, c.obj) if "subj" in parts else c.subj
    obj = sibling(g, c.obj, subj) if "obj" in parts else c.obj
    return replace(c, subj=subj, obj=obj, verb=g.rng.choice(other_verbs) if "verb" in parts else c.verb)


def paraphrase(rng: random.Random, label: int) -> Row:
    """The same meaning in another voice, order and wording, or a changed meaning behind the same disguise."""
    g = Grammar(rng, plain=True)
    while True:
        c = pair_clause(g, 0.6)
        other = c if label else altered(g, c)
        voice = g.chance(0.3)
        first = c.text(voice, g.front(c) if g.chance(0.3) else "")
        spelled = respell(g, other, 0.08)
        second = spelled.text(voice != g.chance(0.5), g.front(spelled) if g.chance(0.3) else "")
        if first != second:
            return {"sentence1": first + ".", "sentence2": second + "."}


def general(g: Grammar, np: NP) -> NP:
    """Something more general that is still true: fewer adjectives, or the kind of thing it is."""
    if np.noun is None:
        return np
    kind = lx.HYPERNYM.get(np.noun.category)
    if kind is not None and g.chance(0.35):
        return NP(
            noun=lx.Noun(*kind, np.noun.category, -1), plural=np.plural, det="some" if np.plural else "a"
        )
    return replace(np, adjs=np.adjs[:1] if g.chance(0.3) else ())


def weaker(g: Grammar, c: Clause) -> Clause:
    """A clause that follows from ``c``."""
    if c.neg:
        return respell(g, c, 0.05)
    keep = g.rng.choice(("", "", "manner", "time", "place"))
    wide = g.chance(0.15)
    return replace(
        respell(g, c, 0.05),
        subj=general(g, c.subj) if wide else c.subj,
        obj=general(g, c.obj) if c.obj is not None and wide else c.obj,
        manner=c.manner if keep == "manner" else "",
        time=c.time if keep == "time" else "",
        place=c.place if keep == "place" else None,
    )


def entailment(rng: random.Random, label: int) -> Row:
    """Does the hypothesis follow from a premise of one or two clauses?"""
    g = Grammar(rng, plain=True)
    single = 0.85  # share of premises with one clause
    while True:
        a, b = pair_clause(g, 0.4), pair_clause(g, 0.2)
        shape = rng.random()
        if shape < single:
            premise = g.spelled(a)
        elif shape < 0.95:
            premise = (
                f"{g.spelled(a)} {rng.choice(('and', 'but', 'while', 'because'))} {g.spelled(b, front=0.0)}"
            )
        else:
            b = replace(b, neg=False, manner="", time="", prep="", place=None)
            if a.subj.noun is None:
                continue
            b = replace(b, subj=a.subj.bare())
            premise = replace(a, subj=replace(a.subj, rel=b)).text()
        about = a if shape < single or g.chance(0.5) else b
        if label:
            hypothesis = weaker(g, about)
        elif shape >= single and g.chance(0.1) and a.verb.kind == b.verb.kind and a.verb.group != b.verb.group:
            hypothesis = weaker(g, replace(about, verb=(b if about is a else a).verb))
        else:
            hypothesis = weaker(g, altered(g, about, subtle=0.2))
        # A changed hypothesis may be vague enough to be true after all; draw again when it is.
        if not label and (follows(hypothesis, a) or (shape >= single and follows(hypothesis, b))):
            continue
        return {"premise": premise + ".", "hypothesis": g.spelled(hypothesis, front=0.1) + "."}


def agrees(said: NP | None, fact: NP | None) -> bool:
    """Whether ``fact`` is one of the things ``said`` names."""
    if said is None or fact is None:
        return said is None
    if said.noun is not None and said.noun.group == -1:
        return fact.noun is not None and fact.noun.category == said.noun.category
    if said.noun is None or fact.noun is None:
        return said.head == fact.head
    scales = {a.word: (a.scale, a.side) for a in lx.PLAIN}
    known = {scales.get(w, w) for w in fact.adjs}
    return said.noun.group == fact.noun.group and all(scales.get(w, w) in known for w in said.adjs)


def follows(said: Clause, fact: Clause) -> bool:
    """Whether ``said`` is true because ``fact`` is (times and manners are never changed, so not compared)."""
    same = said.verb.group == fact.verb.group and said.neg == fact.neg
    return same and all(agrees(getattr(said, k), getattr(fact, k)) for k in ("subj", "obj", "place"))


#: What each part of a clause is worth when both sentences share it; together 5.
WORTH = {"subj": 1.4, "verb": 1.2, "obj": 1.0, "place": 0.8, "time": 0.6}


def similarity(rng: random.Random, score: float) -> Row:
    """Who, what, whom, where and when: each part that the sentences share adds its worth."""
    g = Grammar(rng, plain=True)
    while True:
        shared = {part for part in WORTH if rng.random() < 0.5}
        if abs(sum(WORTH[part] for part in shared) - score) > 1e-9:
            continue
        first = similar_base(g)
        second = similar_to(g, first, shared)
        texts = [c.text(g.chance(0.3), rng.choice(("", "", "time", "place"))) + "." for c in (first, second)]
        return {"sentence1": texts[0], "sentence2": texts[1]}


def similar_base(g: Grammar) -> Clause:
    """A clause with all five parts."""
    subj = g.noun_phrase(g.rng.choice(("person", "animal")), adj=0.0, names=0.0, plural=0.0)
    verb, category = g.transitive()
    obj = g.other_than(replace(subj), category)
    while obj.noun is None or obj.adjs or obj.plural:
        obj = g.other_than(subj, category)
    return Clause(subj, verb, obj, time=g.rng.choice(lx.TIMES["past"]), prep="near", place=g.place())


def similar_to(g: Grammar, c: Clause, shared: set[str]) -> Clause:
    """A clause that shares with ``c`` these parts and no other."""
    assert c.obj is not None
    assert c.place is not None
    subj = c.subj if "subj" in shared else sibling(g, c.subj, c.obj)
    obj = c.obj if "obj" in shared else sibling(g, c.obj, subj)
    place = c.place if "place" in shared else sibling(g, c.place)
    verbs = [v for v in lx.TRANSITIVE if v.group != c.verb.group]
    times = [t for t in lx.TIMES["past"] if t != c.time]
    return replace(
        c,
        subj=subj,
        obj=obj,
        place=place,
        verb=c.verb if "verb" in shared else g.rng.choice(verbs),
        time=c.time if "time" in shared else g.rng.choice(times),
    )


def similarity_scores() -> list[float]:
    """The scores that some set of shared parts has, ascending."""
    sums = {0.0}
    for worth in WORTH.values():
        sums |= {round(s + worth, 1) for s in sums}
    return sorted(sums)
