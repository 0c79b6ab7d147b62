"""Token classification: a tag for each word."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from s3pet_viz.errors import MissingExtraError, TaskError
from s3pet_viz.tasks import fields
from s3pet_viz.tasks.example import Example
from s3pet_viz.tasks.kind import IGNORE, Kind, Prediction, as_list, entropy, label_index
from s3pet_viz.tasks.rows import Row, column, kind_of
from s3pet_viz.tasks.spec import Task
from s3pet_viz.threads import no_warnings

OUTSIDE = "O"
ENTITY = ("f1", "precision", "recall")
_ENTITY_TAG = re.compile(r"[BIESLU]-.+")
UNKNOWN = -1


class TokenClassification(Kind):
    """A prediction has a tag's index for each word, `UNKNOWN` (or None) where what was said is no tag of the task.

    Rows have ``words`` and ``tags``, two lists of one length. A head says a tag at each word's first token; the text
    form's answer is the tags, between spaces. A word without a tag (cut off, or not answered) counts as `OUTSIDE`,
    where that is one of the tags, else as wrong. ``f1``, ``precision`` and ``recall`` are seqeval's of whole entities
    (as conlleval counts them); ``accuracy`` is of words.
    """

    name = "token_classification"
    problem = "token_classification"
    metrics = (*ENTITY, "accuracy")
    extras = dict.fromkeys(ENTITY, "seqeval")
    own = ("words", "tags", "label_names")
    needs = ()
    label = label_field = "tags"
    says_cut = True

    def read(self, spec: Mapping[str, Any], metrics: Sequence[str], where: str) -> dict[str, Any]:
        names = fields.label_names(spec, where)
        words = fields.line(spec.get("words", "words"), where, "words")
        made = {"label_names": names, "fields": (words,)}
        if names:
            _check(names, metrics, f"{where}, field 'label_names'")
        return made

    def entries(self, value: object) -> Iterable[object]:
        found = value.tolist() if hasattr(value, "tolist") else value
        return found if isinstance(found, list | tuple) else (value,)

    def check_names(self, task: Task, where: str) -> None:
        _check(task.label_names, task.metrics, where)

    def label_of(self, task: Task, row: Row, at: str) -> tuple[int, ...]:
        tags = as_list(column(row, task.label, at), task.label, at, "tags")
        return tuple(label_index(tag, task.label_names, task.label, at) for tag in tags)

    def target_of(self, task: Task, label: Sequence[int]) -> str:
        return " ".join(task.label_names[i] for i in label)

    def example(self, task: Task, row: Row, at: str) -> Example:
        (name,) = task.fields
        words = as_list(column(row, name, at), name, at, "words")
        for word in words:
            if not isinstance(word, str):
                raise TaskError(f"{at}: expected a list of words in column '{name}', found {kind_of(word)} in it.")
        tags = self.label_of(task, row, at)
        if not words or len(words) != len(tags):
            raise TaskError(
                f"{at}: expected a tag for each word, and one at least; found {len(words)} in column '{name}' and "
                f"{len(tags)} in column '{task.label}'."
            )
        text = " ".join(words)
        source = f"{task.prefix} {name}: {text}"
        return Example(source, self.target_of(task, tags), text, None, tags, words=tuple(words))

    def variety(self, task: Task, row: Row, at: str) -> Iterable[Hashable]:
        return (task.label_names[i] for i in self.label_of(task, row, at))

    def constant_loss(self, examples: Sequence[Example], answers: Sequence[Any], text: bool) -> float | None:
        """One answer to every word: the entropy of the tags; of a text, its share of a token."""
        tags = [tag for example in examples for tag in self._tags(example)]
        found = entropy(tags)
        return found * len(tags) / sum(map(len, answers)) if text else found

    def said(self, task: Task, targets: Iterable[str]) -> list[str]:
        return list(dict.fromkeys([*task.label_names, *targets]))

    def parse(self, task: Task, text: str) -> tuple[int, ...]:
        return tuple(task.label_names.index(t) if t in task.label_names else UNKNOWN for t in text.split())

    def read_head(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> list[Prediction]:
        return [tuple(row[at != IGNORE].argmax(-1).tolist()) for row, at in zip(outputs, labels, strict=True)]

    def measure(self, task: Task, examples: Sequence[Example], said: Sequence[Prediction]) -> dict[str, float]:
        guess, truth = self._aligned(task, examples, said), [self._tags(example) for example in examples]
        hits = [a == b for g, t in zip(guess, truth, strict=True) for a, b in zip(g, t, strict=True)]
        values = {"accuracy": float(np.mean(hits))}
        wanted = [name for name in ENTITY if name in task.metrics]
        if wanted:
            scores = _seqeval(wanted[0])
            names = self.terms(task, examples, said)
            with no_warnings():
                found = {name: scores[name](names[1], names[0], zero_division=0) for name in wanted}
            values |= {name: float(value) for name, value in found.items()}
        return values

    def terms(self, task: Task, examples: Sequence[Example], said: Sequence[Prediction]) -> tuple[list[Any], list[Any]]:
        guess = self._aligned(task, examples, said)
        named = [[OUTSIDE if i == UNKNOWN else task.label_names[i] for i in row] for row in guess]
        return named, [[task.label_names[i] for i in self._tags(example)] for example in examples]

    def _aligned(self, task: Task, examples: Sequence[Example], said: Sequence[Prediction]) -> list[list[int]]:
        """A tag for each word: what is missing is `OUTSIDE`, what is too much is left out."""
        missing = task.label_names.index(OUTSIDE) if OUTSIDE in task.label_names else UNKNOWN
        made = []
        for i, (example, value) in enumerate(zip(examples, said, strict=True)):
            row = () if value is None else self.parse(task, value) if isinstance(value, str) else value
            wrong = not isinstance(row, list | tuple) or any(
                not (t is None or (isinstance(t, int) and UNKNOWN <= t < len(task.label_names))) for t in row
            )
            if wrong:
                raise TaskError(f"task {task.name}, prediction {i}: expected a list of tags' indices, found {row!r}.")
            tags = [UNKNOWN if t is None else t for t in row[: len(example.words)]]
            made.append([*tags, *[missing] * (len(example.words) - len(tags))])
        return made

    @staticmethod
    def _tags(example: Example) -> tuple[int, ...]:
        assert isinstance(example.label, tuple)
        return example.label


def _check(names: Sequence[str], metrics: Sequence[str], where: str) -> None:
    if spaced := [name for name in names if len(name.split()) != 1]:
        raise TaskError(f"{where}: expected tags without white space, found {spaced[0]!r}.")
    plain = [name for name in names if name != OUTSIDE and not _ENTITY_TAG.fullmatch(name)]
    if plain and (asked := [name for name in metrics if name in ENTITY]):
        raise TaskError(
            f"{where}: expected tags of entities (O, B-..., I-...) for the metric {asked[0]}, found {plain[0]!r}; for "
            "other tags use accuracy."
        )


def _seqeval(name: str) -> dict[str, Any]:
    try:
        with no_warnings():
            from seqeval.metrics import f1_score, precision_score, recall_score
    except ImportError as error:
        raise MissingExtraError(
            f'metric {name}: expected the package `seqeval`; pip install "s3pet_viz[metrics]"'
        ) from error
    return {"f1": f1_score, "precision": precision_score, "recall": recall_score}
