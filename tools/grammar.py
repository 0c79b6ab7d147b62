"""Recursive random sentences with their meaning attached.

A sentence is built as a small tree (noun phrases inside clauses inside compounds) and only then spelled
out, so a task can change one part of the meaning, spell both versions in different ways, and know which
label is true.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import lexicon as lx
from lexicon import Adj, Noun, Verb

TENSES = ("past", "present", "progressive", "future", "perfect")
_TIME_OF = {"past": "past", "present": "present", "progressive": "present", "future": "future", "perfect": ""}


@dataclass(frozen=True)
class NP:
    """A noun phrase: a name, or determiner + adjectives + noun, with an optional place or relative clause."""

    name: str = ""
    noun: Noun | None = None
    plural: bool = False
    det: str = "the"
    adjs: tuple[str, ...] = ()
    near: NP | None = None
    prep: str = ""
    rel: Clause | None = None

    @property
    def is_plural(self) -> bool:
        return self.plural

    @property
    def head(self) -> str:
        """The head word as it is spelled."""
        if self.noun is None:
            return self.name
        return self.noun.pl if self.plural else self.noun.sg

    def text(self) -> str:
        """The phrase as written."""
        if self.noun is None:
            return self.name
        words = [*self.adjs, self.head]
        det = self.det
        if det == "a":
            det = "an" if words[0][0] in "aeiou" else "a"
        out = " ".join([det, *words] if det else words)
        if self.near is not None:
            out += f" {self.prep} {self.near.text()}"
        if self.rel is not None:
            out += (
                " " + ("who" if self.noun.category == "person" else "that") + " " + self.rel.predicate(self)
            )
        return out

    def bare(self) -> NP:
        """The same head without anything hanging from it."""
        return replace(self, adjs=(), near=None, prep="", rel=None)


@dataclass(frozen=True)
class Clause:
    """Who did what to whom, where, when and how; ``obj`` is None for verbs that take none."""

    subj: NP
    verb: Verb
    obj: NP | None
    tense: str = "past"
    neg: bool = False
    manner: str = ""
    time: str = ""
    prep: str = ""
    place: NP | None = None

    def predicate(self, subj: NP | None = None) -> str:
        """Verb, object and modifiers, agreeing with ``subj``."""
        parts = [self.verb_group((subj or self.subj).is_plural)]
        if self.obj is not None:
            parts.append(self.obj.text())
        return " ".join(parts + self.modifiers())

    def modifiers(self, skip: str = "") -> list[str]:
        """The trailing phrases, without the one called ``skip`` (spelled at the front instead)."""
        out = [self.manner] if self.manner and skip != "manner" else []
        if self.place is not None and skip != "place":
            out.append(f"{self.prep} {self.place.text()}")
        if self.time and skip != "time":
            out.append(self.time)
        return out

    def verb_group(self, plural: bool) -> str:
        """The active verb with its auxiliaries."""
        v, no = self.verb, " not" if self.neg else ""
        be = "are" if plural else "is"
        have = "have" if plural else "has"
        if self.tense == "past":
            return f"did not {v.base}" if self.neg else v.past
        if self.tense == "present":
            if self.neg:
                return f"{'do' if plural else 'does'} not {v.base}"
            return v.base if plural else v.third
        if self.tense == "progressive":
            return f"{be}{no} {v.ing}"
        if self.tense == "future":
            return f"will{no} {v.base}"
        return f"{have}{no} {v.part}"

    def passive_group(self) -> str:
        """The passive verb with its auxiliaries, agreeing with the object."""
        assert self.obj is not None
        many, no, part = self.obj.is_plural, " not" if self.neg else "", self.verb.part
        if self.tense == "past":
            return f"{'were' if many else 'was'}{no} {part}"
        if self.tense == "present":
            return f"{'are' if many else 'is'}{no} {part}"
        if self.tense == "progressive":
            return f"{'are' if many else 'is'}{no} being {part}"
        if self.tense == "future":
            return f"will{no} be {part}"
        return f"{'have' if many else 'has'}{no} been {part}"

    def text(self, passive: bool = False, front: str = "") -> str:
        """The clause without final punctuation; ``front`` moves manner, place or time to the start."""
        if passive and self.obj is not None:
            words = [self.obj.text(), self.passive_group(), "by " + self.subj.text()]
        else:
            words = [self.subj.text(), self.verb_group(self.subj.is_plural)]
            if self.obj is not None:
                words.append(self.obj.text())
        head = {"manner": self.manner, "time": self.time, "place": ""}.get(front, "")
        if front == "place" and self.place is not None:
            head = f"{self.prep} {self.place.text()}"
        body = " ".join(words + self.modifiers(front if head else ""))
        return f"{head}, {body}" if head else body

    def question(self) -> str:
        """The yes/no question this clause answers."""
        v, many = self.verb, self.subj.is_plural
        aux, form = {
            "past": ("did", v.base),
            "present": ("do" if many else "does", v.base),
            "progressive": ("are" if many else "is", v.ing),
            "future": ("will", v.base),
            "perfect": ("have" if many else "has", v.part),
        }[self.tense]
        rest = [self.obj.text()] if self.obj is not None else []
        return " ".join([aux, self.subj.text(), form, *rest, *self.modifiers()])


class Grammar:
    """Draws random trees from one seeded generator."""

    def __init__(self, rng: random.Random, plain: bool = False) -> None:
        self.rng = rng
        # Quantifiers change meaning between voices ("every cat saw a dog"), so pair tasks ask for plain ones.
        self.many = ("the", "these") if plain else ("the", "the", "some", "many", "these", *lx.NUMBERS[1:5])
        self.one = ("the", "the", "this") if plain else ("the", "the", "the", "a", "every", "this")

    def chance(self, p: float) -> bool:
        """True with probability ``p``."""
        return self.rng.random() < p

    def name(self) -> NP:
        """A person called by name."""
        return NP(name=self.rng.choice(lx.NAMES))

    def adj(self) -> Adj:
        """A plain descriptive adjective."""
        return self.rng.choice(lx.PLAIN)

    def noun_phrase(self, category: str, adj: float = 0.35, plural: float = 0.25, names: float = 0.35) -> NP:
        """A phrase whose head is of ``category``; people are often called by name."""
        if category == "person" and self.chance(names):
            return self.name()
        noun = self.rng.choice(lx.BY_CATEGORY[category])
        many = self.chance(plural)
        det = self.rng.choice(self.many if many else self.one)
        adjs: tuple[str, ...] = ()
        if self.chance(adj):
            adjs = (self.rng.choice(lx.COLORS) if self.chance(0.25) else self.adj().word,)
            if self.chance(0.2):
                extra = self.rng.choice(lx.COLORS)
                adjs = (*adjs, extra) if adjs[0] not in lx.COLORS else adjs
        return NP(noun=noun, plural=many, det=det, adjs=adjs)

    def place(self) -> NP:
        """A place, plainly described."""
        return NP(noun=self.rng.choice(lx.BY_CATEGORY["place"]))

    def actor(self, adj: float = 0.35) -> NP:
        """Somebody or some animal that can act."""
        return self.noun_phrase("animal" if self.chance(0.25) else "person", adj=adj)

    def transitive(self, kind: str = "") -> tuple[Verb, str]:
        """A verb and a category its object may have."""
        verb = self.rng.choice([v for v in lx.TRANSITIVE if not kind or v.kind == kind])
        return verb, self.rng.choice(lx.OBJECTS[verb.kind])

    def clause(self, depth: int = 0, transitive: float = 0.7, kind: str = "", extras: float = 1.0) -> Clause:
        """A random clause; ``depth`` allows that many levels of relative clauses and nested places."""
        subj = self.actor()
        if depth > 0 and subj.noun is not None and self.chance(0.5):
            subj = self.grow(subj, depth)
        tense = self.rng.choice(TENSES)
        obj: NP | None = None
        if kind or self.chance(transitive):
            verb, category = self.transitive(kind)
            obj = self.other_than(subj, category)
            if depth > 0 and obj.noun is not None and self.chance(0.15):
                obj = self.grow(obj, depth)
        else:
            verb = self.rng.choice(lx.INTRANSITIVE)
        made = Clause(subj, verb, obj, tense, neg=self.chance(0.12))
        return self.modify(made, extras)

    def other_than(self, subj: NP, category: str) -> NP:
        """A phrase of ``category`` whose head does not mean the same as ``subj``'s."""
        while True:
            np = self.noun_phrase(category)
            same_noun = np.noun is not None and subj.noun is not None and np.noun.group == subj.noun.group
            if np.head != subj.head and not same_noun:
                return np

    def modify(self, clause: Clause, extras: float = 1.0) -> Clause:
        """Adds manner, place and time phrases that fit the tense."""
        manner = self.rng.choice(self.rng.choice(lx.MANNER)) if self.chance(0.25 * extras) else ""
        when = _TIME_OF[clause.tense]
        time = self.rng.choice(lx.TIMES[when]) if when and self.chance(0.25 * extras) else ""
        place, prep = None, ""
        if self.chance(0.25 * extras):
            place, prep = self.place(), self.rng.choice(lx.PREPS)
        return replace(clause, manner=manner, time=time, place=place, prep=prep)

    def grow(self, np: NP, depth: int) -> NP:
        """Hangs a place or a relative clause from a noun phrase, recursively."""
        if self.chance(0.5) or (np.noun is not None and np.noun.category not in ("person", "animal")):
            inner = self.noun_phrase(self.rng.choice(("place", "furniture", "vehicle")), plural=0.4)
            if depth > 1 and self.chance(0.3):
                inner = self.grow(inner, depth - 1)
            return replace(np, near=inner, prep=self.rng.choice(lx.PREPS))
        rel = self.clause(depth - 1, extras=0.2)
        return replace(np, rel=replace(rel, subj=np.bare(), neg=False))

    def spelled(self, clause: Clause, passive: float = 0.25, front: float = 0.2) -> str:
        """A clause in a random voice and order."""
        return clause.text(
            passive=self.chance(passive), front=self.front(clause) if self.chance(front) else ""
        )

    def front(self, clause: Clause) -> str:
        """Which of the clause's modifiers could stand at the front ('' when it has none)."""
        have = [k for k in ("manner", "time", "place") if getattr(clause, k)]
        return self.rng.choice(have) if have else ""

    def sentence(self, depth: int = 1) -> str:
        """A whole random sentence: a clause, a compound, a question, or an opinion."""
        roll = self.rng.random()
        if roll < 0.6 or depth == 0:
            return self.spelled(self.clause(depth)) + "."
        if roll < 0.75:
            joiner = self.rng.choice(("and", "but", "while", "because", "so", "after", "before"))
            return f"{self.clause(0).text()} {joiner} {self.spelled(self.clause(0))}."
        if roll < 0.85:
            return self.clause(0).question() + "?"
        return Opinions(self).sentence(self.rng.randrange(2)) + "."


class Opinions:
    """Opinion sentences whose overall leaning is known (0 praise, 1 blame)."""

    def __init__(self, grammar: Grammar) -> None:
        self.g = grammar
        self.rng = grammar.rng

    def adj(self, side: int) -> str:
        """An opinion adjective on one side."""
        return self.rng.choice([a.word for a in lx.OPINION if a.side == side])

    def topic(self) -> str:
        """What the opinion is about."""
        noun = self.rng.choice([n for n in lx.NOUNS if n.category in ("work", "food", "clothing", "place")])
        return f"the {noun.sg}"

    def part(self) -> str:
        """An aspect of what is judged."""
        return "the " + self.rng.choice(lx.PARTS)

    def holder(self) -> NP:
        """Who holds the opinion."""
        if self.g.chance(0.4):
            return NP(name="i", plural=True)
        return self.g.noun_phrase("person", adj=0.2)

    def simple(self, side: int, about: str, flip: float = 0.35) -> str:
        """One judgement; with probability ``flip`` it is made by denying the opposite."""
        flipped = self.g.chance(flip)
        say = 1 - side if flipped else side
        roll = self.rng.random()
        degree = self.rng.choice(lx.DEGREE)
        if roll < 0.45:
            word = self.adj(say)
            if flipped:
                no = self.rng.choice(("not", "never", "hardly", "not at all", "far from", "anything but"))
                return f"{about} was {no} {word}"
            return f"{about} was {degree} {word}" if self.g.chance(0.5) else f"{about} was {word}"
        if roll < 0.75:
            verb = self.rng.choice([v for v, s in lx.LIKING if s == say])
            who = self.holder()
            if flipped:
                no = self.rng.choice(("did not", "never", "could not"))
                return f"{who.text()} {no} {verb.past if no == 'never' else verb.base} {about}"
            adverb = self.rng.choice(("really ", "truly ", "", "")) if self.g.chance(0.6) else ""
            return f"{who.text()} {adverb}{verb.past} {about}"
        if roll < 0.88:
            noun = self.rng.choice(lx.GOOD_NOUNS if say == 0 else lx.BAD_NOUNS)
            return f"{about} was {'not a' if flipped else self.rng.choice(('a', 'a real', 'a total'))} {noun}"
        word = self.adj(say)
        who = self.holder().text()
        return f"{who} {'did not find' if flipped else 'found'} {about} {word}"

    def sentence(self, side: int) -> str:
        """A whole opinion; in contrasts the main or later clause decides."""
        roll = self.rng.random()
        about = self.topic()
        if roll < 0.4:
            return self.simple(side, about)
        if roll < 0.5:
            who, noun = self.holder().text(), about.removeprefix("the ")
            if self.g.chance(0.4):
                return f"{who} saw the {self.g.adj().word} {noun} and {self.simple(side, 'it')}"
            return f"{self.simple(side, about)} and {self.simple(side, self.part(), 0.15)}"
        if roll < 0.8:
            but = self.rng.choice((" but ", ", yet ", ", but in the end "))
            return self.simple(1 - side, self.part(), 0.2) + but + self.simple(side, about, 0.2)
        open_ = self.rng.choice(("although", "even though", "while"))
        main, aside = self.simple(side, about, 0.2), self.simple(1 - side, self.part(), 0.2)
        return f"{main} {open_} {aside}" if self.g.chance(0.5) else f"{open_} {aside}, {main}"
