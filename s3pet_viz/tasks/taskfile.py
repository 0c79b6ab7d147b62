"""task.json: a user's own task, checked field by field. Data only; nothing in it is ever run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from s3pet_viz.errors import TaskError
from s3pet_viz.tasks.metrics import CLASSIFICATION_METRICS, REGRESSION_METRICS
from s3pet_viz.tasks.rows import is_finite, kind_of
from s3pet_viz.tasks.spec import Task

_REQUIRED = ("name", "kind", "fields", "metrics")
_COMMON = (*_REQUIRED, "label", "prefix", "max_source_length")
_OWN = {"classification": ("label_names",), "regression": ("label_range", "label_step")}
_METRICS = {"classification": CLASSIFICATION_METRICS, "regression": REGRESSION_METRICS}
_NAME = re.compile(r"\w[\w. -]*")


def task_from_dict(spec: object, where: str = "task_spec") -> Task:
    """The Task that a task.json object describes.

    Required: name, kind ("classification" or "regression"), fields (one or two text columns), metrics (main
    first). Optional: label (column, "label"), prefix (of the text form, the name), max_source_length (tokens, 128);
    for classification label_names, for regression label_range ([low, high]): read off the rows where they are not
    given; and label_step (a 25th of the range). Raises TaskError naming `where` and the field.
    """
    if not isinstance(spec, Mapping):
        raise TaskError(f"{where}: expected a JSON object, found {kind_of(spec)}.")
    for key in _REQUIRED:
        if key not in spec:
            found = ", ".join(map(str, spec)) or "none"
            raise TaskError(f"{where}: expected the field '{key}', found: {found}.")
    kind = spec["kind"]
    if not isinstance(kind, str) or kind not in _OWN:
        raise _wrong(where, "kind", "'classification' or 'regression'", kind)
    known = (*_COMMON, *_OWN[kind])
    for key in spec:
        if key not in known:
            raise TaskError(f"{where}, field '{key}': unknown for {kind}; expected only {', '.join(known)}.")

    name = _line(spec["name"], where, "name")
    if not _NAME.fullmatch(name) or ".." in name or len(name) > 100:
        raise _wrong(where, "name", "letters, digits, spaces, '_', '.', '-' and no path", name)
    fields = _strings(spec["fields"], where, "fields", least=1)
    if len(fields) > 2:
        raise _wrong(where, "fields", "one or two columns", list(fields))
    label = _line(spec.get("label", "label"), where, "label")
    if label in fields:
        raise _wrong(where, "label", "a column that is not among the fields", label)
    metrics = _strings(spec["metrics"], where, "metrics", least=1)
    for metric in metrics:
        if metric not in _METRICS[kind]:
            raise _wrong(where, "metrics", f"some of {', '.join(_METRICS[kind])}", metric)
    length = spec.get("max_source_length", 128)
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= 1_000_000:
        raise _wrong(where, "max_source_length", "a whole number of tokens from 1", length)

    names: tuple[str, ...] = ()
    label_range = label_step = None
    if kind == "classification":
        if spec.get("label_names") is not None:
            names = _strings(spec["label_names"], where, "label_names", least=2)
        if any(entry != entry.strip() for entry in names):
            raise _wrong(where, "label_names", "names without white space around them", list(names))
        if names and "f1" in metrics and len(names) != 2:
            raise _wrong(where, "metrics", f"macro_f1, not f1, for {len(names)} labels", "f1")
    elif spec.get("label_range") is not None:
        label_range, label_step = _range(spec, where)
    return Task(
        name=name,
        kind="classification" if kind == "classification" else "regression",
        fields=fields,
        label_names=names,
        metrics=metrics,
        max_source_length=length,
        label=label,
        prefix=_line(spec.get("prefix", name), where, "prefix"),
        label_range=label_range,
        label_step=label_step,
    )


def _range(spec: Mapping[str, Any], where: str) -> tuple[tuple[float, float], float]:
    found = spec["label_range"]
    pair = isinstance(found, list | tuple) and len(found) == 2 and all(map(is_finite, found))
    if not pair or not found[0] < found[1]:
        raise _wrong(where, "label_range", "[low, high], two finite numbers, low below high", found)
    low, high = float(found[0]), float(found[1])
    step = spec.get("label_step", (high - low) / 25)
    if not is_finite(step) or not 1e-6 <= step <= high - low:
        raise _wrong(where, "label_step", f"a number from 1e-6 to {high - low:g}", step)
    return (low, high), float(step)


def _line(value: object, where: str, field: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise _wrong(where, field, "one line of text, not empty", value)
    return value


def _strings(value: object, where: str, field: str, *, least: int) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) < least:
        raise _wrong(where, field, f"a list of at least {least} text(s)", value)
    entries = tuple(_line(entry, where, field) for entry in value)
    if len(set(entries)) != len(entries):
        raise _wrong(where, field, "no text twice", value)
    return entries


def _wrong(where: str, field: str, expected: str, found: object) -> TaskError:
    shown = repr(list(found)) if isinstance(found, list | tuple) else kind_of(found)
    return TaskError(f"{where}, field '{field}': expected {expected}; found {shown}.")
