"""Writes the embedded tasks, the same bytes for the same seed: five here, those of other kinds in make_kinds.py.

Every row is drawn from the grammar together with its label, so labels are true by construction; a row whose
text (or pair of texts) was already used anywhere in the task is drawn again, so no split leaks into another.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lexicon as lx
import make_kinds
from grammar import NP, Clause, Grammar, Opinions
from pairs import Row, entailment, paraphrase, similarity, similarity_scores

SPLITS = {"train": 2000, "validation": 500, "test": 500}
META: dict[str, dict[str, object]] = {
    "sentiment": {"fields": ["text"], "label_names": ["negative", "positive"]},
    "acceptability": {"fields": ["text"], "label_names": ["unacceptable", "acceptable"]},
    "paraphrase": {"fields": ["sentence1", "sentence2"], "label_names": ["not_equivalent", "equivalent"]},
    "entailment": {"fields": ["premise", "hypothesis"], "label_names": ["not_entailment", "entailment"]},
    "similarity": {"fields": ["sentence1", "sentence2"]},
}


def sentiment(rng: random.Random, label: int) -> Row:
    """An opinion whose words alone do not decide: negation flips and the later or main clause wins."""
    opinion = Opinions(Grammar(rng))
    if rng.random() < 0.65:
        return {"text": opinion.simple(1 - label, opinion.topic(), flip=0.15) + "."}
    return {"text": opinion.sentence(1 - label) + "."}


def ambiguous(np: NP | None) -> bool:
    """Whether the head looks the same in singular and plural."""
    return np is not None and np.noun is not None and np.noun.sg == np.noun.pl


def swap_words(text: str, first: str, second: str) -> str:
    """Swaps the first occurrence of two neighbouring words."""
    return (f" {text} ").replace(f" {first} {second} ", f" {second} {first} ", 1).strip()


def break_agreement(rng: random.Random, c: Clause) -> str:
    """The verb disagrees with its subject."""
    if ambiguous(c.subj) or c.tense in ("past", "future"):
        return ""
    right, wrong = c.verb_group(c.subj.is_plural), c.verb_group(not c.subj.is_plural)
    return c.text().replace(f" {right}", f" {wrong}", 1) if c.subj.rel is None else ""


def break_form(rng: random.Random, c: Clause) -> str:
    """The verb form does not go with its auxiliary."""
    v, group = c.verb, c.verb_group(c.subj.is_plural)
    right = group.split()[-1]
    options = {
        "past": (v.base, v.third) if c.neg else (v.ing,),
        "present": (v.past, v.ing) if c.neg else (v.ing,),
        "progressive": (v.base, v.third),
        "future": (v.past, v.third, v.ing),
        "perfect": (v.base, v.third, v.ing),
    }[c.tense]
    allowed = {v.base} if (c.neg and c.tense in ("past", "present")) or c.tense == "future" else set()
    allowed |= {v.part} if c.tense == "perfect" else set()
    wrong = [w for w in options if w != right and w not in allowed]
    if not wrong or c.subj.rel is not None:
        return ""
    return c.text().replace(f" {group}", f" {group[: -len(right)]}{rng.choice(wrong)}", 1)


def break_order(rng: random.Random, c: Clause) -> str:
    """Determiner, adjective and noun in a wrong order."""
    np = rng.choice([n for n in (c.subj, c.obj, c.place) if n is not None])
    words = replace(np, near=None, rel=None).text().split()
    if len(words) < 2:
        return ""
    at = rng.randrange(len(words) - 1)
    if words[at] in {a.word for a in lx.PLAIN} and words[at + 1] in lx.COLORS:
        return ""
    return swap_words(c.text(), words[at], words[at + 1])


def break_missing(rng: random.Random, c: Clause) -> str:
    """No verb at all."""
    group = c.verb_group(c.subj.is_plural)
    return c.text().replace(f" {group}", "", 1) if c.subj.rel is None else ""


def break_number(rng: random.Random, c: Clause) -> str:
    """A determiner that does not go with the number of its noun."""
    marked = [n for n in (c.subj, c.obj) if n is not None and n.noun is not None and not ambiguous(n)]
    marked = [n for n in marked if n.det not in ("the", "some", "")]
    if not marked:
        return ""
    np = rng.choice(marked)
    right, wrong = (np.noun.pl, np.noun.sg) if np.plural else (np.noun.sg, np.noun.pl)
    old = replace(np, near=None, rel=None).text()
    return c.text().replace(old, old[: -len(right)] + wrong, 1)


def break_double(rng: random.Random, c: Clause) -> str:
    """Two determiners in a row, or two verbs in a row."""
    if rng.random() < 0.5:
        last = c.verb_group(c.subj.is_plural).split()[-1]
        return (f"{c.text()} ").replace(f" {last} ", f" {last} {last} ", 1).strip()
    np = rng.choice([n for n in (c.subj, c.obj, c.place) if n is not None])
    if np.noun is None:
        return ""
    return c.text().replace(np.text(), rng.choice(("the ", "this ", "every ")) + np.text(), 1)


BREAKS: tuple[Callable[[random.Random, Clause], str], ...] = (
    break_agreement,
    break_agreement,
    break_form,
    break_form,
    break_order,
    break_missing,
    break_number,
    break_double,
)


#: The task's own mix: mostly rules whose breach shows in the order of words, some that need agreement.
TASK_BREAKS = (break_agreement, break_form, *(break_order,) * 7, *(break_missing,) * 6, *(break_double,) * 5)


def acceptability(rng: random.Random, label: int) -> Row:
    """A grammatical sentence, or the same kind of sentence with one rule broken."""
    g = Grammar(rng, plain=True)
    how = rng.choice(TASK_BREAKS)
    while True:
        clause = g.clause(depth=0, extras=0.5)
        # Both labels draw only clauses that could be broken this way, so the clause itself tells nothing.
        broken = how(rng, clause)
        if broken and broken != clause.text():
            return {"text": (clause.text() if label else broken) + "."}


SCORES = tuple(similarity_scores())
MAKERS: dict[str, Callable[[random.Random, int], Row]] = {
    "sentiment": sentiment,
    "acceptability": acceptability,
    "paraphrase": paraphrase,
    "entailment": entailment,
}


def make_task(name: str, seed: int) -> dict[str, list[Row]]:
    """All splits of one task."""
    rng = random.Random(f"{name}-{seed}")
    fields = META[name]["fields"]
    assert isinstance(fields, list)
    seen: set[tuple[str, ...]] = set()
    splits: dict[str, list[Row]] = {}
    for split, size in SPLITS.items():
        rows: list[Row] = []
        while len(rows) < size:
            i = len(rows)
            label: float = SCORES[i % len(SCORES)] if name == "similarity" else i % 2
            row = similarity(rng, label) if name == "similarity" else MAKERS[name](rng, int(label))
            key = tuple(sorted(str(row[f]) for f in fields))
            if key not in seen:
                seen.add(key)
                rows.append({**row, "label": label})
        rng.shuffle(rows)
        splits[split] = rows
    return splits


def task_json(name: str) -> dict[str, object]:
    """The description the package's task loader reads."""
    meta = META[name]
    out: dict[str, object] = {
        "name": name,
        "kind": "classification",
        "fields": meta["fields"],
        "label": "label",
    }
    if name == "similarity":
        out |= {
            "kind": "regression",
            "label_range": [0, 5],
            "label_step": 0.2,
            "metrics": ["pearson", "spearman"],
        }
    else:
        out |= {"label_names": meta["label_names"], "metrics": ["accuracy"]}
    return out | {"prefix": name}


def write(out: Path, seed: int) -> None:
    """Writes every task under ``out``."""
    made = {name: (task_json(name), make_task(name, seed)) for name in META}
    made |= {name: (make_kinds.task_json(name), make_kinds.make_task(name, seed)) for name in make_kinds.META}
    for name, (described, splits) in made.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "task.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        for split, rows in splits.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "data" / "tasks")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(args.out, args.seed)
