"""Rows of any origin as one plain table, and the checks of what a row holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from s3pet_viz.errors import TaskError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows with the names that an error message needs: where they come from and the number of each row.

    `numbers[i]` is the line of rows[i] in its file (from 1), or its position in memory (from 0). `untyped`: every value
    is a text, as in a .csv.
    """

    where: str
    rows: Sequence[Row]
    numbers: Sequence[int] = ()
    unit: str = "row"
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    untyped: bool = False

    def at(self, index: int) -> str:
        """The place of one row, for a message: `train.jsonl, line 3`."""
        number = self.numbers[index] if self.numbers else index
        return f"{self.where}, {self.unit} {number}"

    def take(self, indices: Iterable[int]) -> Table:
        """The rows at `indices`, in that order, with their own numbers."""
        kept = list(indices)
        numbers = [self.numbers[i] if self.numbers else i for i in kept]
        return replace(self, rows=[self.rows[i] for i in kept], numbers=numbers)

    def __len__(self) -> int:
        return len(self.rows)


def as_table(rows: object, where: str = "rows") -> Table:
    """A Table from a Table, a `datasets.Dataset`, a pandas DataFrame, or a sequence of mappings.

    Neither `datasets` nor pandas is imported: both are recognised by their methods. Raises TaskError for
    anything else (an IterableDataset too: its rows cannot be counted or split).
    """
    if isinstance(rows, Table):
        return rows
    if hasattr(rows, "column_names") and hasattr(rows, "with_format") and hasattr(rows, "num_rows"):
        return _from_dataset(rows, where)
    if hasattr(rows, "to_dict") and hasattr(rows, "itertuples"):
        names = list(getattr(rows, "columns", []))
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise TaskError(f"{where}: expected each column once, found {twice[0]!r} {names.count(twice[0])} times.")
        held: Any = rows  # what pandas has for a missing value (NaN, NaT, NA) is None
        return Table(where, held.astype(object).where(held.notna(), None).to_dict("records"))
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        for index, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise TaskError(f"{where}, row {index}: expected a mapping of column names, found {kind_of(row)}.")
        return Table(where, rows)
    raise TaskError(f"{where}: expected a datasets.Dataset, a DataFrame or a list of mappings, found {kind_of(rows)}.")


def _from_dataset(dataset: Any, where: str) -> Table:
    columns = dataset.with_format(None)[:]
    names = list(columns)
    records = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    classes = {}
    for name, feature in (dataset.features or {}).items():
        inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else feature)
        if labels := getattr(inner, "names", None):
            classes[name] = tuple(labels)
    return Table(where, records, class_names=classes)


def is_finite(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number (no bool) that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a string that UTF-8 can hold (JSON can spell half a surrogate pair)."""
    return isinstance(value, str) and value == value.encode("utf-8", "ignore").decode()


def kind_of(value: object) -> str:
    """What a value is, in the words of a JSON file, with the value itself where that is short."""
    if value is None:
        return "null"
    if isinstance(value, bool | int | float | str):
        shown = repr(value)
        return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
    return type(value).__name__


def plain(value: object) -> object:
    """A NumPy scalar as the Python number it stands for; anything else as it is."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:
        result: object = item()
        return result
    return value


def column(row: Row, name: str, at: str) -> object:
    """The value of a column. Raises TaskError when the row lacks it."""
    if name not in row:
        found = ", ".join(map(str, row)) or "none"
        raise TaskError(f"{at}: expected a column '{name}', found the columns: {found}.")
    return plain(row[name])


def text(row: Row, name: str, at: str) -> str:
    """The text of a column. Raises TaskError when it is missing or is not a string."""
    value = column(row, name, at)
    if not _is_text(value):
        raise _wrong(at, "text", name, value)
    return value


def texts(row: Row, name: str, at: str) -> tuple[str, ...]:
    """The texts of a list column, repeats dropped, in order. Raises TaskError for anything else."""
    value = column(row, name, at)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _wrong(at, "a list of texts", name, value)
    for entry in value:
        if not _is_text(entry):
            raise _wrong(at, "a list of texts", name, entry, " in it")
    return tuple(dict.fromkeys(value))


def whole(row: Row, name: str, at: str) -> int:
    """The whole number of a column. Raises TaskError for anything else."""
    value = column(row, name, at)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(at, "a whole number", name, value)
    return value


def _wrong(at: str, expected: str, name: str, value: object, more: str = "") -> TaskError:
    return TaskError(f"{at}: expected {expected} in column '{name}', found {kind_of(value)}{more}.")


def class_index(row: Row, name: str, label_names: tuple[str, ...], at: str) -> int:
    """The class index of a row: 0 .. len(label_names) - 1, from a number, a label name, or true / false.

    true and false count only where the label names are False and True. Raises TaskError for anything else.
    """
    value = column(row, name, at)
    if isinstance(value, bool) and label_names == ("False", "True"):
        return int(value)
    if isinstance(value, str) and value in label_names:
        return label_names.index(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(label_names):
        return value
    hint = " (-1 marks a hidden label: this split cannot be scored)" if value == -1 else ""
    raise TaskError(
        f"{at}: expected a label in column '{name}' from 0 to {len(label_names) - 1} or one of "
        f"{', '.join(label_names)}; found {kind_of(value)}{hint}."
    )


def number(row: Row, name: str, label_range: tuple[float, float], at: str) -> float:
    """The finite regression value of a row, inside `label_range`. Raises TaskError for anything else."""
    value = column(row, name, at)
    low, high = label_range
    if not is_finite(value):
        raise _wrong(at, "a finite number", name, value)
    if not low <= value <= high:
        raise TaskError(f"{at}: expected a number from {low:g} to {high:g} in column '{name}', found {value!r}.")
    return float(value)
