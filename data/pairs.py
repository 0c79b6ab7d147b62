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


def paraphrase(rng: random.Random, label: int) -> Row:
    """The same meaning in another voice, order and wording, or a changed meaning behind the same disguise."""
    g = Grammar(rng, plain=True)
    while True:
        c = pair_clause(g, 0.6)
        other = c if label else change(g, c)
        voice = g.chance(0.3)
        first = c.text(voice, g.front(c) if g.chance(0.3) else "")
        spelled = respell(g, other, 0.35)
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
        return respell(g, c, 0.2)
    keep = g.rng.choice(("", "", "manner", "time", "place"))
    return replace(
        respell(g, c, 0.15),
        subj=general(g, c.subj),
        obj=general(g, c.obj) if c.obj is not None else None,
        manner=c.manner if keep == "manner" else "",
        time=c.time if keep == "time" else "",
        place=c.place if keep == "place" else None,
    )


def entailment(rng: random.Random, label: int) -> Row:
    """Does the hypothesis follow from a premise of one or two clauses?"""
    g = Grammar(rng, plain=True)
    while True:
        a, b = pair_clause(g, 0.4), pair_clause(g, 0.2)
        shape = rng.random()
        if shape < 0.5:
            premise = g.spelled(a)
        elif shape < 0.85:
            premise = (
                f"{g.spelled(a)} {rng.choice(('and', 'but', 'while', 'because'))} {g.spelled(b, front=0.0)}"
            )
        else:
            b = replace(b, neg=False, manner="", time="", prep="", place=None)
            if a.subj.noun is None:
                continue
            b = replace(b, subj=a.subj.bare())
            premise = replace(a, subj=replace(a.subj, rel=b)).text()
        about = a if shape < 0.5 or g.chance(0.5) else b
        if label:
            hypothesis = weaker(g, about)
        elif shape >= 0.5 and g.chance(0.3) and a.verb.kind == b.verb.kind and a.verb.group != b.verb.group:
            hypothesis = weaker(g, replace(about, verb=(b if about is a else a).verb))
        else:
            hypothesis = weaker(g, change(g, about))
        # A changed hypothesis may be vague enough to be true after all; draw again when it is.
        if not label and (follows(hypothesis, a) or (shape >= 0.5 and follows(hypothesis, b))):
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


def similarity(rng: random.Random, score: float) -> Row:
    """Who, what, whom, where and when: each shared part is 1, a synonym 0.8, the same kind of thing 0.4."""
    g = Grammar(rng, plain=True)
    while True:
        got = [rng.choice(c) for c in ((0, 0.4, 0.8, 1), (0, 0.8, 1), (0, 0.4, 0.8, 1), (0, 0.8, 1), (0, 1))]
        if abs(sum(got) - score) > 1e-9:
            continue
        first = similar_base(g)
        second = similar_to(g, first, got)
        if second is None:
            continue
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


def similar_to(g: Grammar, c: Clause, got: list[float]) -> Clause | None:
    """A clause that shares with ``c`` exactly what ``got`` says, or None when there is no such synonym."""
    assert c.obj is not None
    assert c.place is not None
    nps: list[NP] = []
    for np, part in ((c.subj, got[0]), (c.obj, got[2]), (c.place, got[3])):
        assert np.noun is not None
        same = lx.synonyms_of_noun(np.noun)
        if part == 1:
            nps.append(np)
        elif part == 0.8:
            if not same:
                return None
            nps.append(replace(np, noun=g.rng.choice(same)))
        elif part == 0.4 or np is c.place:
            nps.append(sibling(g, np))
        else:
            pool = [n for n in lx.NOUNS if n.category != np.noun.category and n.category != "place"]
            if np is c.subj:
                pool = [n for n in pool if n.category in ("person", "animal")]
            nps.append(replace(np, noun=g.rng.choice(pool)))
    verb = c.verb
    if got[1] != 1:
        pool_v = (
            lx.synonyms_of_verb(verb) if got[1] else tuple(v for v in lx.TRANSITIVE if v.group != verb.group)
        )
        if not pool_v:
            return None
        verb = g.rng.choice(pool_v)
    time = c.time if got[4] else g.rng.choice([t for t in lx.TIMES["past"] if t != c.time])
    groups = [n.noun.group for n in nps[:2] if n.noun is not None]
    return (
        replace(c, subj=nps[0], verb=verb, obj=nps[1], place=nps[2], time=time)
        if groups[0] != groups[1]
        else None
    )
