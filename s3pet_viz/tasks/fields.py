"""Checks of the fields of a task.json. Data only; nothing in it is ever run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s3pet_viz.errors import TaskError
from s3pet_viz.tasks.rows import kind_of


def line(value: object, where: str, field: str) -> str:
    """One line of text. Raises TaskError: it is none; as all here, naming `where` and the field."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise wrong(where, field, "one line of text, not empty", value)
    return value


def lines(value: object, where: str, field: str, *, least: int) -> tuple[str, ...]:
    """A list of at least so many lines, none twice."""
    if not isinstance(value, list | tuple) or len(value) < least:
        raise wrong(where, field, f"a list of at least {least} text(s)", value)
    entries = tuple(line(entry, where, field) for entry in value)
    if len(set(entries)) != len(entries):
        raise wrong(where, field, "no text twice", value)
    return entries


def tokens(spec: Mapping[str, Any], field: str, default: int, where: str) -> int:
    """A number of tokens."""
    length = spec.get(field, default)
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= 1_000_000:
        raise wrong(where, field, "a whole number of tokens from 1", length)
    return length


def label_names(spec: Mapping[str, Any], where: str, *, least: int = 2) -> tuple[str, ...]:
    """The names of the labels; none where they are to be read off the rows."""
    if spec.get("label_names") is None:
        return ()
    names = lines(spec["label_names"], where, "label_names", least=least)
    if any(entry != entry.strip() for entry in names):
        raise wrong(where, "label_names", "names without white space around them", list(names))
    return names


def text_columns(spec: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The columns of a task's texts."""
    return lines(spec["fields"], where, "fields", least=1)


def wrong(where: str, field: str, expected: str, found: object) -> TaskError:
    """The error of a field that is not what was expected."""
    shown = repr(list(found)) if isinstance(found, list | tuple) else kind_of(found)
    return TaskError(f"{where}, field '{field}': expected {expected}; found {shown}.")
