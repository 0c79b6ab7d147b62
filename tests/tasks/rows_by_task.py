"""One invented row pair per task, in the columns of the Hugging Face configs, with the forms it must get."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """A row with its expected text form, pair form and label; `other` changes the row into another class."""

    row: dict[str, Any]
    source: str
    target: str
    text_a: str
    text_b: str | None
    label: int | float
    other: dict[str, Any] = field(default_factory=lambda: {"label": 0})
    pair_label: int | None = None
    pair_rows: int = 1


_TWO = {"sentence1": "A red kite flew.", "sentence2": "A kite was in the air."}
_TWO_TEXT = "sentence1: A red kite flew. sentence2: A kite was in the air."
_NLI = {"premise": "A red kite flew.", "hypothesis": "A kite was in the air."}
_NLI_TEXT = "hypothesis: A kite was in the air. premise: A red kite flew."


def _two(name: str, target: str, label: int) -> Case:
    return Case(
        {**_TWO, "label": label, "idx": 4},
        f"{name} {_TWO_TEXT}",
        target,
        _TWO["sentence1"],
        _TWO["sentence2"],
        label,
    )


def _nli(name: str, target: str, label: int) -> Case:
    return Case(
        {**_NLI, "label": label, "idx": 4},
        f"{name} {_NLI_TEXT}",
        target,
        _NLI["premise"],
        _NLI["hypothesis"],
        label,
    )


CASES: dict[str, Case] = {
    "cola": Case(
        {"sentence": "The kite flew off.", "label": 1, "idx": 0},
        "cola sentence: The kite flew off.",
        "acceptable",
        "The kite flew off.",
        None,
        1,
    ),
    "sst2": Case(
        {"sentence": "a kite of a film ", "label": 1, "idx": 0},
        "sst2 sentence: a kite of a film ",
        "positive",
        "a kite of a film ",
        None,
        1,
    ),
    "mrpc": _two("mrpc", "equivalent", 1),
    "qqp": Case(
        {"question1": "Do kites fly?", "question2": "Can a kite fly?", "label": 1, "idx": 0},
        "qqp question1: Do kites fly? question2: Can a kite fly?",
        "duplicate",
        "Do kites fly?",
        "Can a kite fly?",
        1,
    ),
    "stsb": Case(
        {**_TWO, "label": 3.25, "idx": 0},
        f"stsb {_TWO_TEXT}",
        "3.2",
        _TWO["sentence1"],
        _TWO["sentence2"],
        3.25,
        {"label": 1.0},
    ),
    "mnli": _nli("mnli", "contradiction", 2),
    "qnli": Case(
        {"question": "Who flew it?", "sentence": "Ada flew the kite.", "label": 1, "idx": 0},
        "qnli question: Who flew it? sentence: Ada flew the kite.",
        "not_entailment",
        "Who flew it?",
        "Ada flew the kite.",
        1,
    ),
    "rte": _two("rte", "not_entailment", 1),
    "wnli": _two("wnli", "entailment", 1),
    "boolq": Case(
        {"question": "do kites fly", "passage": "Kite -- Kites fly.", "label": 1, "idx": 0},
        "boolq question: do kites fly passage: Kite -- Kites fly.",
        "True",
        "do kites fly",
        "Kite -- Kites fly.",
        1,
    ),
    "cb": _nli("cb", "contradiction", 1),
    "copa": Case(
        {
            "premise": "The kite fell.",
            "choice1": "The wind dropped.",
            "choice2": "The sun rose.",
            "question": "cause",
            "label": 1,
            "idx": 0,
        },
        "copa choice1: The wind dropped. choice2: The sun rose. premise: The kite fell. question: cause",
        "choice2",
        "The kite fell. What was the cause of this?",
        "The wind dropped.",
        1,
        pair_label=0,
        pair_rows=2,
    ),
    "multirc": Case(
        {
            "paragraph": "<b>Sent 1: </b>Ada flew a kite.<br>It was red.",
            "question": "What was red?",
            "answer": "The kite",
            "label": 1,
            "idx": {"paragraph": 0, "question": 2, "answer": 1},
        },
        "multirc question: What was red? answer: The kite paragraph: Sent 1: Ada flew a kite. It was red.",
        "True",
        "Sent 1: Ada flew a kite. It was red.",
        "What was red? The kite",
        1,
    ),
    "record": Case(
        {
            "passage": "Ada flew a kite in Oslo.\n@highlight\nBo saw it\n@highlight\nIt was red",
            "query": "In @placeholder a kite flew.",
            "entities": ["Ada", "Oslo", "Bo"],
            "answers": ["Oslo", "Ada"],
            "idx": {"passage": 3, "query": 5},
        },
        "record query: In @placeholder a kite flew. entities: Ada, Oslo, Bo passage: "
        "Ada flew a kite in Oslo. Bo saw it. It was red",
        "Oslo",
        "Ada flew a kite in Oslo. Bo saw it. It was red",
        "In Ada a kite flew.",
        1,
        {"passage": "Another passage."},
        pair_rows=3,
    ),
    "super_glue/rte": _nli("rte", "not_entailment", 1),
    "wic": Case(
        {
            "word": "fly",
            "sentence1": "Kites fly.",
            "sentence2": "A fly sat.",
            "start1": 6,
            "end1": 9,
            "start2": 2,
            "end2": 5,
            "label": 1,
            "idx": 0,
        },
        "wic sentence1: Kites fly. sentence2: A fly sat. word: fly",
        "True",
        "fly: Kites fly.",
        "fly: A fly sat.",
        1,
    ),
    "wsc": Case(
        {
            "text": "Ada saw the kite when it, too, fell.",
            "span1_text": "the kite",
            "span1_index": 2,
            "span2_text": "it",
            "span2_index": 5,
            "label": 1,
            "idx": 0,
        },
        "wsc: Ada saw the kite when *it*, too, fell.",
        "the kite",
        "Ada saw the kite when *it*, too, fell.",
        "the kite",
        1,
    ),
}


def rows_of(name: str, count: int) -> list[dict[str, Any]]:
    """`count` rows with texts of their own, classes in turn."""
    case = CASES[name]
    rows = []
    for index in range(count):
        row = {**case.row, **(case.other if index % 2 else {})}
        row.pop("idx", None)
        for key in ("sentence", "sentence1", "question1", "premise", "passage", "paragraph", "text"):
            if key in row:
                row[key] = f"{row[key]} Number {index}."
        rows.append(row)
    return rows
