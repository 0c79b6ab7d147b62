"""Ways to place that a study lacks: scored on the spot, or the call that would make them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import pandas as pd

from s3pet_viz.analysis.one_pass import OnePassScores
from s3pet_viz.analysis.remedies import more_methods, recorded_study
from s3pet_viz.analysis.study import Study
from s3pet_viz.errors import S3PETError, SpaceError

#: One pass of `s3.score` gives these. What else is expected beside them takes a training.
SCORED = ("gora", "plop")
TRAINED = ("AdaLoRA",)


def scored(
    study: Study, task: str, budget: str, seeds: Iterable[int], names: Sequence[str]
) -> tuple[dict[str, list[OnePassScores]], dict[str, str]]:
    """Score a study's task, on its backbone and under its budget and pins, once for each seed; in its search space
    where that is of LoRA alone, else in the default space of the score.

    Returns:
        Scores by name; and by name why there are none.
    """
    cell = next((c for c in study.cells if c["kind"] == "tune" and c["labels"]["task"] == task), None)
    bench: Mapping[str, Any] = (cell or {}).get("what", {}).get("bench", {})
    if not bench.get("task") or not bench.get("backbone") or "own" in bench:
        return {}, dict.fromkeys(names, "cannot be computed: the study does not name its task and backbone")
    search: Mapping[str, Any] = next(
        (c["what"] for c in study.cells if c["kind"] == "search" and c["labels"]["task"] == task), {}
    )
    made: dict[str, list[OnePassScores]] = {}
    left_out = {}
    try:
        # By name: they need torch. The study may have been made on another device.
        opened = import_module("s3pet_viz.tuning.workbench").Workbench.open(**{**bench, "device": "auto"})
    except S3PETError as error:
        return {}, dict.fromkeys(names, f"cannot be computed: {error}")
    for name in names:
        try:
            made[name] = [_score(opened, name, budget, seed, search) for seed in seeds]
        except S3PETError as error:
            left_out[name] = f"cannot be computed: {error}"
    return made, left_out


def _score(bench: Any, name: str, budget: str, seed: int, search: Mapping[str, Any]) -> OnePassScores:
    score = import_module("s3pet_viz.tuning.scoring").score
    asked = {"workbench": bench, "method": name, "budget": budget, "seed": seed, "pin": search.get("pin")}
    try:
        found: OnePassScores = score(space=search.get("space"), **asked)
    except SpaceError:  # not of LoRA alone
        found = score(**asked)
    return found


def commands(study: Study, rows: pd.DataFrame, task: str, budget: str, names: Iterable[str]) -> dict[str, str]:
    """What makes each of these ways, for a shell or (where it begins with ``s3.``) in Python."""
    where = study.path.name if recorded_study(study) else str(study.path)
    compute = shlex.join(["s3pet", "ways", where, "--task", task, "--budget", budget, "--compute"])
    return {name: compute if name in SCORED else more_methods(study, rows, [name]).command for name in names}
