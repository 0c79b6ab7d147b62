"""Two sets of seeds on one grid: which gates differ by more than seeds alone would make them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.analysis.contrast import contrast
from s3pet_viz.analysis.remedies import asked
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import View, facts, joint_gates, need_space, shorten, spread, view
from s3pet_viz.figures._grid import Grid, Scale, axes, cased, cells, hatched, limits, outlines, ring
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.figures.heatmap import gates_frame, places_of, shown
from s3pet_viz.runs import Run
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import Opened, Sources, open_sources
from s3pet_viz.structure import Gate

#: What a comparison may be of: one of these may differ between the sides.
_ASKED = ("task", "budget", "mode")
#: Expected share of false ones among the gates that remain.
_RATE = 0.05
#: What the legend calls gates whose interval holds 0, and the others.
NOISE, REMAINS = "interval holds 0", "differs beyond seeds"


def difference_table(
    runs_a: Sources, runs_b: Sources, *, budget: Budget | None = None, rate: float = _RATE
) -> pd.DataFrame:
    """The numbers behind `difference`, one row per gate.

    Columns: row, column, position, pet_type, n_params, p_a, p_b (means over seeds), difference (p_b - p_a), log_odds
    (the difference in log-odds, each run's less its median gate), low, high (its interval), p_value, q (Benjamini and
    Hochberg over the gates), remains (q at most `rate`: exactly where the interval leaves 0 out), n_a, n_b (seeds).
    Where a side has one seed nothing can be told: low, high, p_value and q are NaN, and nothing remains. How it is
    computed: s3pet_viz/analysis/contrast.py.

    Args:
        runs_a, runs_b: runs of several seeds, or final alphas; or their paths. Those of a side differ by nothing but
            their seed; the sides have one backbone and search space, and differ in one of task, budget and mode.
        budget: all solved again at one budget.
        rate: expected share of false ones among the gates that remain.

    Raises:
        ConfigError: the sides, or runs of one side, are not comparable, or a seed or a run comes twice.
        StructureError: a structure, which has no alpha. RunError, BudgetError: as `heatmap_table`.
    """
    return _table(*_opened(runs_a, runs_b), budget, rate)[0]


@themed
def difference(
    runs_a: Sources,
    runs_b: Sources,
    *,
    budget: Budget | None = None,
    rate: float = _RATE,
    scale: Scale = "full",
    **look: Unpack[Look],
) -> go.Figure:
    """Draw mean p of `runs_b` less mean p of `runs_a` over their seeds, hatched where seeds alone may have made it.

    The interval of each gate is corrected for the number of gates: those that leave 0 out are those that remain after
    Benjamini and Hochberg; they are outlined, and the title says how many. With one seed on a side nothing can be told,
    every gate is hatched, and the title says so.

    Args:
        runs_a, runs_b, budget, rate: as `difference_table`.
        scale: of the colours, as of `compare`.
        title: instead of the labels and the number of gates. theme: ``light`` or ``dark``.

    Returns:
        A figure with a heatmap ("gates"), the hatching ("interval holds 0"), and an outline ("differs beyond seeds").
    """
    sides = _opened(runs_a, runs_b)
    table, gates = _table(*sides, budget, rate)
    names = [_style.plain(name) for name in _names(*sides)]
    figure = _style.new_figure(look, f"{names[1]} less {names[0]} · {told(table)}")
    table, leads = _by_cell(table, gates)
    grid = Grid(leads)
    values, remains = table["difference"].to_numpy(), table["remains"].to_numpy(dtype=bool)
    low, high = limits(scale, np.abs(values), 0, max(1, int(table["units"].max())))
    reach = max(abs(low), abs(high)) or 1
    bounds = [shown(table[name], "+.2f") for name in ("log_odds", "low", "high")]
    interval = [f"{x} ({a} to {b})" if a != "–" else f"{x}, no interval" for x, a, b in zip(*bounds, strict=True)]
    numbers = [shown(table[name], form) for name, form in (("p_a", ".3g"), ("p_b", ".3g"), ("difference", "+.3g"))]
    last = [shown(table["q"], ".2g"), np.where(remains, REMAINS, NOISE).tolist()]
    template = (
        "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>mean p = %{customdata[2]} → %{customdata[3]}"
        "   (%{customdata[4]})<br>log-odds %{customdata[5]}<br>q = %{customdata[6]}: %{customdata[7]}"
    )
    colours: dict[str, Any] = {"colorscale": _style.DIVERGING, "zmin": -reach, "zmax": reach}
    hover = [*places_of(table), *numbers, interval, *last]
    figure.add_trace(cells(grid, values, hover, template, "difference of p", **colours))
    figure.add_trace(hatched(grid.col[~remains], grid.row[~remains], NOISE, strokes=3, opacity=0.7))
    lines = outlines(grid, remains)
    figure.add_traces([cased(*lines), ring(*lines, REMAINS)])
    axes(figure, grid)
    return figure


def told(table: pd.DataFrame) -> str:
    """What a table of `difference_table` says, in one sentence."""
    n, seeds = len(table), (int(table["n_a"].iloc[0]), int(table["n_b"].iloc[0]))
    against = f"{seeds[1]} against {seeds[0]} seeds"
    if min(seeds) < 2:
        return f"{against}: nothing can be told, two or more are needed on each side"
    if table["q"].isna().all():
        return f"{against}: nothing can be told, all of them are alike"
    return f"{against} · {int(table['remains'].sum())} of {n:,} gates differ beyond seeds"


def _opened(runs_a: Sources, runs_b: Sources) -> tuple[list[Opened], list[Opened]]:
    """Both sides, checked for what can be compared."""
    sides = open_sources(runs_a, what="runs_a"), open_sources(runs_b, what="runs_b")
    known = [[facts(one) for one in side] for side in sides]
    for side, of, name in zip(sides, known, ("runs_a", "runs_b"), strict=True):
        for fact in (*_ASKED, "backbone"):
            found = sorted({one.get(fact, "") for one in of})
            if len(found) > 1:
                raise ConfigError(f"difference: expected one {fact} in {name}, found {', '.join(map(repr, found))}")
        options = [asked(one) for one in side if isinstance(one, Run)]
        if differ := [
            name for name in {n for one in options for n in one} if len({repr(o.get(name)) for o in options}) > 1
        ]:
            raise ConfigError(
                f"difference: expected runs in {name} that differ by their seed alone, found other {differ[0]}"
            )
        seeds = [one["seed"] for one in of if "seed" in one]
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            raise ConfigError(f"difference: expected each seed once in {name}, found {twice[0]} twice")
    places = [{os.fspath(one.path) if isinstance(one, Run) else str(id(one)) for one in side} for side in sides]
    if both := sorted(places[0] & places[1]):
        raise ConfigError(f"difference: expected each run on one side, found {both[0]} on both")
    if len({of[0].get("backbone", "") for of in known}) > 1:
        raise ConfigError(f"difference: expected one backbone, found {' and '.join(of[0]['backbone'] for of in known)}")
    return sides


def _names(a: Sequence[Opened], b: Sequence[Opened]) -> tuple[str, str]:
    """What tells the sides apart."""
    of = facts(a[0]), facts(b[0])
    telling = [name for name in _ASKED if of[0].get(name) != of[1].get(name)]
    if not telling:
        given = [asked(side[0]) if isinstance(side[0], Run) else {} for side in (a, b)]
        other = [name for name in {**given[0], **given[1]} if repr(given[0].get(name)) != repr(given[1].get(name))]
        words = [", ".join(f"{name} {one.get(name, 'default')}" for name in other) for one in given]
        return (shorten(words[0], 30), shorten(words[1], 30)) if other else (_seeds(a), _seeds(b))
    first, second = (shorten(" · ".join(one.get(name, "?") for name in telling), 30) for one in of)
    return first, second


def _seeds(side: Sequence[Opened]) -> str:
    named = [facts(one).get("seed", "?").removeprefix("seed ") for one in side]
    said = ", ".join(named)
    return f"seeds {said}" if len(said) <= 24 else f"seeds {', '.join(named[:3])}, … {named[-1]} ({len(named)})"


def _table(
    a: Sequence[Opened], b: Sequence[Opened], budget: Budget | None, rate: float
) -> tuple[pd.DataFrame, tuple[Gate, ...]]:
    of = facts(a[0]), facts(b[0])
    differ = [name for name in _ASKED if of[0].get(name) != of[1].get(name) and not (name == "budget" and budget)]
    if len(differ) > 1:
        one = " and ".join(f"{', '.join(o.get(name, '?') for name in differ)}" for o in of)
        hint = "; give budget= to solve all again at one" if "budget" in differ else ""
        raise ConfigError(f"difference: expected sides that differ in one of task, budget and mode, found {one}{hint}")
    views = [view(source, budget=budget) for source in (*a, *b)]
    for seen, source in zip(views, (*a, *b), strict=True):
        need_space(seen, "difference")
        if isinstance(source, Run) and not source.n_steps:
            raise ConfigError(f"difference: {seen.name} has no steps recorded yet")
    gates, places = joint_gates(views)
    _check_spaces(views, gates)
    p, alpha = (spread(views, places, len(gates), name, np.nan) for name in ("p", "alpha"))
    taus = {float(source.info["tau"]) if isinstance(source, Run) else 1.0 for source in (*a, *b)}
    if len(taus) > 1:
        raise ConfigError(f"difference: expected one tau, found {' and '.join(map(str, sorted(taus)))}")
    n = len(a)
    found = contrast(alpha[:n], alpha[n:], tau=taus.pop(), rate=rate)
    table = gates_frame(gates, ("row", "column", "position", "pet_type", "n_params"))
    means = [side.mean(axis=0) for side in (p[:n], p[n:])]
    table = table.assign(p_a=means[0], p_b=means[1], difference=means[1] - means[0], log_odds=found.difference)
    table = table.assign(low=found.low, high=found.high, p_value=found.p, q=found.q, remains=found.remains)
    return table.assign(n_a=n, n_b=len(b)), gates


def _check_spaces(views: Sequence[View], gates: Sequence[Gate]) -> None:
    """The same gates in all, of the same sizes."""
    sizes = {key: gate.n_params for key, gate in zip(views[0].keys, views[0].gates, strict=True)}
    for one in views[1:]:
        own = {key: gate.n_params for key, gate in zip(one.keys, one.gates, strict=True)}
        if own.keys() != sizes.keys():
            odd = sorted(own.keys() ^ sizes.keys())[0]
            raise ConfigError(
                f"difference: expected one search space, found {len(sizes):,} gates in {views[0].name} and "
                f"{len(own):,} in {one.name}; only one has {' '.join(odd)}"
            )
        if other := next((key for key in own if own[key] != sizes[key]), None):
            raise ConfigError(
                f"difference: gate {' '.join(other)} has {sizes[other]:,} parameters in {views[0].name} and "
                f"{own[other]:,} in {one.name}: these are runs on different backbones"
            )


def _by_cell(table: pd.DataFrame, gates: Sequence[Gate]) -> tuple[pd.DataFrame, list[Gate]]:
    """One row a cell. Of units, the sums of p; the numbers of the one that differs most; it remains if one does."""
    table = table.assign(units=[int(gate.unit is not None) for gate in gates])
    if not table["units"].any():
        return table, list(gates)
    place = pd.factorize(pd.Series([" ".join(gate.place) for gate in gates]))[0]
    grouped = table.assign(place=place).groupby("place", sort=True)
    lead = grouped["p_value"].apply(lambda values: values.fillna(1).idxmin()).to_numpy()
    made = table.iloc[lead].reset_index(drop=True)
    for name in ("p_a", "p_b", "difference", "units"):
        made[name] = grouped[name].sum().to_numpy()
    made["remains"] = grouped["remains"].any().to_numpy()
    return made, [gates[i] for i in lead]
