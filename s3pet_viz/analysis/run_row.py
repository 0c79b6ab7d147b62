"""One run among many: its head, its last step and what people wrote on it, read without the rest of its log."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s3pet_viz.analysis.grid import Grid
from s3pet_viz.analysis.thumbnail import thumbnail
from s3pet_viz.errors import RunError
from s3pet_viz.files import read_bytes
from s3pet_viz.runs import layout
from s3pet_viz.runs.apart import Apart
from s3pet_viz.runs.heads import StepHeads
from s3pet_viz.runs.marks import Marks, read_marks
from s3pet_viz.structure import Gate, Structure, select
from s3pet_viz.structure.pins import left_for

Spaces = dict[bytes, tuple[tuple[Gate, ...], Grid]]


@dataclass(frozen=True)
class Row:
    """One run of a table: its head, its last step, and what people wrote on it. p and chosen: shape (n_gates,).

    gates are those that were searched; pinned, those that its user pinned in.
    """

    run: str
    path: Path
    info: Mapping[str, Any]
    marks: Marks
    status: str
    steps: int
    gates: tuple[Gate, ...]
    grid: Grid
    pinned: tuple[Gate, ...]
    p: NDArray[np.float64]
    chosen: NDArray[np.bool_]
    score: float
    metric: str

    @property
    def name(self) -> str:
        return self.marks.name or str(self.info["name"])

    def values(self) -> dict[str, Any]:
        """The columns that are the run's own."""
        config, marks = self.info["config"], self.marks
        budget = config.get("budget")
        taken = [gate for gate, one in zip(self.gates, self.chosen, strict=True) if one]
        taken += self.pinned if taken else ()
        return {
            "run": self.run,
            "name": self.name,
            "task": _text(config.get("task")),
            "backbone": _text(self.info["backbone"]),
            "budget": _text(self.info["budget"] if budget is None else budget),
            "mode": _text(config.get("mode")),
            "seed": config.get("seed") if isinstance(config.get("seed"), int) else None,
            "status": self.status,
            "steps": self.steps,
            "score": self.score,
            "metric": self.metric,
            "gates": len(taken),
            "parameters": sum(gate.n_params for gate in taken),
            "tags": ", ".join(marks.tags),
            "note": marks.note,
            "archived": marks.archived,
            "path": str(self.path),
        }

    def thumbnail(self) -> bytes:
        """The heatmap as a small PNG."""
        return thumbnail(self.grid, self.p, self.chosen)


def stamp_of(path: Path) -> tuple[Any, ...]:
    """What changes when a run does; its process may end without a trace in its files."""
    layout.check_entries(path)
    files = [layout.RUN_JSON, layout.STRUCTURE, layout.SCORES, layout.MARKS]
    parts = layout.part_paths(path)
    found: list[Any] = [Apart(path).status, len(parts)]
    for one in (*(path / name for name in files), *parts[-1:]):
        with suppress(OSError):
            stat = one.lstat()
            found.append((one.name, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def read_row(path: Path, label: str, space: Spaces) -> Row:
    """A run's row; `space` holds the gates that were read before, by the bytes of their file."""
    about = Apart(path)
    info, pinned = about.info, about.pinned_in
    layout.check_entries(path)
    mark = hashlib.sha256(read_bytes(path / layout.GATES, RunError, links=False)).digest()
    if mark not in space:
        read = layout.gates_from_parquet(path / layout.GATES, info["n_gates"])
        space[mark] = read, Grid(read)
    gates, grid = space[mark]
    if len(gates) != info["n_gates"]:
        raise RunError(f"{path}: field 'n_gates': expected {len(gates)} as in {layout.GATES}, found {info['n_gates']}")
    heads = StepHeads(path, len(gates))
    heads.refresh()
    p, chosen = np.full(len(gates), np.nan), np.zeros(len(gates), dtype=bool)
    if len(heads):
        last = heads.row(-1)
        p = last["p"][0].astype(np.float64)
        if os.path.lexists(path / layout.STRUCTURE):
            keys = Structure.load(path / layout.STRUCTURE).keys
            chosen = np.array([gate.key in keys for gate in gates])
        elif info["budget"]:
            chosen[
                select(last["alpha"][0], np.array([g.n_params for g in gates]), left_for(info["budget"], pinned))
            ] = True
    score, metric = float("nan"), ""
    if os.path.lexists(path / layout.SCORES):
        found = layout.read_json(path / layout.SCORES).get("metrics")
        metrics: dict[str, Any] = found if isinstance(found, dict) else {}
        value = metrics.get("score")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            score = float(value)
            metric = next((str(name) for name, one in metrics.items() if name != "score" and one == value), "")
    return Row(
        label, path, info, read_marks(path), about.status, len(heads), gates, grid, pinned, p, chosen, score, metric
    )


def _text(value: Any) -> str:
    text = "" if value is None else str(value)
    return text.rstrip("/").rpartition("/")[2] or text
