"""A label means one thing: whole numbers in rows against the names of a task's labels."""

from __future__ import annotations

import re
from collections.abc import Iterable

from s3pet_viz.errors import TaskError
from s3pet_viz.tasks.rows import Table, is_finite, plain
from s3pet_viz.tasks.spec import Task

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
_TRUTH = {"false": 0.0, "true": 1.0}


def check_numbers(task: Task, tables: Iterable[Table]) -> None:
    """Whole numbers in rows are places in `label_names`, from 0. Where the names are numbers too, both say the same.

    Names that are nothing but numbers ("1", "2", "3") have to agree with their places. Names with a number in them ("1
    star", "2 stars") have to, unless a row has a number that no name has. Published tasks are numbered by place.

    Args:
        tables: all splits of the task.

    Raises:
        TaskError: they do not: a number may mean one label or another.
    """
    names = task.label_names
    numbers = [_number_in(name) for name in names]
    if not names or task.benchmark or None in numbers or len(set(numbers)) < len(names):
        return
    if numbers == list(range(len(names))):
        return
    alone = all(name.casefold() in _TRUTH or _NUMBER.fullmatch(name) for name in names)
    used: dict[float, str] = {}
    for table in tables:
        if task.label in table.class_names:
            continue
        for i, row in enumerate(table.rows):
            for value in map(plain, task.of.entries(plain(row.get(task.label)))):
                if is_finite(value) and value != -1:  # -1 marks a hidden label
                    used.setdefault(float(value), table.at(i))
    if used and (alone or used.keys() <= set(numbers)):
        value, at = next(iter(used.items()))
        place = f"{names[int(value)]!r} by place" if 0 <= value < len(names) else "none by place"
        meant = f"{names[numbers.index(value)]!r}" if value in numbers else "none"
        raise TaskError(
            f"{at}: expected a label that means one thing, found the number {value:g} in column '{task.label}', which "
            f"is {place} (from 0) and {meant} by name; give the names as texts."
        )


def _number_in(name: str) -> float | None:
    """The one number in a name; false is 0 and true 1."""
    if name.casefold() in _TRUTH:
        return _TRUTH[name.casefold()]
    found = _NUMBER.findall(name)
    return float(found[0]) if len(found) == 1 else None
