"""task.json: a user's own task, checked field by field. Data only; nothing in it is ever run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from s3pet_viz.errors import TaskError
from s3pet_viz.tasks.fields import line, lines, text_columns, tokens, wrong
from s3pet_viz.tasks.own_metrics import GIVEN, own_metrics
from s3pet_viz.tasks.rows import kind_of
from s3pet_viz.tasks.spec import KINDS, Task

_REQUIRED = ("name", "kind", "metrics")
_COMMON = (*_REQUIRED, "prefix", "max_source_length")
_NAME = re.compile(r"\w[\w. -]*")


def task_from_dict(spec: object, where: str = "task_spec", *, in_file: bool = False) -> Task:
    """The Task that a task.json object describes.

    Required: name, kind (one of `KINDS`), metrics (main first), and what the kind needs (fields: the text columns).
    Optional: label (column, "label"), prefix (of the text form, the name), max_source_length (tokens, 128; generation:
    512), and what is the kind's own: label_names, or label_range ([low, high]) and label_step (a 25th of the range),
    which are read off the rows where they are not given; words and tags (columns); target or messages (columns) and
    max_target_length (64).

    A metric may also be a function ``metric(predictions, references)``, which returns a number or several by name, or
    ``evaluate:NAME``, which the package `evaluate` loads: not `in_file`. They take class indices, numbers, texts, lists
    of tags, or rows of 0 and 1 for each label.

    Raises:
        TaskError: naming `where` and the field. MissingExtraError: ``evaluate:`` without that package.
    """
    if not isinstance(spec, Mapping):
        raise TaskError(f"{where}: expected a JSON object, found {kind_of(spec)}.")
    kind = KINDS.get(spec["kind"]) if isinstance(spec.get("kind"), str) else None
    for key in (*_REQUIRED, *(kind.needs if kind else ())):
        if key not in spec:
            found = ", ".join(map(str, spec)) or "none"
            raise TaskError(f"{where}: expected the field '{key}', found: {found}.")
    if kind is None:
        raise wrong(where, "kind", f"one of {', '.join(KINDS)}", spec["kind"])
    known = (*_COMMON, *kind.own)
    for key in spec:
        if key not in known:
            raise TaskError(f"{where}, field '{key}': unknown for {kind.name}; expected only {', '.join(known)}.")

    name = line(spec["name"], where, "name")
    if not _NAME.fullmatch(name) or ".." in name or len(name) > 100:
        raise wrong(where, "name", "letters, digits, spaces, '_', '.', '-' and no path", name)
    listed, functions = own_metrics(spec["metrics"], kind.metrics, where, in_file=in_file)
    metrics = lines(listed, where, "metrics", least=1)
    for metric in metrics:
        if metric not in kind.metrics and metric not in functions:
            raise wrong(where, "metrics", f"some of {', '.join(kind.metrics)}", metric)
    made: dict[str, Any] = {
        "fields": text_columns(spec, where) if "fields" in kind.own and "fields" in spec else (),
        "label": line(spec.get(kind.label_field, kind.label), where, kind.label_field),
        "label_names": (),
        "max_target_length": kind.target_length,
        "max_source_length": tokens(spec, "max_source_length", kind.source_length, where),
        **kind.read(spec, metrics, where),
    }
    if made["label"] in made["fields"]:
        raise wrong(where, kind.label_field, "a column that is not among the fields", made["label"])
    prefix = line(spec.get("prefix", name), where, "prefix")
    return Task(name=name, kind=kind.name, metrics=metrics, prefix=prefix, functions=functions, **made)


def recalled(kept: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a run keeps of `load`, its task_spec as a Task, unless another is given. Raises TaskError: as for a file."""
    if "task_spec" not in kept or "task_spec" in given:
        return dict(kept)
    return {**kept, "task_spec": task_from_dict(kept["task_spec"], "run.json, task_spec", in_file=True)}


def recorded(spec: Task | Mapping[str, Any]) -> dict[str, Any] | None:
    """The task.json object of a task, for a run's run.json: metrics of the user's own are named, to be given again.

    None: a task that no task.json can describe (a published one has a name).
    """
    task = spec if isinstance(spec, Task) else task_from_dict(spec)
    kind = task.of
    if task.builder not in ("plain", "messages") or task.benchmark or task.pair_fields:
        return None
    made: dict[str, Any] = {"name": task.name, "kind": task.kind, "prefix": task.prefix}
    made["max_source_length"] = task.max_source_length
    own = {
        "fields": list(task.fields),
        "words": task.fields[0],
        "messages": task.fields[0] if task.builder == "messages" else None,
        kind.label_field: task.label,
        "label_names": list(task.label_names) or None,
        "label_range": list(task.label_range) if task.label_range else None,
        "label_step": task.label_step if task.label_range else None,
        "max_target_length": task.max_target_length,
    }
    left_out = ("fields", kind.label_field) if task.builder == "messages" else ()
    made |= {k: own[k] for k in kind.own if own.get(k) is not None and k not in left_out}
    plain = {**made, "metrics": [m for m in task.metrics if m not in task.functions] or [kind.metrics[0]]}
    again = task_from_dict(plain)
    if again != replace(task, metrics=again.metrics, functions={}):
        return None
    return {**made, "metrics": [{GIVEN: m} if m in task.functions else m for m in task.metrics]}
