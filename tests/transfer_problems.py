"""Transfer studies whose numbers are known, written as a study writes them; the structures are the recorded ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from s3pet_viz.analysis import Transfer
from s3pet_viz.analysis.study import KIND, SCHEMA_VERSION
from s3pet_viz.files import json_ready
from s3pet_viz.runs import open_run
from s3pet_viz.structure import Structure

TASKS = ("sentiment", "entailment", "similarity")
_RUNS = Path(__file__).parent.parent / "data" / "runs"
#: Any name takes one of the tasks with a recorded search.
_RECORDED = ("sentiment", "entailment", "similarity")

Score = Callable[[str, str, int, int], float | None]


@cache
def recorded(task: str, seed: int) -> Structure:
    """The structure of a recorded search."""
    return open_run(_RUNS / f"{task}-0.2pct-s{seed}").structure()


def structure_of(name: str, names: Sequence[str], seed: int) -> Structure:
    return recorded(name if name in _RECORDED else _RECORDED[names.index(name) % 3], seed)


def write_study(
    folder: Path,
    score: Score,
    *,
    targets: Sequence[str] = TASKS,
    sources: Sequence[str] | None = None,
    references: Iterable[str] = ("random", "full", "head"),
    seeds: Sequence[int] = (0, 1, 2),
    draws: int = 1,
    searches: bool = False,
) -> Path:
    """A study folder of trainings.

    Args:
        score: of (source or reference, target, seed, draw); None: not trained yet. The loss is 1 - score / 2.
        searches: with the run directory of a search, so that the search space is known.
    """
    names = list(sources if sources is not None else targets)
    cells: list[dict[str, Any]] = []

    def add(key: str, kind: str, labels: dict[str, Any], row: dict[str, Any] | None, structure: Structure | None) -> None:
        cells.append({"key": key, "kind": kind, "labels": labels, "what": {}, "needs": []})
        if row is None:
            return
        result: dict[str, Any] = {"status": "done", "row": row}
        if structure is not None:
            result["structure"] = structure.to_dict()
        path = folder / "cells" / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(json_ready(result)))

    def train(method: str, name: str, target: str, seed: int, draw: int = 0) -> None:
        found = score(name, target, seed, draw)
        of_source = method in ("searched", "consensus", "given")
        budgeted = of_source or method == "random"
        labels = {
            "task": target, "budget": "0.2%" if budgeted else "", "budget_params": 4004 if budgeted else 0,
            "method": method, "mode": "fast" if method == "searched" else "", "source": name if of_source else "",
            "draw": draw, "seed": seed,
        }  # fmt: skip
        row = None if found is None else {"score": found, "metric": "accuracy", "loss": 1 - found / 2, "pet_params": 4004}
        add(f"cell-{len(cells)}", "tune", labels, row, structure_of(name, names, seed) if of_source else None)

    for target in targets:
        for seed in seeds:
            for name in names:
                method = "consensus" if name == "consensus" else "searched" if name in targets else "given"
                train(method, name, target, seed)
            for name in references:
                for draw in range(draws if name == "random" else 1):
                    train(name, name, target, seed, draw)
    if searches:
        add("search-0", "search", {"task": "sentiment", "seed": 0}, {"seconds": 1.0}, None)
        shutil.copytree(_RUNS / "sentiment-0.2pct-s0", folder / "runs" / "search-0")
    folder.mkdir(parents=True, exist_ok=True)
    info = {"schema_version": SCHEMA_VERSION, "kind": KIND, "calls": [{"study": "transfer"}], "cells": cells}
    (folder / "study.json").write_text(json.dumps(info))
    return folder


def write_transfer(folder: Path, score: Score, **more: Any) -> Transfer:
    return Transfer(write_study(folder, score, **more))


def even(source: str, target: str, seed: int, draw: int) -> float:
    """The own structure 0.80, another task's 0.70, random 0.60 (and 0.02 more for the next draw), full 0.90, head 0.40;
    each 0.01 more with the next seed, of its own structure 0.02 more.
    """
    level = {"random": 0.60 + 0.02 * draw, "full": 0.90, "head": 0.40}.get(source, 0.80 if source == target else 0.70)
    return level + seed * (0.02 if source == target else 0.01)
