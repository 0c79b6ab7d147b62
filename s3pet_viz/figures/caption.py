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
from s3pet_viz.figures.compare import compare_table
from s3pet_viz.figures.difference import difference_table
from s3pet_viz.figures.difference import told as difference_told
from s3pet_viz.runs import Run
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import RUN, RunLike, open_sources
from s3pet_viz.structure import Structure


def caption(
    runs: RunLike | Iterable[RunLike],
    *,
    minus: RunLike | Iterable[RunLike] | None = None,
    budget: Budget | None = None,
    step: int = -1,
) -> str:
    """The caption of a heatmap, or of a difference of two: task, backbone, mode, steps and seeds, how many of the gates
    are chosen, and the budget in parameters and as a share of the backbone.

    Of several seeds also the mean overlap (Jaccard) of each two structures, with its 95 % interval over the seeds (a
    jackknife that leaves one seed out, Student's t; from 3 seeds on), and what random structures of the budget give.
    The viewer's *copy* menu and its buttons *84 mm* and *178 mm* give the same of one run, and of two compared.

    Args:
        runs: a run, its path or a recorded run's name; or several that differ by nothing but their seed.
        minus: what is taken from `runs`: the caption of ``compare(minus, runs)`` where each is one run, else of
            ``difference(minus, runs)``, with what remains there.
        budget: as the figure's: solved again at another budget.
        step: as the figure's: a recorded step of one run, from 0; -1: the last.

    Returns:
        One paragraph of plain text.

    Raises:
        ConfigError: runs that differ by more than their seed, one seed twice, no steps yet, or a step of several runs;
            `minus` is not comparable, as in `difference_table`.
        RunError, BudgetError, StructureError: as `heatmap_table`.
    """
    opened = _opened(runs, "runs", step)
    if minus is not None:
        other = _opened(minus, "minus", step)
        return _of_two(other, opened, budget, step)
    return _of_one(opened[0], budget, step) if len(opened) == 1 else _of_seeds(opened, budget)


def _opened(runs: RunLike | Iterable[RunLike], what: str, step: int) -> list[Run]:
    """Runs of one question, by seed."""
    opened: list[Run] = open_sources(runs, allow=RUN, what=what)
    for run in opened:
        if not run.n_steps:
            raise ConfigError(f"caption: {run.name} has no steps recorded yet")
    if len(opened) == 1:
        return opened
    if step != -1:
        raise ConfigError(f"caption: expected one run for a step, found {len(opened)}")
    seeds = [run.config.get("seed") for run in opened]
    if len(same_question(opened)) > 1:
        raise ConfigError("caption: expected runs that differ by nothing but their seed, found other differences")
    if not all(type(seed) is int for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"caption: expected each seed once, found {', '.join(map(str, seeds))}")
    return sorted(opened, key=lambda run: int(run.config["seed"]))


def _of_one(run: Run, budget: Budget | None, step: int) -> str:
    structure = run.structure(budget, step)
    return (
        f"Gate probabilities p of {_search(run, _how(run, step))}. Outlined: the "
        f"{_gates(run, structure, ' that are chosen')}; {structure.n_params:,} parameters"
        f"{_within(structure)}. One seed: no interval can be given."
    )


def _of_two(a: Sequence[Run], b: Sequence[Run], budget: Budget | None, step: int) -> str:
    """Of B minus A."""
    if max(len(a), len(b)) == 1:
        sides = []
        for name, run in (("A", a[0]), ("B", b[0])):
            structure = run.structure(budget, step)
            sides.append(
                f"{name}: {_search(run, _how(run, step))}, {_gates(run, structure, ' chosen')}, "
                f"{structure.n_params:,} parameters{_within(structure)}"
            )
        chosen = compare_table(a[0], b[0], budget=budget, step=step)["chosen"]
        shared, either = int((chosen == "both").sum()), int((chosen != "").sum())
        return (
            f"Gate probabilities p of B minus A. {'. '.join(sides)}. "
            f"Both chose {shared:,} of the {either:,} gates "
            f"that one or both chose (Jaccard {shared / either if either else 1:.2f}). "
            "One seed a side: seeds alone may make the difference."
        )
    told = difference_told(difference_table(a, b, budget=budget)).replace(" · ", ": ")
    searches = ". ".join(f"{name}: {_search(runs[0], _how_many(runs))}" for name, runs in (("A", a), ("B", b)))
    return (
        f"Gate probabilities p of B minus A, means over seeds. {searches}. Tested, {told} (Benjamini and Hochberg, q "
        "at most 0.05). Hatched: the interval holds 0."
    )


def _of_seeds(runs: Sequence[Run], budget: Budget | None) -> str:
    found = [Found.of(run, budget=budget) for run in runs]
    made = [run.structure(budget) for run in runs]
    chosen = [_chosen(run, structure) for run, structure in zip(runs, made, strict=True)]
    used = [structure.n_params for structure in made]
    row = relations(found).iloc[0]
    overlap, low, high = overlap_interval([one.structure for one in found])
    told = f"{overlap:.2f}"
    if math.isnan(low):
        told += " (no interval: it takes three seeds whose overlaps differ)"
    else:
        told += f" (95 % interval {low:.2f} to {high:.2f} over seeds)"
    pinned = f" and {len(runs[0].pinned_in):,} pinned in by hand" if runs[0].pinned_in else ""
    return (
        f"Gate probabilities p, mean over seeds, of {_search(runs[0], _how_many(runs))}. "
        f"Each seed chose {_span(chosen)} "
        f"of {len(runs[0].gates_list):,} gates{pinned}; {_span(used)} parameters{_within(made[0])}. Mean overlap "
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
    return f"a structure search{task}{backbone} ({', '.join([*mode, *how])})"


def _how(run: Run, step: int) -> list[str]:
    number = (int(run.steps(last=1)["step"].iloc[0]) if step == -1 else step) + 1
    total, seed = run.info["steps_total"], run.config.get("seed")
    seeds = f"n = 1 seed: {seed}" if seed is not None else "n = 1 search"
    return [f"step {number:,}" + (f" of {total:,}" if total else ""), seeds]


def _how_many(runs: Sequence[Run]) -> list[str]:
    seeds = ", ".join(str(run.config.get("seed")) for run in runs)
    several = "s" if len(runs) > 1 else ""
    return [f"{_span([run.n_steps for run in runs])} steps", f"n = {len(runs)} seed{several}: {seeds}"]


def _gates(run: Run, structure: Structure, are: str) -> str:
    pinned = f" and {len(run.pinned_in):,} pinned in by hand" if run.pinned_in else ""
    return f"{_chosen(run, structure):,} of {len(run.gates_list):,} gates{are}{pinned}"


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
