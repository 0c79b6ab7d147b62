"""The runs of a folder, or named one by one: found, and labelled by what their heads say, opened when asked for."""

from __future__ import annotations

import os
from collections import UserDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from s3pet_viz.errors import ConfigError, RunError, S3PETError
from s3pet_viz.files import is_there, located
from s3pet_viz.runs import layout
from s3pet_viz.runs.heads import StepHeads
from s3pet_viz.runs.reader import Run, open_run

Runs = str | os.PathLike[str] | Run | Iterable[Run | str | os.PathLike[str]]

#: What runs can be picked by.
FIELDS = ("task", "budget", "seed")
#: Folders below the given one that are looked into.
_DEPTH = 3


class Listing:
    """Runs that have steps, from a folder of runs or named one by one. Of each, run.json and the ends of the step log
    are read; 3,000 runs take seconds, whatever their size.

    Attributes:
        facts: `FIELDS` of each run, by label.
        runs: by label, each opened when it is looked up; labels are text and all different.
        problems: why others were left out, as text.

    Raises:
        ConfigError: no run at all.
        RunError: a run that was named (not found in a folder) cannot be opened; or, when it is looked up, one whose
            gates are damaged.
    """

    def __init__(self, runs: Runs) -> None:
        self.problems: list[str] = []
        found: list[tuple[Path, Mapping[str, Any], Run | None]] = []
        if isinstance(runs, (str, os.PathLike)) and not is_there(located(runs) / layout.RUN_JSON):
            folder = located(runs)
            if not folder.is_dir():
                raise ConfigError(f"{folder}: expected a folder of runs, found none")
            for path in sorted(find_runs(folder, self.problems)):
                try:
                    found.append((path, layout.read_run_json(path), None))
                except S3PETError as error:
                    self.problems.append(str(error))
        else:
            opened = [open_run(run) for run in ([runs] if isinstance(runs, (str, os.PathLike, Run)) else runs)]
            found = [(run.path, run.info, run) for run in opened]
        self.facts: dict[str, dict[str, str]] = {}
        self.runs = _Opened()
        for path, info, run in found:
            try:
                why = "no steps yet" if not _has_steps(path, info["n_gates"]) else "" if info["budget"] else "no budget"
                if why:
                    self.problems.append(f"{path}: {why}")
                    continue
            except S3PETError as error:
                self.problems.append(str(error))
                continue
            facts = {name: _fact(info, info["config"], name) for name in FIELDS}
            label = stem = " · ".join([*(f"{name} {value}" for name, value in facts.items()), str(info["name"])])
            number = 1
            while label in self.facts:
                number += 1
                label = f"{stem} ({number})"
            self.facts[label] = facts
            self.runs[label] = path if run is None else run
        if not self.facts:
            why = f" ({'; '.join(self.problems[:3])})" if self.problems else ""
            raise ConfigError(f"runs: expected at least one run with steps, found none{why}")


def find_runs(folder: Path, problems: list[str], depth: int = _DEPTH) -> Iterator[Path]:
    """Run directories so many folders below; a run holds none. Folders that cannot be read are added to `problems`."""
    try:
        with os.scandir(folder) as entries:
            below = [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.endswith(".deleted")]
    except OSError as error:
        problems.append(f"{folder}: cannot be read ({error.strerror})")
        return
    for path in below:
        if os.path.lexists(path / layout.RUN_JSON):
            yield path
        elif depth > 1:
            yield from find_runs(path, problems, depth - 1)


class _Opened(UserDict[str, Any]):
    """Runs by label, opened when they are looked up, and then kept."""

    def __getitem__(self, label: str) -> Run:
        held = self.data[label]
        if not isinstance(held, Run):
            held = self.data[label] = open_run(held)
        return held


def fact(run: Run, name: str) -> str:
    """A run's task, budget or seed as text: the budget as its user wrote it, else in parameters."""
    return _fact(run.info, run.info["config"], name)


def _fact(info: Mapping[str, Any], config: Mapping[str, Any], name: str) -> str:
    value = config.get(name)
    if value is None and name == "budget":
        value = info["budget"]
    return "–" if value is None else str(value)


def _has_steps(run: Path, n_gates: int) -> bool:
    if not os.path.lexists(run / layout.GATES):
        raise RunError(f"{run / layout.GATES}: missing; a run directory holds one")
    heads = StepHeads(run, n_gates)
    heads.refresh()
    return len(heads) > 0
