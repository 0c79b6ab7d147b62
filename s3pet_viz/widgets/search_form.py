"""The form that starts a search: its choices and what it refuses, apart from any widget."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s3pet_viz.errors import BudgetError, ConfigError
from s3pet_viz.resources import list_resources
from s3pet_viz.structure.budget import Budget

MODES = ("fast", "paper", "first-order", "single-level", "exact")
SPACES = ("S3PET-M", "S3PET-L", "S3PET-M+cross", "S3PET-L+cross")
DEFAULTS: dict[str, Any] = {
    "task": "sentiment",
    "backbone": "tiny-t5",
    "budget": "0.2%",
    "space": "S3PET-M",
    "mode": "fast",
    "steps": 200,
    "seed": 0,
}

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
    options = {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}
    for name in ("task", "backbone", "budget", "space", "mode"):
        if not options.get(name):
            raise ConfigError(f"{name}: expected a value, found none")
    task, backbone, space = options["task"], options["backbone"], options["space"]
    known = tasks()
    if task not in known and not _HUB_TASK.fullmatch(task) and not _is(task, "dir"):
        raise ConfigError(
            f"task: expected one of {', '.join(known)}, a folder with train.jsonl and validation.jsonl, "
            f"or a name such as glue/rte, found {task!r}"
        )
    if not (_is(backbone, "dir") or _HUB_MODEL.fullmatch(backbone)):
        raise ConfigError(
            f"backbone: expected one of {', '.join(backbones())}, a folder or a hub name, found {backbone!r}"
        )
    try:
        Budget.parse(options["budget"])
    except BudgetError as error:
        raise ConfigError(str(error)) from None
    if space not in SPACES and not _is(space, "file"):
        raise ConfigError(f"space: expected one of {', '.join(SPACES)}, or a YAML or JSON file, found {space!r}")
    if options["mode"] not in MODES:
        raise ConfigError(f"mode: expected one of {', '.join(MODES)}, found {options['mode']!r}")
    for name, least in (("steps", 1), ("seed", 0)):
        value = options.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name}: expected a whole number of at least {least}, found {value!r}")
    return options


def _is(path: str, kind: str) -> bool:
    try:
        return Path(path).is_dir() if kind == "dir" else Path(path).is_file()
    except (OSError, ValueError):  # too long for a path, or a zero byte
        return False


def _default_first(names: list[str], first: str) -> list[str]:
    return sorted(names, key=lambda name: (name != first, name))
