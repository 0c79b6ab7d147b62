"""The runs that can be compared: found, named and filtered, apart from any widget."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from s3pet_viz.errors import ConfigError, S3PETError
from s3pet_viz.files import is_there
from s3pet_viz.runs import Run, layout, open_run

Runs = str | os.PathLike[str] | Run | Iterable[Run | str | os.PathLike[str]]

#: A filter's choice of everything.
ALL = "all"
#: What runs can be picked by.
FIELDS = ("task", "budget", "seed")
#: Folders below the given one that are looked into.
_DEPTH = 3


class Shelf:
    """Runs that have steps, from a folder of runs or named one by one.

    Attributes:
        runs: by label; labels are text and all different.
        problems: why others were left out, as text.

    Raises:
        ConfigError: no run at all.
        RunError: a run that was named (not found in a folder) cannot be opened.
    """

    def __init__(self, runs: Runs) -> None:
        self.problems: list[str] = []
        if isinstance(runs, (str, os.PathLike)) and not is_there(Path(runs) / layout.RUN_JSON):
            found = self._in_folder(Path(runs))
        else:
            found = [open_run(run) for run in ([runs] if isinstance(runs, (str, os.PathLike, Run)) else runs)]
        usable = []
        for run in found:
            try:
                if run.n_steps and run.info["budget"]:
                    usable.append(run)
                else:
                    self.problems.append(f"{run.path}: no steps yet")
            except S3PETError as error:
                self.problems.append(str(error))
        if not usable:
            why = f" ({'; '.join(self.problems[:3])})" if self.problems else ""
            raise ConfigError(f"runs: expected at least one run with steps, found none{why}")
        self.runs: dict[str, Run] = {}
        for run in usable:
            label = stem = " · ".join([*(f"{name} {fact(run, name)}" for name in FIELDS), run.name])
            number = 1
            while label in self.runs:
                number += 1
                label = f"{stem} ({number})"
            self.runs[label] = run

    def choices(self, name: str) -> list[str]:
        """`ALL`, and the values that the runs have of a field, in order."""
        values = {fact(run, name) for run in self.runs.values()}
        return [ALL, *sorted(values, key=lambda value: (_number(value), value))]

    def pick(self, **wanted: str) -> list[str]:
        """Labels of the runs with these values; `ALL` takes every one."""
        return [
            label
            for label, run in self.runs.items()
            if all(value in (ALL, fact(run, name)) for name, value in wanted.items())
        ]

    def _in_folder(self, folder: Path) -> list[Run]:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: expected a folder of runs, found none")
        paths: list[Path] = []
        for depth in range(1, _DEPTH + 1):
            paths += folder.glob("/".join(["*"] * depth + [layout.RUN_JSON]))
        found = []
        for path in sorted(paths):
            try:
                found.append(open_run(path.parent))
            except S3PETError as error:
                self.problems.append(str(error))
        return found


def fact(run: Run, name: str) -> str:
    """A run's task, budget or seed as text: the budget as its user wrote it, else in parameters."""
    value = run.config.get(name)
    if value is None and name == "budget":
        value = run.info["budget"]
    return "–" if value is None else str(value)


def _number(text: str) -> float:
    """Numbers and percentages in the order of their size, all else before them."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return float("-inf")
