"""Arguments of the functions that users call: of the right kind, before anything is loaded.

What a value means is checked where it is used, a model and its tokenizer in `load_pair`; here, only what would end in a
raw error there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch

from s3pet_viz.config import checks
from s3pet_viz.config.names import SPLITS
from s3pet_viz.errors import ConfigError
from s3pet_viz.runs import Run
from s3pet_viz.tasks import Task

Test = Callable[[Any], bool]


def check_arguments(**given: Any) -> None:
    """Each argument by its name; None where none was given.

    Raises:
        ConfigError: one is of another kind than its name says; names it, what was expected and what was found.
    """
    for name, value in given.items():
        good, expected = _KINDS[name]
        if not good(value):
            raise ConfigError(f"{name}: expected {expected}, found {checks.short(value)}")
        if name == "load":
            check_load(value or {})


def check_load(options: Mapping[str, Any]) -> None:
    """What `load_pair` takes beside its own arguments.

    Raises:
        ConfigError: an unknown option, or a value of another kind.
    """
    for name, value in options.items():
        if name not in _LOAD:
            raise ConfigError(f"load: unknown option {name!r} (expected some of {', '.join(_LOAD)})")
        good, expected = _LOAD[name]
        if not good(value):
            raise ConfigError(f"load: {name}: expected {expected}, found {checks.short(value)}")


def _is(*kinds: type) -> Test:
    return lambda value: isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)


def _or_none(test: Test) -> Test:
    return lambda value: value is None or test(value)


def _named(test: Test = lambda value: True) -> Test:
    return lambda value: isinstance(value, Mapping) and all(isinstance(k, str) and test(v) for k, v in value.items())


def _all(test: Test) -> Test:
    return lambda value: isinstance(value, (list, tuple)) and all(map(test, value))


_text, _path, _flag = _is(str), _is(str, os.PathLike), _is(bool, np.bool_)
_place = _or_none(lambda value: _path(value) and os.fspath(value) != "")
_function = _or_none(callable)
_count = _is(int, np.integer)
_rows = _or_none(lambda value: (_count(value) and value > 0) or _named(lambda n: _count(n) and n > 0)(value))


def _task(value: Any) -> bool:
    rows = hasattr(value, "columns") or hasattr(value, "column_names")  # a DataFrame, a Dataset
    return isinstance(value, (str, os.PathLike, Mapping)) or rows or (_all(_is(Mapping))(value) and len(value) > 0)


#: The same of `load`'s.
_LOAD: dict[str, tuple[Test, str]] = {
    "head": (_or_none(lambda value: _text(value) or _all(_text)(value)), "text, or a list of names"),
    **dict.fromkeys(("revision", "task_revision", "name"), (_or_none(_text), "text")),
    "family": (_or_none(_is(str, os.PathLike, Mapping)), "a mapping, or a YAML or JSON file"),
    "dtype": (_is(str, torch.dtype), "a type of numbers (float32, bfloat16, float16, auto)"),
    "device_map": (
        lambda value: value is None or _named()(value) or (isinstance(value, str) and value == "auto"),
        "auto, or a mapping of modules",
    ),
    "seed": (lambda value: _count(value) and value >= 0, "a whole number of at least 0"),
    "columns": (_or_none(_is(str, Mapping)), "a mapping of the task's fields to columns"),
    "max_rows": (_rows, "a whole number of at least 1, or one for each split"),
    "task_spec": (_or_none(_is(Task, Mapping)), "a Task, or a task.json object"),
}

#: Argument -> what it is, in code and in words.
_KINDS: dict[str, tuple[Test, str]] = {
    **dict.fromkeys(("progress", "retry", "overwrite", "metric"), (_flag, "true or false")),
    **dict.fromkeys(("out", "save"), (_place, "a path")),
    "resume": (lambda value: isinstance(value, Run) or _place(value), "a run or its path"),
    **dict.fromkeys(("on_cell", "on_scores", "draw"), (_function, "a function")),
    **dict.fromkeys(("device", "precision"), (_text, "text")),
    "split": (_or_none(lambda value: isinstance(value, str) and value in SPLITS), f"one of {', '.join(SPLITS)}"),
    "label": (_or_none(_text), "text"),
    "family": _LOAD["family"],
    "backbone": (_place, "a name or a folder"),
    "budget": (_or_none(_is(str, Real)), "a fraction ('0.1%') or a number of parameters"),
    "task": (_or_none(_task), "a name, a file, a folder, rows or a mapping of splits"),
    **dict.fromkeys(("load", "search", "tune"), (_or_none(_named()), "a mapping of options by name")),
    "per_task": (_or_none(_named(_named())), "a mapping of task names to options"),
    "methods": (lambda value: _all(_text)(value) and len(value) > 0, "a list of names"),
    "references": (_all(_text), "a list of names"),
    "workers": (_or_none(lambda value: _count(value) and value > 0), "a whole number of at least 1"),
    "mode": (_text, "text"),
    "structures": (_or_none(_named()), "a mapping of names to structures"),
}
