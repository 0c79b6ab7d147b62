"""Regression: a number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from s3pet_viz.tasks import fields
from s3pet_viz.tasks.example import Example
from s3pet_viz.tasks.kind import Kind, Prediction
from s3pet_viz.tasks.metrics import REGRESSION_METRICS, numbers_of, regression
from s3pet_viz.tasks.rows import Row, is_finite, number
from s3pet_viz.tasks.spec import Task

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)


class Regression(Kind):
    """A prediction is a finite number in the label's units, or None (`Task.unparsed_value`). The text form's answer is
    a number that is rounded to `label_step`, as T5's is."""

    name = "regression"
    problem = "regression"
    metrics = REGRESSION_METRICS
    own = ("fields", "label", "label_range", "label_step")

    def read(self, spec: Mapping[str, Any], metrics: Sequence[str], where: str) -> dict[str, Any]:
        if spec.get("label_range") is None:
            return {}
        found = spec["label_range"]
        pair = isinstance(found, list | tuple) and len(found) == 2 and all(map(is_finite, found))
        if not pair or not found[0] < found[1]:
            raise fields.wrong(where, "label_range", "[low, high], two finite numbers, low below high", found)
        low, high = float(found[0]), float(found[1])
        step = spec.get("label_step", (high - low) / 25)
        if not is_finite(step) or not 1e-6 <= step <= high - low:
            raise fields.wrong(where, "label_step", f"a number from 1e-6 to {high - low:g}", step)
        return {"label_range": (low, high), "label_step": float(step)}

    def label_of(self, task: Task, row: Row, at: str) -> float:
        return number(row, task.label, task.limits, at)

    def target_of(self, task: Task, label: float) -> str:
        low, high = task.limits
        step = task.label_step or (high - low) / 25
        per_unit = 1 / step  # multiplying, as T5 does: 3.1 * 5 is 15.5, and 3.1 / 0.2 is not
        count = min(round((label - low) * per_unit), int((high - low) * per_unit + 1e-9))
        return f"{low + count / per_unit + 0.0:.{_decimals(step)}f}"

    def num_labels(self, task: Task) -> int:
        return 1

    def labels(self, values: Sequence[Any]) -> np.ndarray:
        return np.asarray(values, dtype=np.float32)

    def constant_loss(self, examples: Sequence[Example], answers: Sequence[Any], text: bool) -> float | None:
        if text:
            return super().constant_loss(examples, answers, text)
        return float(np.var(np.asarray(answers, dtype=np.float64)))

    def parse(self, task: Task, text: str) -> float | None:
        """A plain number inside `label_range`, or None, which counts as one fifth of the range below its low end in the
        metrics (-1 for STS-B, as in T5)."""
        low, high = task.limits
        if not _NUMBER.fullmatch(text):
            return None
        value = float(text)
        return value if low <= value <= high else None

    def read_head(self, task: Task, outputs: np.ndarray, labels: np.ndarray) -> list[Prediction]:
        return outputs.squeeze(-1).tolist()

    def measure(self, task: Task, examples: Sequence[Example], said: Sequence[Prediction]) -> dict[str, float]:
        return regression(task, examples, said)

    def terms(self, task: Task, examples: Sequence[Example], said: Sequence[Prediction]) -> tuple[list[Any], list[Any]]:
        return numbers_of(task, said).tolist(), [example.label for example in examples]


def _decimals(step: float) -> int:
    exponent: Any = Decimal(str(round(step, 6))).normalize().as_tuple().exponent
    return max(1, -int(exponent))
