"""The form that starts a search: its choices and what it refuses, apart from any widget."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s3pet_viz.config import SearchConfig
from s3pet_viz.config.names import SPACES
from s3pet_viz.config.options import options_of
from s3pet_viz.errors import BudgetError, ConfigError
from s3pet_viz.resources import list_resources

#: The options that say they are in the form, and its first values.
FIELDS = {name: one for name, one in options_of(SearchConfig).items() if one.form is not None}
DEFAULTS: dict[str, Any] = {name: one.default if one.form is True else one.form for name, one in FIELDS.items()}

_HUB_TASK = re.compile(r"(glue|super_glue)/[a-z0-9_]+")
_HUB_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def tasks() -> list[str]:
    """The embedded tasks, the default one first."""
    return _default_first(list_resources("tasks"), DEFAULTS["task"])


def backbones() -> list[str]:
    """The embedded backbones, the default one first, and the one that an extra brings."""
    return [*_default_first(list_resources("backbones"), DEFAULTS["backbone"]), "minilm"]


def check_form(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `launch` is given, from what the form holds.

    What only the search itself can know (whether a hub name exists, a backbone's size) it says itself.

    Raises:
        ConfigError: a value that cannot be used; names the field.
    """
    options: dict[str, Any] = {
        name: value.strip() if isinstance(value, str) else value for name, value in values.items()
    }
    for name, one in FIELDS.items():
        if options.get(name) == "" and one.optional:
            options[name] = None
        if options.get(name) in (None, "") and not one.optional:
            raise ConfigError(f"{name}: expected a value, found none")
        if one.kind in (int, float) and isinstance(options.get(name), str):
            with contextlib.suppress(ValueError):
                options[name] = one.kind(options[name])
    task, backbone, space = options["task"], options["backbone"], options["space"]
    known = tasks()
    if task not in known and not _HUB_TASK.fullmatch(task) and not (_is(task, "dir") or _is(task, "file")):
        raise ConfigError(
            f"task: expected one of {', '.join(known)}, a file or a folder of rows, "
            f"or a name such as glue/rte, found {task!r}"
        )
    if not (_is(backbone, "dir") or _HUB_MODEL.fullmatch(backbone)):
        raise ConfigError(
            f"backbone: expected one of {', '.join(backbones())}, a folder or a hub name, found {backbone!r}"
        )
    if space not in SPACES and not _is(space, "file"):
        raise ConfigError(f"space: expected one of {', '.join(SPACES)}, or a YAML or JSON file, found {space!r}")
    try:
        SearchConfig(**options)
    except BudgetError as error:
        raise ConfigError(str(error)) from None
    return options


def _is(path: str, kind: str) -> bool:
    try:
        return Path(path).is_dir() if kind == "dir" else Path(path).is_file()
    except (OSError, ValueError):  # too long for a path, or a zero byte
        return False


def _default_first(names: list[str], first: str) -> list[str]:
    return sorted(names, key=lambda name: (name != first, name))
