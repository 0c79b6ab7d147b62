"""Many runs at a glance: a small heatmap each, on one grid and one scale."""

from __future__ import annotations

import math
from typing import Unpack

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from s3pet_viz.analysis.measures import jaccard
from s3pet_viz.config.checks import whole
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import joint_gates, labels, need_space, shorten, view
from s3pet_viz.figures._grid import Grid, outlines, tiles
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.figures.heatmap import by_cell, shown, table_of
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import RUN, Sources, open_sources
from s3pet_viz.structure import Gate

#: More are no longer told apart.
MOST = 48
_ROW_PX, _HEAD = 8, 58


def multiples_table(runs: Sources, *, budget: Budget | None = None, step: int = -1) -> pd.DataFrame:
    """The numbers behind `multiples`, one row per run and cell: run (the panel's label), row, column, position,
    pet_type, p (of units their sum, the expected rank), chosen (bool), chosen_units (the rank; 0 of other gates).

    Args:
        runs: runs, their paths or names, or a `RunTable`.
        budget: all solved again at another budget. step: a recorded step.

    Raises:
        ConfigError: no run, more than 48, or two that share no gate.
        RunError, BudgetError: as `heatmap_table`.
    """
    return _drawn(runs, budget, step)[0].drop(columns="cell")


def _drawn(runs: Sources, budget: Budget | None, step: int) -> tuple[pd.DataFrame, Grid]:
    opened = open_sources(runs, allow=RUN, what="runs")
    if len(opened) > MOST:
        raise ConfigError(
            f"runs: expected at most {MOST} to draw beside each other, found {len(opened)}; choose some "
            "(table.where(...)), or draw their mean: heatmap(runs)"
        )
    views = [view(run, budget=budget, step=step) for run in opened]
    for one in views:
        need_space(one, "multiples")
    leads: dict[tuple[str, str], Gate] = {}
    for gate in joint_gates(views)[0]:
        leads.setdefault(gate.place, gate)
    at = {place: i for i, place in enumerate(leads)}
    parts = []
    for one, label in zip(views, labels(opened), strict=True):
        table, gates = by_cell(*table_of([one]))
        cell = [at[gate.place] for gate in gates]
        ranks = table.get("chosen_units", 0)
        table = table.assign(run=label, chosen=table["selected"], chosen_units=ranks, cell=cell)
        parts.append(table)
    wanted = ["run", "row", "column", "position", "pet_type", "p", "chosen", "chosen_units", "cell"]
    made = pd.concat(parts, ignore_index=True)[wanted]
    return made, Grid(list(leads.values()))


@themed
def multiples(
    runs: Sources, *, columns: int = 3, budget: Budget | None = None, step: int = -1, **look: Unpack[Look]
) -> go.Figure:
    """Draw each run's heatmap small, beside the others: one order of rows, one scale, the chosen gates outlined.

    The head of a panel says what tells its run apart, and how much its chosen gates overlap with the first run's
    (Jaccard).

    Args:
        runs, budget, step: as `multiples_table`.
        columns: panels beside each other.
        title: instead of the number of runs. theme: ``light`` or ``dark``.

    Returns:
        A figure with a heatmap and an outline per run, in their order.

    Raises:
        As `multiples_table`; ConfigError: columns below 1.
    """
    whole("columns", columns, 1)
    table, grid = _drawn(runs, budget, step)
    names = list(dict.fromkeys(table["run"]))
    across = min(columns, len(names))
    down = math.ceil(len(names) / across)
    parts = [table[table["run"] == name] for name in names]
    sets = [frozenset(zip(part["position"], part["pet_type"], strict=True)) for part in (p[p["chosen"]] for p in parts)]
    heads = [_style.plain(shorten(name, 90 // across)) for name in names]
    overlaps = ["", *(f"<br>overlap with the first {jaccard(sets[0], one):.2f}" for one in sets[1:])]
    heads = [head + overlap for head, overlap in zip(heads, overlaps, strict=True)]
    units = table["chosen_units"].max()
    height = max(60, _ROW_PX * len(grid.rows))
    inner = down * height + (down - 1) * _HEAD
    words = f"{len(names)} runs · {'expected rank' if units else 'p'}, chosen gates outlined"
    figure = make_subplots(
        rows=down, cols=across, subplot_titles=heads, shared_yaxes=True, figure=_style.new_figure(look, words),
        horizontal_spacing=0.04, vertical_spacing=_HEAD / inner if down > 1 else 0,
    )  # fmt: skip
    top = max(1.0, float(table["p"].max()) if units else 1.0)
    x, y = np.arange(len(grid.columns)), np.arange(len(grid.rows))
    for i, (name, part) in enumerate(zip(names, parts, strict=True)):
        at = {"row": i // across + 1, "col": i % across + 1}
        cell = part["cell"].to_numpy()
        z, told = (np.full((len(y), len(x)), fill, dtype=kind) for fill, kind in ((np.nan, float), ("", object)))
        z[grid.row[cell], grid.col[cell]] = part["p"]
        numbers = zip(part["column"], part["row"], shown(part["p"], ".3g"), part["chosen"], strict=True)
        told[grid.row[cell], grid.col[cell]] = [
            f"<b>{_style.plain(f'{column} {row}')}</b><br>p = {p} · {'chosen' if chosen else 'not chosen'}"
            for column, row, p, chosen in numbers
        ]
        colours = {"colorscale": _style.SEQUENTIAL, "zmin": 0, "zmax": top, "hoverongaps": False}
        bar = {"thickness": 10, "lenmode": "pixels", "len": 160, "y": 1, "yanchor": "top", "outlinewidth": 0}
        bar["title"] = {"text": "rank" if units else "p", "side": "top"}
        trace = tiles(_style.plain(name), x, y, z, told, "%{customdata}", **colours, showscale=not i, colorbar=bar)
        figure.add_trace(trace.update(xgap=0.5, ygap=0.5), **at)
        selected = np.zeros(len(grid.row), dtype=bool)
        selected[cell[part["chosen"].to_numpy()]] = True
        edge_x, edge_y = outlines(grid, selected)
        figure.add_trace(_style.line(edge_x, edge_y, "chosen", _style.OUTLINE, 1.5, showlegend=False), **at)
    ticks = [k for k, label in enumerate(grid.columns) if label]
    every = max(1, math.ceil(len(ticks) * across / 40))
    figure.update_xaxes(
        tickvals=ticks[::every], ticktext=[grid.columns[k] for k in ticks[::every]], tickfont={"size": 9}, **_style.BARE
    )
    figure.update_yaxes(range=[len(y) - 0.5, -0.5], showticklabels=False, **_style.BARE)
    figure.update_yaxes(
        tickvals=y, ticktext=grid.rows, tickfont={"size": 8}, showticklabels=True, automargin=True, col=1
    )
    for head in figure.layout.annotations:
        head.update(font={"size": 11}, yshift=2)
    _style.place_top(figure, height=inner + 130, legend=False, heads=True)
    return figure
