"""What a task is: its fields, labels and metrics, and how its rows become examples."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from s3pet_viz.errors import ConfigError, TaskError
from s3pet_viz.tasks.example import Example
from s3pet_viz.tasks.rows import Row, Table, as_table, class_index, column, number, text

Form = Literal["text", "pair"]
Builder = Callable[["Task", Row, str, Form, bool, int], list[Example]]
#: How a row becomes examples, by the name that a task gives its form; filled by `tasks.forms`.
BUILDERS: dict[str, Builder] = {}

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)


@dataclass(frozen=True)
class Task:
    """A task: plain data, safe to pickle and to compare.

    `metrics` has the main metric first. `fields` are the text columns in the order of the text form, `pair_fields` the
    one or two columns of the pair form (default: `fields`). Lengths are in tokens. `label_range` (low, high) and
    `label_step`, in the units of the label, belong to regression. `builder` names the form in `BUILDERS`. `large` tasks
    take their validation rows from the training split. `benchmark` is "glue", "super_glue" or "".
    """

    name: str
    kind: Literal["classification", "regression"]
    fields: tuple[str, ...]
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]
    max_source_length: int = 128
    max_target_length: int = 16
    label: str = "label"
    prefix: str = ""
    pair_fields: tuple[str, ...] = ()
    label_range: tuple[float, float] | None = None
    label_step: float | None = None
    builder: str = "plain"
    large: bool = False
    benchmark: str = ""

    @property
    def num_labels(self) -> int:
        """Outputs of an encoder's head: the number of classes, or 1 for regression.

        The pair forms of COPA and ReCoRD score one candidate at a time: 2 classes, wrong and right.
        """
        return 1 if self.kind == "regression" else len(self.label_names)

    @property
    def generates_text(self) -> bool:
        """Whether the text form generates free text (ReCoRD: an entity, WSC: a noun), not a label name."""
        return self.builder in ("record", "wsc")

    @property
    def scores_candidates(self) -> bool:
        """Whether the pair form has one example per candidate, so that `compute_metrics` wants a score for each.

        The score is any number that grows with the candidate being right: logit of class 1 minus logit of class 0.
        """
        return self.builder in ("copa", "record")

    def examples(self, rows: object, form: Form = "text", *, training: bool = False) -> list[Example]:
        """The examples of `rows`: a list of mappings, a `datasets.Dataset` or a DataFrame.

        Both forms are filled in every example; `form` decides how many examples a row gives, and what its group is.
        Text form: one per row, except that `training=True` gives one per answer for ReCoRD and none for a WSC row whose
        noun is wrong. Pair form: one per row, but one per entity for ReCoRD and one per choice for COPA. Raises
        TaskError, naming the row, for a missing column, a text that is not one, or an unknown label.
        """
        if form not in ("text", "pair"):
            raise ConfigError(f"form: expected 'text' or 'pair', found {form!r}.")
        table = as_table(rows, where=f"task {self.name}")
        self.check_class_names(table)
        build = BUILDERS[self.builder]
        made = (build(self, row, table.at(i), form, training, i) for i, row in enumerate(table.rows))
        return [example for several in made for example in several]

    def label_of(self, row: Row, at: str) -> int | float:
        """The class index or the regression value of a row. Raises TaskError naming the place `at`."""
        if self.kind == "regression":
            return number(row, self.label, self._range, at)
        return class_index(row, self.label, self.label_names, at)

    def target_of(self, label: int | float) -> str:
        """The text that stands for a label: its name, or the number rounded to `label_step`."""
        if self.kind == "classification":
            return self.label_names[int(label)]
        low, high = self._range
        step = self.label_step or (high - low) / 25
        per_unit = 1 / step  # multiplying, as T5 does: 3.1 * 5 is 15.5, and 3.1 / 0.2 is not
        count = min(round((label - low) * per_unit), int((high - low) * per_unit + 1e-9))
        return f"{low + count / per_unit + 0.0:.{self._decimals(step)}f}"

    def parse_prediction(self, text: str) -> int | float | str | None:
        """The label that a generated text stands for, or None, which scores as wrong.

        Classification: the class index of exactly that label name. Regression: a plain number inside
        `label_range`; None counts as one fifth of the range below its low end in the metrics (-1 for STS-B,
        as in T5). ReCoRD and WSC: the text itself, stripped; None when nothing is left.
        """
        said = text.strip()
        if self.generates_text:
            return said or None
        if self.kind == "classification":
            return self.label_names.index(said) if said in self.label_names else None
        low, high = self._range
        if not _NUMBER.fullmatch(said):
            return None
        value = float(said)
        return value if low <= value <= high else None

    @property
    def unparsed_value(self) -> float:
        """The regression value that stands for a prediction that is no number: below the label range."""
        low, high = self._range
        return low - (high - low) / 5

    def split_key(self, row: Row, at: str = "row") -> Hashable:
        """What a split keeps on one side: the passage (MultiRC, ReCoRD), else rows with the very same texts."""
        if self.builder in ("multirc", "record"):
            return text(row, "paragraph" if self.builder == "multirc" else "passage", at)
        return tuple(str(column(row, name, at)) for name in self.fields)

    def check_class_names(self, table: Table) -> None:
        """The names of a `datasets` ClassLabel are the task's, in its order: its numbers are places in its own list."""
        found = table.class_names.get(self.label)
        if self.kind == "classification" and found and found != self.label_names:
            raise TaskError(
                f"{table.where}: expected the labels numbered {', '.join(self.label_names)}, found {', '.join(found)} "
                f"in column '{self.label}'; give label_names as they are there, or the labels as texts."
            )

    @property
    def _range(self) -> tuple[float, float]:
        if self.label_range is None:
            raise TaskError(f"task {self.name}: expected a label_range for regression, found none.")
        return self.label_range

    @staticmethod
    def _decimals(step: float) -> int:
        exponent: Any = Decimal(str(round(step, 6))).normalize().as_tuple().exponent
        return max(1, -int(exponent))


@dataclass(frozen=True)
class TaskData:
    """A task with its three splits as examples, and where they come from (a folder, or a hub name and revision)."""

    task: Task
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    origin: str
    form: Form = "text"
    deciding: str = ""  # what the validation examples were cut from

    def __repr__(self) -> str:
        return (
            f"TaskData({self.task.name}, {self.form} form: {len(self.train)} train, "
            f"{len(self.validation)} validation, {len(self.test)} test; {self.origin})"
        )
