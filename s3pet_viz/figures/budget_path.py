"""Which gates enter as the budget grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from s3pet_viz.analysis.grid import rows_of
from s3pet_viz.analysis.measures import need_sizes
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import gate_names, need_space, shorten, view
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.runs import Run
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import Opened, Source, open_source
from s3pet_viz.structure import PET_TYPES, FinalAlphas, Structure, parse_budget, pet_type_order

_POINTS = 61


def budget_path_table(
    run: Source, *, budgets: Sequence[Budget] | None = None, step: int = -1, top: int | None = None
) -> pd.DataFrame:
    """The numbers behind `budget_path`, one row per budget and gate chosen at it.

    Columns: budget (parameters), used (parameters of the structure at that budget), gate (index), name, pet_type,
    n_params, enters (the lowest of these budgets at which the gate is chosen). Gates in the order they enter, then
    by alpha. A gate may leave again: a larger budget can fit a larger module that then takes its place.

    Args:
        run: a run, its path, or a table of final alphas.
        budgets: in any form; None: 61 from the smallest module to the whole space, evenly on a log scale.
        step: a recorded step of a run.
        top: only so many gates, the first to enter; None: all.

    Raises:
        ConfigError: no budgets, or `top` below 1.
        StructureError: a structure, which has no alpha; sizes that are not known.
        RunError, BudgetError: no such step; a budget cannot be parsed. One below the smallest module chooses nothing.
    """
    source = open_source(run)
    one = view(source, step=step)
    need_space(one, "budget path")
    need_sizes(one.gates, "budget path")
    if top is not None and top < 1:
        raise ConfigError(f"top: expected 1 or more, found {top}")
    counts = one.counts
    at = _budgets(source, counts, budgets)
    columns = ["budget", "used", "gate", "name", "pet_type", "n_params", "enters"]
    if not np.isfinite(one.alpha).all():
        return pd.DataFrame(columns=columns)
    inside = source.pinned_params if isinstance(source, Run) else 0
    chosen = select_many(one.alpha, counts, at - inside)  # (n_budgets, n_gates)
    ever = np.flatnonzero(chosen.any(axis=0))
    first = chosen.argmax(axis=0)
    order = sorted(ever, key=lambda i: (first[i], one.rank[i]))[:top]
    names = gate_names(one.gates, rows_of(one.gates))
    used = chosen @ counts + inside
    rows = [
        (
            int(at[b]),
            int(used[b]),
            one.gates[i].index,
            names[i],
            one.gates[i].pet_type,
            int(counts[i]),
            int(at[first[i]]),
        )
        for i in order
        for b in np.flatnonzero(chosen[:, i])
    ]
    return pd.DataFrame(rows, columns=columns)


@themed
def budget_path(
    run: Source, *, budgets: Sequence[Budget] | None = None, step: int = -1, top: int = 40, **look: Unpack[Look]
) -> go.Figure:
    """Draw each gate as a line over the budgets at which it is chosen, in the order they enter.

    Args:
        run, budgets, step: as `budget_path_table`.
        top: gates drawn at most, the first to enter.
        title: instead of the run's name. theme: ``light`` or ``dark``.

    Returns:
        A figure with one trace per PET type, one of the entering points, and above them the share of the budget
        that is used. The run's own budget is a dashed line.
    """
    source = open_source(run)
    whole = budget_path_table(source, budgets=budgets, step=step)
    gates = whole.drop_duplicates("gate")
    shown = gates.head(top)
    name = source.backbone or "structure" if isinstance(source, Structure) else source.name
    words = f"{_style.plain(shorten(name, 48))} · gates that enter as the budget grows"
    if len(shown) < len(gates):
        words += f" · the first {len(shown)} of {len(gates):,}"
    heights = [90, max(200, 19 * len(shown))]
    style = {"shared_xaxes": True, "vertical_spacing": 0.03, "row_heights": heights}
    figure = make_subplots(rows=2, cols=1, figure=_style.new_figure(look, words), **style)

    def add(row: int, drawn: go.Scatter) -> None:
        figure.add_trace(drawn, row=row, col=1)

    used = whole.drop_duplicates("budget").sort_values("budget")
    x, y = used["budget"].to_numpy(), (100 * used["used"] / used["budget"]).to_numpy()
    hover = "budget %{x:,}: %{customdata:,} parameters used (%{y:.1f} %)"
    told = used["used"].to_numpy()
    add(1, _style.line(x, y, "used", _style.INK, 1.5, shape="hv", hover=hover, showlegend=False, customdata=told))
    place = {gate: i for i, gate in enumerate(shown["gate"])}
    grid = np.unique(whole["budget"].to_numpy())
    rows = whole[whole["gate"].isin(place)]
    # A known type has its own colour in every figure, whichever others are there.
    for i, pet_type in enumerate(pet_type_order([*PET_TYPES, *rows["pet_type"]])):
        mine = rows[rows["pet_type"] == pet_type]
        if len(mine):
            colour = _style.CATEGORICAL[i % len(_style.CATEGORICAL)]
            x, y = _segments(mine, place, grid)
            add(2, _style.line(x, y, _style.plain(pet_type), colour, 6))
    mark = {"color": _style.GROUND, "size": 8, "line": {"color": _style.INK, "width": 1.5}}
    facts = [[_style.plain(g.name), f"{g.n_params:,}"] for g in shown.itertuples(index=False)]
    hover = "<b>%{customdata[0]}</b><br>%{customdata[1]} parameters<br>enters at %{x:,}"
    x, y = shown["enters"].to_numpy(), np.arange(len(shown))
    add(2, _style.markers(x, y.tolist(), "enters", mark, hover=hover, customdata=np.array(facts).reshape(-1, 2)))
    own = source.info["budget"] if isinstance(source, Run) else source.budget
    if own:
        figure.add_vline(x=own, line={"color": _style.MUTED, "dash": "dash", "width": 1})
        style = {"yref": "paper", "yanchor": "bottom", "font": {"size": 11, "color": _style.MUTED}}
        figure.add_annotation(x=np.log10(own), y=1, text=f"own budget {own:,}", showarrow=False, **style)
    figure.update_xaxes(
        type="log", minor={"ticks": "outside", "ticklen": 2}, exponentformat="none", separatethousands=True, dtick=1
    )
    figure.update_xaxes(title="budget (parameters, log scale)", row=2, col=1)
    figure.update_yaxes(title="used, %", range=[0, 105], row=1, col=1)
    names = _style.named([_style.plain(n) for n in shown["name"]])
    figure.update_yaxes(range=[len(shown) - 0.4, -0.6], showgrid=False, row=2, col=1, **names)
    _style.place_top(figure, height=280 + max(200, 19 * len(shown)), heads=True)
    return figure


def select_many(alpha: np.ndarray, counts: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """`structure.select` at many budgets (in parameters) at once; bool, shape (n_budgets, n_gates)."""
    left = np.asarray(budgets, dtype=np.float64).copy()
    chosen = np.zeros((len(left), len(alpha)), dtype=bool)
    for i in np.argsort(-np.asarray(alpha, dtype=np.float64), kind="stable"):
        fits = counts[i] <= left
        chosen[:, i] = fits
        left -= fits * counts[i]
    return chosen


def _budgets(source: Opened, counts: np.ndarray, budgets: Sequence[Budget] | None) -> np.ndarray:
    """Ascending, in parameters, int64."""
    if budgets is None:
        spread = np.geomspace(counts.min(), counts.sum(), _POINTS)
        inside = source.pinned_params if isinstance(source, Run) else 0
        return np.unique(np.round(spread).astype(np.int64)) + inside
    given = [budgets] if isinstance(budgets, (str, int, float)) else list(budgets)
    if not given:
        raise ConfigError("budgets: expected at least one, found none")
    if isinstance(source, FinalAlphas):
        return np.unique([source.parameters(b) for b in given])
    total = source.info["backbone_params"] if isinstance(source, Run) else None
    return np.unique([parse_budget(b, total or None) for b in given])


def _segments(rows: pd.DataFrame, place: dict[int, int], grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One broken line over the stretches of neighbouring budgets at which each gate is chosen."""
    step = np.searchsorted(grid, rows["budget"].to_numpy())
    line = np.array([place[g] for g in rows["gate"]])
    ends = np.flatnonzero((np.diff(step) != 1) | (np.diff(line) != 0))
    first, last = np.append(0, ends + 1), np.append(ends, len(rows) - 1)
    # A stretch reaches to the next budget: until there nothing else is known.
    gap = np.full(len(first), np.nan)
    x = np.stack([grid[step[first]], grid[np.minimum(step[last] + 1, len(grid) - 1)], gap], axis=1)
    y = np.stack([line[first], line[first], gap], axis=1)
    return x.ravel(), y.ravel()
