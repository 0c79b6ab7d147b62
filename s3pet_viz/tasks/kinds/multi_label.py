"""Multi-label classification: any number of labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from s3pet_viz.errors import TaskError, short
from s3pet_viz.tasks import fields
from s3pet_viz.tasks.example import Example
from s3pet_viz.tasks.kind import Kind, Prediction, as_list, label_index
from s3pet_viz.tasks.rows import Row, column
from s3pet_viz.tasks.spec import Task

#: Between the names of a row's labels where they are one text, as in a .csv.
MARK = "|"
_BETWEEN = ", "


class MultiLabel(Kind):
    """A prediction has 0 or 1 for each label; None: an answer with something else than labels in it, which says none of
    them and is never exact.

    A row's label column is a list of names (or of numbers from 0), or names with `MARK` between them. The text form's
    answer is the names in the task's order, or `nothing`. A head has an output for each label, which is said where it
    is above 0: more likely than not.
    """

    name = "multi_label"
    problem = "multi_label_classification"
    metrics = ("micro_f1", "macro_f1", "exact_match")
    own = ("fields", "label", "label_names")

    def read(self, spec: Mapping[str, Any], metrics: Sequence[str], where: str) -> dict[str, Any]:
        names = fields.label_names(spec, where)
        _check(names, f"{where}, field 'label_names'")
        return {"label_names": names}

    def entries(self, value: object) -> Iterable[object]:
        found = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(found, str):
            return [part.strip() for part in found.split(MARK) if part.strip()]
        return found if isinstance(found, list | tuple) else (value,)

    def check_names(self, task: Task, where: str) -> None:
        _check(task.label_names, where)

    def label_of(self, task: Task, row: Row, at: str) -> tuple[int, ...]:
        value = column(row, task.label, at)
        found = as_list(list(self.entries(value)) if isinstance(value, str) else value, task.label, at, "labels")
        said = {label_index(one, task.label_names, task.label, at) for one in found}
        if len(said) < len(found):
            raise TaskError(
                f"{at}: expected each label once in column '{task.label}', found {short(found)}; of a 0 or 1 for each "
                "label, give the names, or the numbers from 0, of those with a 1."
            )
        return tuple(int(i in said) for i in range(len(task.label_names)))

    def target_of(self, task: Task, label: Sequence[int]) -> str:
        said = [name for name, there in zip(task.label_names, label, strict=True) if there]
        return _BETWEEN.join(said) or nothing(task)

    def stratum(self, task: Task, row: Row, at: str) -> Hashable:
        return self.label_of(task, row, at)

    def variety(self, task: Task, row: Row, at: str) -> Iterable[Hashable]:
        return (self.target_of(task, self.label_of(task, row, at)),)

    def labels(self, values: Sequence[Any]) -> np.ndarray:
        return np.asarray(values, dtype=np.float32)

    def constant_loss(self, examples: Sequence[Example], answers: Sequence[Any], text: bool) -> float | None:
        """Of a head: the mean entropy of each label by itself, as binary cross entropy is."""
        if text:
            return super().constant_loss(examples, answers, text)
        share = np.asarray(answers, dtype=np.float64).mean(0)
        inside = share[(share > 0) & (share < 1)]
        return float(-(inside * np.log(inside) + (1 - inside) * np.log1p(-inside)).sum() / len(share))

    def said(self, task: Task, targets: Iterable[str]) -> list[str]:
        return list(dict.fromkeys([*task.label_names, nothing(task), *targets]))

    def parse(self, task: Task, text: str) -> tuple[int, ...] | None:
        names = [] if text == nothing(task) else [part.strip() for part in text.split(_BETWEEN.strip())]
        if any(name not in task.label_names for name in names):
            return None
        return tuple(int(name in names) for name in task.label_names)

    def read_head(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> list[Prediction]:
        return [tuple(row) for row in (outputs > 0).astype(int).tolist()]

    def measure(self, task: Task, examples: Sequence[Example], said: Sequence[Prediction]) -> dict[str, float]:
        guess, truth = (np.array(rows, dtype=bool) for rows in self.terms(task, examples, said))
        known = np.array([value is not None for value in self._read(task, said)])
        hits, sizes = (truth & guess).sum(0), truth.sum(0) + guess.sum(0)
        present = sizes > 0  # a label that is nowhere has no F1, as in macro_f1
        return {
            "exact_match": float(np.mean((truth == guess).all(1) & known)),
            "micro_f1": float(2 * hits.sum() / sizes.sum()) if present.any() else 0.0,
            "macro_f1": float((2 * hits[present] / sizes[present]).mean()) if present.any() else 0.0,
        }

    def terms(self, task: Task, examples: Sequence[Example], said: Sequence[Prediction]) -> tuple[list[Any], list[Any]]:
        none = (0,) * len(task.label_names)
        guess = [list(value or none) for value in self._read(task, said)]
        return guess, [list(example.label) for example in examples]  # type: ignore[arg-type]

    def _read(self, task: Task, said: Sequence[Prediction]) -> list[tuple[int, ...] | None]:
        made = []
        for i, value in enumerate(said):
            row = self.parse(task, value.strip()) if isinstance(value, str) else value
            if row is not None and not (
                isinstance(row, list | tuple) and len(row) == len(task.label_names) and set(row) <= {0, 1}
            ):
                raise TaskError(
                    f"task {task.name}, prediction {i}: expected 0 or 1 for each of {len(task.label_names)} labels, a "
                    f"text or None; found {row!r}."
                )
            made.append(row if row is None else tuple(row))
        return made


def nothing(task: Task) -> str:
    """The text that stands for no label."""
    return next(word for word in ("none", "no label", "no label at all") if word not in task.label_names)


def _check(names: Sequence[str], where: str) -> None:
    for name in names:
        if _BETWEEN.strip() in name or MARK in name:
            raise TaskError(f"{where}: expected names without commas and '{MARK}', found {name!r}.")
