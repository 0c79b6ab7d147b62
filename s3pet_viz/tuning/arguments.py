"""Arguments of the functions that users call: of the right kind, before anything is loaded.

What a value means is checked where it is used; here, only what would end in a raw error there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from torch import nn

from s3pet_viz.errors import ConfigError
from s3pet_viz.structure import Structure
from s3pet_viz.tuning import checks

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


def _is(*kinds: type) -> Test:
    return lambda value: isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)


def _or_none(test: Test) -> Test:
    return lambda value: value is None or test(value)


def _named(test: Test = lambda value: True) -> Test:
    return lambda value: isinstance(value, Mapping) and all(isinstance(k, str) and test(v) for k, v in value.items())


def _all(test: Test) -> Test:
    return lambda value: isinstance(value, (list, tuple)) and all(map(test, value))


#: What splits a task, see `tasks.load_task`.
SPLITS = ("paper", "holdout")

_text, _path, _flag = _is(str), _is(str, os.PathLike), _is(bool, np.bool_)
_place = _or_none(lambda value: _path(value) and os.fspath(value) != "")
_function = _or_none(callable)

#: Argument -> what it is, in code and in words.
_KINDS: dict[str, tuple[Test, str]] = {
    **dict.fromkeys(("progress", "retry", "overwrite", "metric"), (_flag, "true or false")),
    **dict.fromkeys(("out", "resume", "save"), (_place, "a path")),
    **dict.fromkeys(("on_cell", "on_scores"), (_function, "a function")),
    **dict.fromkeys(("device", "precision"), (_text, "text")),
    "split": (_or_none(lambda value: isinstance(value, str) and value in SPLITS), f"one of {', '.join(SPLITS)}"),
    "label": (_or_none(_text), "text"),
    "backbone": (_or_none(_path), "a name or a folder (a model in memory is model=, with tokenizer=)"),
    "budget": (_or_none(_is(str, Real)), "a fraction ('0.1%') or a number of parameters"),
    "task": (_or_none(_is(str, os.PathLike, Mapping)), "a name, a folder, or a mapping of splits"),
    "load": (_or_none(_named()), "a mapping of options by name"),
    "per_task": (_or_none(_named(_named())), "a mapping of task names to options"),
    "model": (_or_none(_is(nn.Module)), "a model (torch.nn.Module)"),
    "tokenizer": (_or_none(callable), "a tokenizer"),
    "methods": (_all(_text), "a list of names"),
    "references": (_all(_text), "a list of names"),
    "mode": (_text, "text"),
    "structures": (_or_none(_named(_is(Structure))), "a mapping of names to structures"),
}
