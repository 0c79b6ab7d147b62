"""What sets one kind of task apart: everything that the rest of the package asks of it, in one place."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from s3pet_viz.errors import TaskError
from s3pet_viz.tasks.example import Example
from s3pet_viz.tasks.rows import Row, Table, column, kind_of, plain, text

#: Positions that a loss leaves out (transformers' convention).
IGNORE = -100
Prediction = Any


class Kind:
    """One kind of task; `kinds/` has them all. `task` is always the `Task` that is asked about.

    Attributes:
        problem: what an encoder's head has to be for, as transformers names it (``problem_type``, and
            ``token_classification``, which is a head of its own); empty: only a language model can do it.
        metrics: those that a task.json may name. extras: the packages of `s3pet_viz[metrics]` that some of them need.
        own: the fields of a task.json beside those of all kinds. needs: of these, the ones that must be there.
        label: the column of labels where none is named. label_field: what a task.json calls it.
        source_length, target_length: in tokens, where nobody says.
        says_cut: whether it is said that a text is cut, since the answer is all through the text, or is one itself.
    """

    name: ClassVar[str]
    problem: ClassVar[str] = ""
    metrics: ClassVar[tuple[str, ...]] = ()
    extras: ClassVar[Mapping[str, str]] = {}
    own: ClassVar[tuple[str, ...]] = ("fields", "label")
    needs: ClassVar[tuple[str, ...]] = ("fields",)
    label: ClassVar[str] = "label"
    label_field: ClassVar[str] = "label"
    source_length: ClassVar[int] = 128
    target_length: ClassVar[int] = 16
    says_cut: ClassVar[bool] = False

    # -- task.json and rows --------------------------------------------------------------------------------

    def read(self, spec: Mapping[str, Any], metrics: Sequence[str], where: str) -> dict[str, Any]:
        """Fields of `Task` from those of a task.json that are this kind's own. Raises TaskError: naming the field."""
        return {}

    def entries(self, value: object) -> Iterable[object]:
        """The labels in a row's label column: one, or those of its list."""
        return (value,)

    def check_names(self, task: Any, where: str) -> None:
        """Raises TaskError: label names that this kind, or its metrics, cannot use."""

    def label_of(self, task: Any, row: Row, at: str) -> Any:
        """What a row's label is to a loss. Raises TaskError naming the place `at`."""
        raise NotImplementedError

    def target_of(self, task: Any, label: Any) -> str:
        """The text that stands for a label."""
        raise NotImplementedError

    def example(self, task: Any, row: Row, at: str) -> Example:
        """One row: its fields as ``prefix field: value field: value``; pair form: the first, and the others joined."""
        label = self.label_of(task, row, at)
        values = {name: text(row, name, at) for name in task.fields}
        source = " ".join([task.prefix, *(f"{name}: {values[name]}" for name in task.fields)])
        first, *rest = (values[name] for name in task.pair_fields or task.fields)
        return Example(source, self.target_of(task, label), first, "\n".join(rest) if rest else None, label)

    def key(self, task: Any, row: Row, at: str) -> Hashable:
        """What two rows have in common that must not train and be scored: their very same texts."""
        return tuple(str(column(row, name, at)) for name in task.fields)

    def stratum(self, task: Any, row: Row, at: str) -> Hashable:
        """What keeps its share where rows are left out (`max_rows`)."""
        return 0

    def variety(self, task: Any, row: Row, at: str) -> Iterable[Hashable]:
        """What must not be the same in all training rows; nothing: that is not asked."""
        return ()

    def check_table(self, task: Any, table: Table) -> None:
        """Raises TaskError: rows that this kind, or its metrics, cannot use."""

    # -- what a backbone is trained on -----------------------------------------------------------------------

    def num_labels(self, task: Any) -> int:
        """Outputs of a head."""
        return len(task.label_names)

    def labels(self, values: Sequence[Any]) -> np.ndarray:
        """A batch's labels for a head that answers once a row."""
        return np.asarray(values, dtype=np.int64)

    def constant_loss(self, examples: Sequence[Example], answers: Sequence[Any], text: bool) -> float | None:
        """The least mean loss of one answer to every row, in the units of the loss; None where nobody can tell.

        Args:
            answers: token ids of each target (`text`), or labels.
        """
        found = entropy([tuple(one) if isinstance(one, list) else one for one in answers])
        return found / float(np.mean([len(one) for one in answers])) if text else found

    # -- answers ---------------------------------------------------------------------------------------------

    def said(self, task: Any, targets: Iterable[str]) -> list[str]:
        """The answers of the text form that a tokenizer has to give back, and to tell apart; none: free text."""
        return list(dict.fromkeys(targets))

    def parse(self, task: Any, text: str) -> Prediction:
        """What a generated text says, in the terms of `measure`; None: nothing that is an answer."""
        raise NotImplementedError

    def read_head(self, task: Any, outputs: np.ndarray, labels: np.ndarray) -> list[Prediction]:
        """What a head's outputs say. outputs: shape (rows, labels), or (rows, tokens, labels); labels: the batch's."""
        raise NotImplementedError

    def truth(self, example: Example) -> Prediction:
        """The right answer, as `measure` takes it."""
        return example.label

    def measure(self, task: Any, examples: Sequence[Example], said: Sequence[Prediction]) -> dict[str, float]:
        """The metrics that the task names, of this kind's own ones.

        Raises:
            TaskError: a prediction that is none. MissingExtraError: a metric's package.
        """
        raise NotImplementedError

    def terms(self, task: Any, examples: Sequence[Example], said: Sequence[Prediction]) -> tuple[list[Any], list[Any]]:
        """Predictions and references for a metric of the user's own, as scikit-learn and `evaluate` know them."""
        raise NotImplementedError


def entropy(values: Iterable[Hashable]) -> float:
    """Of the shares of values, in nats."""
    share = np.array(list(Counter(values).values()), dtype=np.float64)
    share /= share.sum()
    return float(-(share * np.log(share)).sum())


def as_list(value: object, name: str, at: str, what: str) -> list[Any]:
    """A list (also NumPy's) of a row, its numbers as Python's. Raises TaskError: it is none."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TaskError(f"{at}: expected a list of {what} in column '{name}', found {kind_of(value)}.")
    return [plain(entry) for entry in value]


def label_index(value: object, names: Sequence[str], name: str, at: str) -> int:
    """The place of a label, from its name or its number. Raises TaskError: it is neither."""
    if isinstance(value, str) and value in names:
        return names.index(value)
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return value
    raise TaskError(
        f"{at}: expected in column '{name}' labels from 0 to {len(names) - 1} or of {', '.join(names)}; found "
        f"{kind_of(value)}."
    )
