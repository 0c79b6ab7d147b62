"""The caption of a figure in a paper: what was searched, at which budget, and how far seeds agree."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from s3pet_viz.analysis.agreement import Found, relations
from s3pet_viz.analysis.measures import jaccard
from s3pet_viz.analysis.trust import same_question
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures._data import facts
from s3pet_viz.runs import Run
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import RUN, RunLike, open_sources
from s3pet_viz.structure import Structure


def caption(runs: RunLike | Iterable[RunLike], *, budget: Budget | None = None, step: int = -1) -> str:
    """The caption of a heatmap: task, backbone, mode, steps and seeds, how many of the gates are chosen, and the
    budget in parameters and as a share of the backbone.

    Of several seeds also the mean overlap (Jaccard) of each two structures, with its 95 % interval over the seeds (a
    jackknife that leaves one seed out, Student's t; from 3 seeds on), and what random structures of the budget give.
    The viewer's *copy* menu and its buttons *84 mm* and *178 mm* give the same of one run.

    Args:
        runs: a run, its path or a recorded run's name; or several that differ by nothing but their seed.
        budget: as the figure's: solved again at another budget.
        step: as the figure's: a recorded step of one run, from 0; -1: the last.

    Returns:
        One paragraph of plain text.

    Raises:
        ConfigError: runs that differ by more than their seed, one seed twice, no steps yet, or a step of several runs.
        RunError, BudgetError, StructureError: as `heatmap_table`.
    """
    opened: list[Run] = open_sources(runs, allow=RUN, what="runs")
    for run in opened:
        if not run.n_steps:
            raise ConfigError(f"caption: {run.name} has no steps recorded yet")
    if len(opened) == 1:
        return _of_one(opened[0], budget, step)
    if step != -1:
        raise ConfigError(f"caption: expected one run for a step, found {len(opened)}")
    seeds = [run.config.get("seed") for run in opened]
    if len(same_question(opened)) > 1:
        raise ConfigError("caption: expected runs that differ by nothing but their seed, found other differences")
    if not all(type(seed) is int for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"caption: expected each seed once, found {', '.join(map(str, seeds))}")
    return _of_seeds(sorted(opened, key=lambda run: int(run.config["seed"])), budget)


def _of_one(run: Run, budget: Budget | None, step: int) -> str:
    structure = run.structure(budget, step)
    number = (int(run.steps(last=1)["step"].iloc[0]) if step == -1 else step) + 1
    total, seed = run.info["steps_total"], run.config.get("seed")
    how = [f"step {number:,}" + (f" of {total:,}" if total else "")]
    how.append(f"n = 1 seed: {seed}" if seed is not None else "n = 1 search")
    pinned = f" and {len(run.pinned_in):,} pinned in by hand" if run.pinned_in else ""
    return (
        f"Gate probabilities p {_search(run, how)}. Outlined: the {_chosen(run, structure):,} of "
        f"{len(run.gates_list):,} gates that are chosen{pinned}; {structure.n_params:,} parameters"
        f"{_within(structure)}. One seed: no interval can be given."
    )


def _of_seeds(runs: Sequence[Run], budget: Budget | None) -> str:
    found = [Found.of(run, budget=budget) for run in runs]
    made = [run.structure(budget) for run in runs]
    chosen = [_chosen(run, structure) for run, structure in zip(runs, made, strict=True)]
    used, steps = [structure.n_params for structure in made], [run.n_steps for run in runs]
    seeds = ", ".join(str(run.config["seed"]) for run in runs)
    how = [f"{_span(steps)} steps", f"n = {len(runs)} seeds: {seeds}"]
    row = relations(found).iloc[0]
    overlap, low, high = overlap_interval([one.structure for one in found])
    told = f"{overlap:.2f}"
    if math.isnan(low):
        told += " (no interval: it takes three seeds whose overlaps differ)"
    else:
        told += f" (95 % interval {low:.2f} to {high:.2f} over seeds)"
    pinned = f" and {len(runs[0].pinned_in):,} pinned in by hand" if runs[0].pinned_in else ""
    return (
        f"Gate probabilities p, mean over seeds, {_search(runs[0], how)}. Each seed chose {_span(chosen)} of "
        f"{len(runs[0].gates_list):,} gates{pinned}; {_span(used)} parameters{_within(made[0])}. Mean overlap "
        f"(Jaccard) of two seeds: {told}; of random structures of this budget {row['chance']:.2f} "
        f"(95 % of them {row['low']:.2f} to {row['high']:.2f})."
    )


def overlap_interval(structures: Sequence[Structure]) -> tuple[float, float, float]:
    """Mean Jaccard of each two structures, and its 95 % interval over what one seed more or less makes of it.

    Pairs that share a seed hang together, so it is the jackknife of a U-statistic that leaves out one seed at a time
    (Arvesen, Annals of Mathematical Statistics 1969), with Student's t of n - 1 degrees of freedom. Bounds are within
    0 and 1; NaN below three seeds, and where nothing varies.

    Args:
        structures: two or more, one a seed.
    """
    n = len(structures)
    pairs = {(i, j): jaccard(structures[i], structures[j]) for i, j in itertools.combinations(range(n), 2)}
    mean = float(np.mean(list(pairs.values())))
    if n < 3:
        return mean, math.nan, math.nan
    without = np.array([np.mean([v for pair, v in pairs.items() if k not in pair]) for k in range(n)])
    error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    if error < 1e-12:
        return mean, math.nan, math.nan
    half = float(stdtrit(n - 1, 0.975)) * error
    return mean, max(0.0, mean - half), min(1.0, mean + half)


# -- words -------------------------------------------------------------------------------------------------


def _search(run: Run, how: Sequence[str]) -> str:
    known = facts(run)
    task = f" for {known['task']}" if "task" in known else ""
    backbone = f" on {known['backbone']}" if "backbone" in known else ""
    mode = [f"mode {known['mode']}"] if known.get("mode") else []
    return f"of a structure search{task}{backbone} ({', '.join([*mode, *how])})"


def _chosen(run: Run, structure: Structure) -> int:
    """Without those that were pinned in."""
    return len(structure.keys & {gate.key for gate in run.gates_list})


def _within(structure: Structure) -> str:
    budget, total = structure.budget, structure.backbone_params
    if not budget:
        return "; no budget was named"
    share = f" ({_plain(100 * budget / total)} % of the backbone's {total:,})" if total else ""
    return f" of a budget of {budget:,}{share}"


def _plain(value: float) -> str:
    """Three digits, as the viewer writes them: without an exponent down to 1e-6."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.9f}".rstrip("0").rstrip(".") if 1e-6 <= rounded < 1e6 else f"{rounded:g}"


def _span(values: Sequence[Any]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
