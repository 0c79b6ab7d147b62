"""Do seeds agree? The overlap of each pair against what random structures give."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from typing import Literal, Unpack, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.analysis.measures import Chance, chance_overlap, need_sizes, random_structures
from s3pet_viz.config.checks import among
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import joint_gates, labels, need_space, spread, view
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.runs import Run
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import Source, open_sources, structure_of
from s3pet_viz.structure.units import by_rank, rank_keys

By = Literal["gates", "params"]
_DRAWS = 400
_NAMED = 40  # pairs up to which each has a label


def agreement_table(
    runs: Iterable[Source], *, by: By = "gates", budget: Budget | None = None, draws: int = _DRAWS, seed: int = 0
) -> pd.DataFrame:
    """The numbers behind `agreement`, one row per pair, the highest overlap first.

    Columns: a, b (labels), overlap (Jaccard), chance (mean overlap of random structures of the same two budgets over
    the same search spaces), low, high (the band that holds 95 % of the draws), above (whether overlap > high).
    Random structures take gates in a random order by the selection's own rule, with this seed.

    Args:
        runs: two or more runs or tables of final alphas, or their paths.
        by: ``gates`` or ``params`` (each gate counted by its parameters).
        budget: every run solved again at one budget.
        draws: pairs of random structures.

    Raises:
        ConfigError: fewer than two runs, one without steps, spaces that share no gate, a wrong `by` or `draws`.
        StructureError: a structure, whose search space is not known; sizes that are not known.
        RunError, BudgetError: as `heatmap_table`.
    """
    among("by", by, get_args(By))
    if draws < 1:
        raise ConfigError(f"draws: expected 1 or more, found {draws}")
    sources = open_sources(runs)
    if len(sources) < 2:
        raise ConfigError(f"agreement: expected at least two runs, found {len(sources)}")
    views = [view(source, budget=budget) for source in sources]
    for one in views:
        need_space(one, "agreement")
    gates, places = joint_gates(views)
    need_sizes(gates, "agreement")
    size = np.array([g.n_params for g in gates], dtype=np.float64) if by == "params" else np.ones(len(gates))
    chosen = spread(views, places, len(gates), "selected", False)
    budgets = []
    for source, one in zip(sources, views, strict=True):
        if isinstance(source, Run) and not source.n_steps:
            raise ConfigError(f"agreement: {one.name} has no steps recorded yet")
        structure = structure_of(source, budget)
        searched = source.searched_budget(budget) if isinstance(source, Run) else structure.budget
        budgets.append(searched or structure.n_params)

    keys = [(at.tobytes(), params) for at, params in zip(places, budgets, strict=True)]
    alike = [keys.index(key) for key in keys]  # of each run the first with its search space and budget

    @functools.cache
    def random(i: int, side: int) -> np.ndarray:
        full = np.zeros((draws, len(gates)), dtype=bool)
        drawn = random_structures(views[i].counts, budgets[i], draws=draws, seed=2 * seed + side)
        at = dict(zip(views[i].keys, places[i], strict=True))
        full[:, [at[key] for key in rank_keys(views[i].gates)]] = by_rank(drawn, views[i].gates)
        return full

    @functools.cache
    def by_chance(i: int, j: int) -> Chance:
        return chance_overlap(random(i, 0), random(j, 1), size)

    names = labels(sources, most=24)
    rows = []
    for i, j in itertools.combinations(range(len(views)), 2):
        chance = by_chance(alike[i], alike[j])
        union = (chosen[i] | chosen[j]) @ size
        overlap = float((chosen[i] & chosen[j]) @ size / union) if union else 1.0
        rows.append((names[i], names[j], overlap, *chance, overlap > chance.high))
    table = pd.DataFrame(rows, columns=["a", "b", "overlap", "chance", "low", "high", "above"])
    return table.sort_values("overlap", ascending=False, kind="stable", ignore_index=True)


@themed
def agreement(
    runs: Iterable[Source],
    *,
    by: By = "gates",
    budget: Budget | None = None,
    draws: int = _DRAWS,
    seed: int = 0,
    **look: Unpack[Look],
) -> go.Figure:
    """Draw the overlap of every pair of runs beside the band that chance gives.

    Args:
        runs, by, budget, draws, seed: as `agreement_table`.
        title: instead of the mean overlap and its chance. theme: ``light`` or ``dark``.

    Returns:
        A figure with the chance band ("chance, 95 %"), its mean, and one marker per pair ("overlap"): filled above
        the band, hollow inside it.
    """
    table = agreement_table(runs, by=by, budget=budget, draws=draws, seed=seed)
    n = len(table)
    words = (
        f"Agreement of {n} {'pair' if n == 1 else 'pairs'} · mean overlap {table['overlap'].mean():.2f}, "
        f"by chance {table['chance'].mean():.2f} · {int(table['above'].sum())} above chance"
    )
    figure = _style.new_figure(look, words)
    named = n <= _NAMED
    y, gap = np.arange(n), np.full(n, np.nan)
    x = np.stack([table["low"], table["high"], gap], axis=1).ravel()
    y_pairs = np.stack([y, y, gap], axis=1).ravel()
    figure.add_trace(_style.line(x, y_pairs, "chance, 95 %", _style.PALE, 10 if named else 4))
    style = {"symbol": "line-ns", "size": 10 if named else 4, "line": {"color": _style.INK, "width": 1.5}}
    figure.add_trace(_style.markers(table["chance"].to_numpy(), y, "chance, mean", style))
    pairs = [_style.plain(f"{a} – {b}") for a, b in zip(table["a"], table["b"], strict=True)]
    limits = zip(table["chance"], table["low"], table["high"], strict=True)
    band = [f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in limits]
    colour, symbol = _style.CATEGORICAL[0], np.where(table["above"], "circle", "circle-open")
    mark = {"color": colour, "size": 11 if named else 6, "symbol": symbol, "line": {"width": 2, "color": colour}}
    hover = "<b>%{customdata[0]}</b><br>overlap %{x:.3f}<br>by chance %{customdata[1]}"
    told = np.array([pairs, band]).T
    figure.add_trace(_style.markers(table["overlap"].to_numpy(), y, "overlap", mark, hover=hover, customdata=told))
    figure.update_xaxes(title=f"overlap (Jaccard by {'gates' if by == 'gates' else 'parameters'})", range=[-0.02, 1.02])
    ticks = _style.named(pairs if named else [], y if named else [])
    figure.update_yaxes(range=[n - 0.4, -0.6], showgrid=False, title=None if named else f"{n:,} pairs", **ticks)
    _style.place_top(figure, height=190 + (26 * n if named else min(900, 6 * n)))
    return figure
