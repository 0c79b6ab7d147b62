"""Two searches on one grid: where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.figures import _style
from s3pet_viz.figures._data import joint_gates, labels, pinned, spread, view
from s3pet_viz.figures._grid import Grid, Scale, add_pinned, axes, cased, cells, limits, outlines, ring
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.figures.heatmap import gates_frame, places_of, shown
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import Opened, Source, open_source
from s3pet_viz.structure import Gate

#: chosen -> (colour, marker): told apart by shape too, where colours are not.
_MARKS = {"both": (_style.INK, "circle"), "a": ("#d55e00", "triangle-left"), "b": ("#009e73", "triangle-right")}


def compare_table(a: Source, b: Source, *, budget: Budget | None = None, step: int = -1) -> pd.DataFrame:
    """The numbers behind `compare`, one row per gate of either.

    Columns: row, column, position, pet_type, n_params, p_a, p_b (NaN where unknown, or the gate is not in that
    search space), difference (p_b - p_a), chosen ("both", "a", "b" or "").

    Args:
        a, b: runs, structures, published files, or their paths.
        budget: both solved again at another budget.
        step: a recorded step of runs.

    Raises:
        ConfigError: they share no gate; another budget of a structure.
        RunError, BudgetError, StructureError: as `heatmap_table`.
    """
    return _table(open_source(a), open_source(b), budget, step)[0]


def _table(a: Opened, b: Opened, budget: Budget | None, step: int) -> tuple[pd.DataFrame, tuple[Gate, ...]]:
    views = [view(source, budget=budget, step=step) for source in (a, b)]
    gates, places = joint_gates(views)
    p = spread(views, places, len(gates), "p", np.nan)
    selected = spread(views, places, len(gates), "selected", False)
    chosen = np.select([selected.all(axis=0), selected[0], selected[1]], ["both", "a", "b"], "")
    table = gates_frame(gates, ("row", "column", "position", "pet_type", "n_params"))
    table = table.assign(p_a=p[0], p_b=p[1], difference=p[1] - p[0], chosen=chosen)
    return table, gates


def _by_cell(table: pd.DataFrame, gates: Sequence[Gate]) -> tuple[pd.DataFrame, list[Gate]]:
    """One row a cell: of units the sums of p, and the rank that each search chose."""
    if all(gate.unit is None for gate in gates):
        return table, list(gates)
    places = [gate.place for gate in gates]
    lead = [places.index(place) for place in dict.fromkeys(places)]
    unit = np.array([gate.unit is not None for gate in gates])
    facts = table.assign(
        units=unit,
        rank_a=table["chosen"].isin(["both", "a"]) & unit,
        rank_b=table["chosen"].isin(["both", "b"]) & unit,
        place=[lead.index(places.index(place)) for place in places],
    )
    grouped = facts.groupby("place", sort=True)
    made = table.iloc[lead].reset_index(drop=True)
    made["p_a"], made["p_b"] = (grouped[name].sum(min_count=1) for name in ("p_a", "p_b"))
    made["difference"] = made["p_b"] - made["p_a"]
    for name in ("units", "rank_a", "rank_b"):
        made[name] = grouped[name].sum().astype(int)
    either = [(made["rank_a"] > 0) & (made["rank_b"] > 0), made["rank_a"] > 0, made["rank_b"] > 0]
    made["chosen"] = np.where(made["units"] > 0, np.select(either, ["both", "a", "b"], ""), made["chosen"])
    return made, [gates[i] for i in lead]


@themed
def compare(
    a: Source, b: Source, *, budget: Budget | None = None, step: int = -1, scale: Scale = "full", **look: Unpack[Look]
) -> go.Figure:
    """Draw p of `b` less p of `a`; gates chosen by both, only by `a` or only by `b` are outlined and marked.

    Args:
        a, b, budget, step: as `compare_table`.
        scale: of the colours: ``full`` (-1 to 1), ``own`` (to the largest difference), or two numbers, of which the one
            farther from 0 is the end on both sides.
        title: instead of the labels and the overlap. theme: ``light`` or ``dark``.

    Returns:
        A figure with a heatmap ("gates"), and three outlines with their casings: both, only a, only b;
        marks of the gates that either pinned in or out. Where p of one is not known (a structure), cells are grey and
        only the choices differ.
    """
    opened = open_source(a), open_source(b)
    table, gates = _table(*opened, budget, step)
    names = [_style.plain(name) for name in labels(list(opened), most=30)]
    shared, either = (table["chosen"] == "both").sum(), (table["chosen"] != "").sum()
    words = f"{names[1]} less {names[0]} · overlap of the chosen gates {shared / either if either else 1:.2f}"
    figure = _style.new_figure(look, words)

    table, leads = _by_cell(table, gates)
    inside, outside = pinned(opened)
    grid = Grid(leads, pinned=[*inside, *outside])
    difference = table["difference"].to_numpy()
    known = np.isfinite(difference).any()
    low, high = limits(scale, np.abs(difference), 0, max(1, table["units"].max() if "units" in table else 1))
    reach = max(abs(low), abs(high)) or 1
    only = [f"chosen by {name} only" for name in names]
    told = {"both": "chosen by both", "a": only[0], "b": only[1], "": "not chosen"}
    if "units" in table:
        told_ranks = [f" · rank {a} → {b}" if n else "" for n, a, b in table[["units", "rank_a", "rank_b"]].to_numpy()]
        more = [f"{b - a:+d}" if a != b else "" for a, b in table[["rank_a", "rank_b"]].to_numpy()]
    else:
        told_ranks, more = [""] * len(table), []
    numbers = [shown(table[name], form) for name, form in (("p_a", ".4g"), ("p_b", ".4g"), ("difference", "+.4g"))]
    hover = [*places_of(table), *numbers, [told[c] + r for c, r in zip(table["chosen"], told_ranks, strict=True)]]
    template = (
        "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>p = %{customdata[2]} → %{customdata[3]}"
        "   (%{customdata[4]})<br>%{customdata[5]}"
    )
    colours: dict[str, Any] = {"colorscale": _style.DIVERGING, "zmin": -reach, "zmax": reach, "showscale": bool(known)}
    if more:
        colours |= {"text": grid.spread(more, "", object), "texttemplate": "%{text}", "textfont": {"size": 11}}
    shades = difference if known else np.zeros(len(table))
    figure.add_trace(cells(grid, shades, hover, template, "difference of p", **colours))
    for who, label in (("both", "chosen by both"), ("a", f"only {names[0]}"), ("b", f"only {names[1]}")):
        mask = (table["chosen"] == who).to_numpy()
        colour, symbol = _MARKS[who]
        lines = outlines(grid, mask)
        figure.add_traces([cased(*lines, legendgroup=who), ring(*lines, label, colour, legendgroup=who)])
        figure.data[-1].showlegend = False
        x, y = (grid.col[mask], grid.row[mask]) if mask.any() else ([None], [None])
        style = {"color": colour, "symbol": symbol, "size": 7, "line": {"color": _style.GROUND, "width": 1}}
        figure.add_trace(_style.markers(x, y, label, style, legendgroup=who, zorder=2))
    add_pinned(figure, grid, inside, outside)
    axes(figure, grid)
    figure.update_layout(legend_itemsizing="constant")  # the markers are small
    return figure
