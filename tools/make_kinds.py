"""The embedded tasks of the other kinds: a summary, tags, a conversation, several labels. Called by make_tasks.py.

As there: what is right is known from the tree that a text is spelled from, and no text occurs twice in a task.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lexicon as lx
from grammar import NP, Clause, Grammar

Row = dict[str, Any]
SPLITS = {"train": 240, "validation": 60, "test": 60}
TOPICS = ("animal", "food", "vehicle", "clothing", "furniture")
META: dict[str, dict[str, Any]] = {
    "headline": {
        "kind": "generation", "fields": ["document"], "target": "summary", "max_target_length": 16,
        "metrics": ["rougeL", "rouge1", "exact_match"],
    },
    "entities": {
        "kind": "token_classification", "words": "words", "tags": "tags",
        "label_names": ["O", "B-PER", "B-LOC", "I-LOC"], "metrics": ["f1", "precision", "recall", "accuracy"],
    },
    "conversation": {
        "kind": "generation", "messages": "messages", "max_target_length": 16, "metrics": ["exact_match", "rougeL"],
    },
    "topics": {
        "kind": "multi_label", "fields": ["text"], "label": "labels", "label_names": list(TOPICS),
        "metrics": ["micro_f1", "macro_f1", "exact_match"],
    },
}


def _short(np: NP) -> str:
    return replace(np.bare(), det="the" if np.noun is not None else "").text()


def _told(g: Grammar, **how: Any) -> Clause:
    """A clause in the past that says what was done to what."""
    while True:
        c = g.clause(transitive=1.0, **how)
        if c.obj is not None and not c.neg:
            return replace(c, tense="past", time=g.rng.choice(lx.TIMES["past"]) if c.time else "")


def headline(rng: random.Random) -> tuple[str, Row]:
    """Who did what to what is the summary of the first sentence; the second tells of something else."""
    g = Grammar(rng, plain=True)
    c, more = _told(g, extras=2.0), g.clause(extras=0.5)
    document = f"{g.spelled(c, passive=0.3)}. {more.text()}."
    assert c.obj is not None
    return document, {"document": document, "summary": f"{_short(c.subj)} {c.verb.past} {_short(c.obj)}"}


def entities(rng: random.Random) -> tuple[str, Row]:
    """A name is a person, and a place all of its words."""
    g = Grammar(rng, plain=True)
    c = _told(g)
    if c.place is None or rng.random() < 0.3:
        c = replace(c, place=g.place(), prep=rng.choice(lx.PREPS))
    if rng.random() < 0.4:
        c = replace(c, subj=g.name())
    assert c.obj is not None
    assert c.place is not None
    spoken = [(c.subj, ""), (None, c.verb.past), (c.obj, ""), (None, c.manner), (None, c.prep), (c.place, ""), (None, c.time)]
    words: list[str] = []
    tags: list[str] = []
    for np, text in spoken:
        new = (np.text() if np is not None else text).split()
        if np is not None and np.noun is None:
            tag = ["B-PER"]
        elif np is not None and np.noun is not None and np.noun.category == "place":
            tag = ["B-LOC", *["I-LOC"] * (len(new) - 1)]
        else:
            tag = ["O"] * len(new)
        words += new
        tags += tag
    return " ".join(words), {"words": [*words, "."], "tags": [*tags, "O"]}


def conversation(rng: random.Random) -> tuple[str, Row]:
    """A question about a sentence, and its answer."""
    g = Grammar(rng, plain=True)
    c = replace(_told(g, extras=0.0), place=g.place(), prep=rng.choice(lx.PREPS))
    assert c.obj is not None
    assert c.place is not None
    asked, answer = rng.choice([
        ("who did it", c.subj.text()),
        ("where", f"{c.prep} {c.place.text()}"),
        ("what was done", f"{c.verb.past} {c.obj.text()}"),
    ])
    said = f"{c.text()}. {asked}?"
    messages = [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
    if rng.random() < 0.3:
        messages.insert(0, {"role": "system", "content": "answer in a few words."})
    return said, {"messages": messages}


def topics(rng: random.Random) -> tuple[str, Row]:
    """What kinds of thing a text names: none of them, one or several."""
    g = Grammar(rng, plain=True)
    count = rng.choice((0, 1, 1, 2, 2, 3))
    named = sorted(rng.sample(TOPICS, count), key=TOPICS.index)
    parts = []
    for kind in named or ["tool"]:
        c = Clause(g.name(), *_verb_for(g, kind))
        parts.append(c.text())
    text = " and ".join(parts) + "."
    return text, {"text": text, "labels": named}


def _verb_for(g: Grammar, category: str) -> tuple[Any, NP]:
    kinds = [kind for kind, allowed in lx.OBJECTS.items() if category in allowed]
    verb = g.rng.choice([v for v in lx.TRANSITIVE if v.kind in kinds])
    return verb, g.noun_phrase(category)


MAKERS: dict[str, Callable[[random.Random], tuple[str, Row]]] = {
    "headline": headline, "entities": entities, "conversation": conversation, "topics": topics,
}


def make_task(name: str, seed: int) -> dict[str, list[Row]]:
    """All splits of one task."""
    rng = random.Random(f"{name}-{seed}")
    seen: set[str] = set()
    splits: dict[str, list[Row]] = {}
    for split, size in SPLITS.items():
        rows: list[Row] = []
        while len(rows) < size:
            key, row = MAKERS[name](rng)
            if key not in seen:
                seen.add(key)
                rows.append(row)
        splits[split] = rows
    return splits


def task_json(name: str) -> dict[str, Any]:
    """The description the package's task loader reads."""
    return {"name": name, **META[name], "prefix": name}
