"""Which columns hold a task's texts and labels, and what its labels are, where nobody has said."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from s3pet_viz.errors import ConfigError, TaskError, short
from s3pet_viz.tasks.rows import Row, Table, is_finite, plain
from s3pet_viz.tasks.spec import Task

#: Text columns that need no `columns`: the first set that a file has.
USUAL = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question", "context"), ("text",), ("sentence",))
#: More classes than this are no list of labels.
MOST_CLASSES = 1000
_TRUTH = {"false": "False", "true": "True"}
#: 01 and 1e3 are texts.
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?", re.ASCII)

Tables = dict[str, Table]


def renamed(tables: Mapping[str, Table], columns: Mapping[str, str]) -> Tables:
    """Tables whose columns have the task's names.

    Raises:
        TaskError: a table lacks one of the columns; names the table.
    """
    back = {column: field for field, column in columns.items()}
    hidden = set(columns) - set(back)  # a column that has the name of a field, and is another one
    made = {}
    for split, table in tables.items():
        for column in back:
            if table.rows and column not in table.rows[0]:
                found = ", ".join(map(str, table.rows[0])) or "none"
                raise TaskError(f"{table.where}: expected a column {column!r} (columns), found the columns: {found}.")

        rows = [{back.get(k, k): v for k, v in row.items() if k not in hidden} for row in table.rows]
        classes = {back.get(k, k): v for k, v in table.class_names.items() if k not in hidden}
        other = ", ".join(f"{field} is its {column!r}" for field, column in columns.items() if field != column)
        where = f"{table.where} ({other})" if other else table.where
        made[split] = replace(table, where=where, rows=rows, class_names=classes)
    return made


def task_of_columns(tables: Mapping[str, Table], columns: Mapping[str, str] | None, name: str) -> Task | None:
    """The task that rows are of, where nobody has said: its fields are those of `columns`, or usual names; None where
    these are not there either. Whole numbers, texts, and true and false are classes, other numbers are a regression.
    """
    first: Row = tables["train"].rows[0] if tables["train"].rows else {}
    if columns is not None:
        fields = tuple(field for field in columns if field != "label")
        if not fields:
            raise ConfigError("columns: expected a text field beside the label, found none")
    else:
        fields = next((names for names in USUAL if all(one in first for one in names)), ())
    if not fields or "label" not in first:
        return None
    values = [plain(row.get("label")) for split in tables if split != "test" for row in tables[split].rows]
    values = [v for v in values if v is not None]
    numbers = [n for n in map(_number, values) if n is not None]
    continuous = len(numbers) == len(values) and any(not n.is_integer() for n in numbers)
    safe = "".join(c if c.isalnum() or c in "_. -" else "_" for c in name).strip(" .-") or "task"
    kind: Any = "regression" if continuous else "classification"
    metrics = ("pearson", "spearman") if continuous else ("accuracy",)
    return Task(safe, kind, fields, (), metrics, prefix=safe, pair_fields=fields)


def completed(task: Task, tables: Mapping[str, Table]) -> tuple[Task, Tables]:
    """The task with its labels (or their range) read off the rows, where it has none; rows in its terms. Said as a
    warning.

    Raises:
        TaskError: there are fewer than two labels, or too many to be any.
    """
    made = dict(tables)
    if task.kind == "regression":
        if task.label_range is None:
            made = _typed(task, made)
            found = [float(v) for v, _ in _labels(task, made) if is_finite(v)]
            if len(set(found)) < 2:
                raise TaskError(f"{tables['train'].where}: expected numbers that differ in column {task.label!r}.")
            task = replace(task, label_range=(min(found), max(found)), label_step=(max(found) - min(found)) / 25)
            _said(task, f"numbers from {min(found):g} to {max(found):g}")
        return task, _typed(task, made)
    if "label_names" not in task.of.own:
        return task, made
    if not task.label_names:
        if classes := tables["train"].class_names.get(task.label):
            task = replace(task, label_names=classes)
        else:
            made = _typed(task, made)
            task = replace(task, label_names=_names(task, made))
            made = {split: _map(table, task.label, _each(_name_of)) for split, table in made.items()}
        task.of.check_names(task, tables["train"].where)
        _said(task, f"the labels {short(', '.join(task.label_names))}")
    return task, _typed(task, made)


def _said(task: Task, what: str) -> None:
    fields = " and ".join(task.fields)
    warnings.warn(f"task {task.name}: {task.kind} of {fields}, {what} (read off column {task.label!r})", stacklevel=5)


def _labels(task: Task, tables: Mapping[str, Table]) -> Iterator[tuple[Any, str]]:
    """Those of the rows that train and validate, with their places: a published test split may hide its own. Those of
    lists one by one.
    """
    for table in (table for split, table in tables.items() if split != "test"):
        for i, row in enumerate(table.rows):
            for one in task.of.entries(plain(row.get(task.label))):
                yield plain(one), table.at(i)


def _names(task: Task, tables: Mapping[str, Table]) -> tuple[str, ...]:
    """The labels of the rows, numbers in their order."""
    where, rows = tables["train"].where, sum(len(t) for split, t in tables.items() if split != "test")
    texts = set()
    for value, at in _labels(task, tables):
        if not isinstance(name := "" if value is None else _name_of(value), str):
            several = "; several labels a row are a task of kind multi_label" if isinstance(value, list | tuple) else ""
            raise TaskError(f"{at}: expected a label in column {task.label!r}, found {short(value)}{several}.")
        texts |= {name} - {""}
    if texts == {"True"} or texts == {"False"}:
        texts = {"True", "False"}
    if not 2 <= len(texts) <= min(MOST_CLASSES, max(2, rows // 2)):
        raise TaskError(
            f"{where}: expected at least two labels in column {task.label!r}, and each more than once, found "
            f"{len(texts)} in {rows} rows; say what they are (task_spec, or task.json)."
        )
    if wrong := [name for name in texts if name != name.strip() or not name.isprintable()]:
        raise TaskError(
            f"{where}: expected labels without white space around them in column {task.label!r}, found {wrong[0]!r}."
        )
    numbers = {name: _number(name) for name in texts}
    if None not in numbers.values():
        return tuple(sorted(texts, key=lambda name: (numbers[name], name)))
    return tuple(sorted(texts))


def _name_of(value: Any) -> Any:
    """The text that stands for a label of a row; None and lists as they are."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return _TRUTH.get(value.casefold(), value)
    if is_finite(value):
        return str(int(value)) if float(value).is_integer() else str(value)
    return value if value is None or isinstance(value, list | dict | float) else str(value)


def _each(made: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same of every entry of a list."""

    def of(value: Any) -> Any:
        value = value.tolist() if hasattr(value, "tolist") else value
        return [made(plain(one)) for one in value] if isinstance(value, list | tuple) else made(value)

    return of


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        found = float(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        return None
    return found if is_finite(found) else None


def _typed(task: Task, tables: Mapping[str, Table]) -> Tables:
    """Labels of files that hold texts alone: a number where it is written as one and is no label's name."""

    def typed(value: Any) -> Any:
        if not isinstance(value, str) or value in task.label_names:
            return value
        found = value.strip()
        if _PLAIN_NUMBER.fullmatch(found):
            number = float(found)
            return int(number) if number.is_integer() and task.kind == "classification" else number
        return _TRUTH.get(found.casefold(), found)

    return {split: _map(t, task.label, typed) if t.untyped else t for split, t in tables.items()}


def _map(table: Table, column: str, made: Callable[[Any], Any]) -> Table:
    rows = [{**row, column: made(plain(row[column]))} if column in row else row for row in table.rows]
    return replace(table, rows=rows)
