"""What a task is: its fields, labels and metrics, and how its rows become examples."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from s3pet_viz.errors import ConfigError, TaskError
from s3pet_viz.tasks.example import Example
from s3pet_viz.tasks.kind import Kind
from s3pet_viz.tasks.rows import Row, Table, as_table, text

Form = Literal["text", "pair"]
Builder = Callable[["Task", Row, str, Form, bool, int], list[Example]]
#: How a row becomes examples, by the name that a task gives its form; filled by `tasks.forms`.
BUILDERS: dict[str, Builder] = {}
#: What sets the kinds of task apart, by name; filled by `tasks.kinds`.
KINDS: dict[str, Kind] = {}


@dataclass(frozen=True)
class Task:
    """A task: plain data, safe to pickle and to compare.

    `metrics` has the main metric first. `fields` are the text columns in the order of the text form, `pair_fields` the
    columns of the pair form (default: `fields`): the first, and the others joined. Lengths are in tokens. `label_range`
    (low, high) and `label_step`, in the units of the label, belong to regression. `builder` names the form in
    `BUILDERS`. `large` tasks take their validation rows from the training split. `benchmark` is "glue", "super_glue" or
    "". `functions` are metrics of the user's own, by their names in `metrics`.
    """

    name: str
    kind: str
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
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict, hash=False)

    @property
    def of(self) -> Kind:
        """What its kind says."""
        return KINDS[self.kind]

    @property
    def columns(self) -> tuple[str, ...]:
        """What its rows need: text columns and, where there is one, the label's."""
        return (*self.fields, *((self.label,) if self.label else ()))

    @property
    def num_labels(self) -> int:
        """Outputs of an encoder's head: the number of classes, or 1 for regression.

        The pair forms of COPA and ReCoRD score one candidate at a time: 2 classes, wrong and right.
        """
        return self.of.num_labels(self)

    @property
    def generates_text(self) -> bool:
        """Whether the text form generates free text (ReCoRD: an entity, WSC: a noun), not a label name."""
        return self.builder in ("record", "wsc") or self.kind == "generation"

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

    def label_of(self, row: Row, at: str) -> Any:
        """The label of a row, as its kind's loss takes it. Raises TaskError naming the place `at`."""
        return self.of.label_of(self, row, at)

    def target_of(self, label: Any) -> str:
        """The text that stands for a label: its name, or the number rounded to `label_step`."""
        return self.of.target_of(self, label)

    def parse_prediction(self, text: str) -> Any:
        """What a generated text says, or None, which scores as wrong: the kind's `parse`.

        ReCoRD and WSC: the text itself, stripped; None when nothing is left.
        """
        said = text.strip()
        return (said or None) if self.builder in ("record", "wsc") else self.of.parse(self, said)

    @property
    def unparsed_value(self) -> float:
        """The regression value that stands for a prediction that is no number: below the label range."""
        low, high = self.limits
        return low - (high - low) / 5

    def split_key(self, row: Row, at: str = "row") -> Hashable:
        """What a split keeps on one side: the passage (MultiRC, ReCoRD), else rows with the very same texts."""
        if self.builder in ("multirc", "record"):
            return text(row, "paragraph" if self.builder == "multirc" else "passage", at)
        return self.of.key(self, row, at)

    def check_class_names(self, table: Table) -> None:
        """The names of a `datasets` ClassLabel are the task's, in its order: its numbers are places in its own list."""
        found = table.class_names.get(self.label)
        if self.label_names and found and found != self.label_names:
            raise TaskError(
                f"{table.where}: expected the labels numbered {', '.join(self.label_names)}, found {', '.join(found)} "
                f"in column '{self.label}'; give label_names as they are there, or the labels as texts."
            )

    @property
    def limits(self) -> tuple[float, float]:
        """Of a regression's values."""
        if self.label_range is None:
            raise TaskError(f"task {self.name}: expected a label_range for regression, found none.")
        return self.label_range


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
