"""Classification: one of several labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from s3pet_viz.errors import TaskError
from s3pet_viz.tasks import fields
from s3pet_viz.tasks.example import Example
from s3pet_viz.tasks.kind import Kind, Prediction
from s3pet_viz.tasks.metrics import CLASSIFICATION_METRICS, classes_of, classification
from s3pet_viz.tasks.rows import Row, class_index
from s3pet_viz.tasks.spec import Task


class Classification(Kind):
    """A prediction is a class index, or None. A label name is the text form's answer, exactly."""

    name = "classification"
    problem = "single_label_classification"
    metrics = CLASSIFICATION_METRICS
    own = ("fields", "label", "label_names")

    def read(self, spec: Mapping[str, Any], metrics: Sequence[str], where: str) -> dict[str, Any]:
        names = fields.label_names(spec, where)
        if names and "f1" in metrics and len(names) != 2:
            raise fields.wrong(where, "metrics", f"macro_f1, not f1, for {len(names)} labels", "f1")
        return {"label_names": names}

    def check_names(self, task: Task, where: str) -> None:
        if "f1" in task.metrics and len(task.label_names) != 2 and not task.benchmark:
            raise TaskError(f"task {task.name}: expected macro_f1, not f1, for {len(task.label_names)} labels.")

    def label_of(self, task: Task, row: Row, at: str) -> int:
        return class_index(row, task.label, task.label_names, at)

    def target_of(self, task: Task, label: int) -> str:
        return task.label_names[int(label)]

    def stratum(self, task: Task, row: Row, at: str) -> Hashable:
        return 0 if task.builder == "record" else self.label_of(task, row, at)

    def variety(self, task: Task, row: Row, at: str) -> Iterable[Hashable]:
        return () if task.builder == "record" else (self.target_of(task, self.label_of(task, row, at)),)

    def said(self, task: Task, targets: Iterable[str]) -> list[str]:
        return list(task.label_names)

    def parse(self, task: Task, text: str) -> int | None:
        return task.label_names.index(text) if text in task.label_names else None

    def read_head(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> list[Prediction]:
        if task.scores_candidates:
            return (outputs[:, 1] - outputs[:, 0]).tolist()
        return outputs.argmax(-1).tolist()

    def measure(self, task: Task, examples: Sequence[Example], said: Sequence[Prediction]) -> dict[str, float]:
        return classification(task, examples, said)

    def terms(self, task: Task, examples: Sequence[Example], said: Sequence[Prediction]) -> tuple[list[Any], list[Any]]:
        return classes_of(task, examples, said).tolist(), [example.label for example in examples]
