"""The unit of a study: one search, or one training of a structure. Plain JSON, so that any executor can carry it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from s3pet_viz.errors import ConfigError
from s3pet_viz.files import expanded, is_folder


@dataclass(frozen=True)
class Cell:
    """One search or one training.

    Attributes:
        key: its name, a plain file name.
        kind: ``search`` or ``tune``.
        labels: what its row is named by (see `analysis.study.LABELS`).
        what: a search's arguments; of a training ``structure`` (how to come by it, see `worker`), ``bench``
            (arguments of `Workbench.open`) and ``options`` (of `TuneConfig`).
        needs: keys of the searches that must be done before.
    """

    key: str
    kind: Literal["search", "tune"]
    labels: Mapping[str, Any]
    what: Mapping[str, Any]
    needs: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "needs": list(self.needs)}


def key_of(*parts: object) -> str:
    """A readable file name of these parts; empty ones are left out."""
    words = (str(p).replace("%", "pct") for p in parts if p != "")
    key = re.sub(r"[^A-Za-z0-9._+-]+", "-", "-".join(words)).strip(".-")
    if len(key) > 120:  # a file system takes 255, with what a temporary name adds
        key = f"{key[:50]}-{hashlib.sha256(key.encode()).hexdigest()[:12]}-{key[-50:]}"
    return key


def task_names(tasks: Iterable[Any]) -> dict[str, str]:
    """Label -> task, as the workers are to load it (folders by their absolute path). Raises ConfigError: no task, rows
    in memory (a cell runs in another process), or two of one name.
    """
    made: dict[str, str] = {}
    for task in tasks:
        if not isinstance(task, (str, Path)):
            raise ConfigError(
                f"tasks: expected names or folders, found {type(task).__name__}; "
                "a study's cells run in other processes, so write the rows to a folder first"
            )
        path = expanded(task)
        label = path.name or str(task)
        if label in made:
            raise ConfigError(f"tasks: two are called {label!r} ({made[label]} and {task})")
        made[label] = str(path.resolve()) if is_folder(path) else str(task)
    if not made:
        raise ConfigError("tasks: expected at least one, found none")
    return made


def as_list(value: Any, name: str) -> list[Any]:
    """One value or several, as a list without repeats. Raises ConfigError: none."""
    single = isinstance(value, (str, bytes, Path, Mapping)) or not isinstance(value, Iterable)
    several = [value] if single else value
    made: list[Any] = []
    for one in several:  # not a set: rows in memory cannot be hashed, and get their own error later
        if not any(one is other or (type(one) is type(other) and one == other) for other in made):
            made.append(one)
    if not made:
        raise ConfigError(f"{name}: expected at least one, found none")
    return made


def unique(cells: Iterable[Cell]) -> list[Cell]:
    """The cells without repeats. Raises ConfigError: two different cells of one key."""
    made: dict[str, Cell] = {}
    for cell in cells:
        if made.setdefault(cell.key, cell) != cell:
            raise ConfigError(f"study: two different cells would be called {cell.key!r}; give the tasks clearer names")
    return list(made.values())
