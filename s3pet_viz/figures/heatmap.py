"""The heatmap that explains a search: rows = module and PET type, columns = layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import Opened, Source, View, as_sources, joint_gates, shorten, view
from s3pet_viz.figures._grid import Grid as Grid  # what widgets and tests draw on
from s3pet_viz.figures._grid import axes, cells, outline
from s3pet_viz.runs.grid import rows_of
from s3pet_viz.runs.reader import Budget, ranks
from s3pet_viz.structure import Gate, Structure

Value = Literal["p", "alpha", "rank", "selected", "count"]

_LABELS = {
    "p": "gate probability p",
    "alpha": "structure parameter α",
    "rank": "rank by α",
    "selected": "",
    "count": "runs that chose it",
}


def heatmap_table(
    runs: Source | Iterable[Source], *, budget: Budget | None = None, step: int = -1
) -> pd.DataFrame:
    """The numbers behind `heatmap`, one row per gate.

    Columns: gate (index), row, column, stack, layer, module, pet_type, position, n_params, p, alpha, rank
    (1 = highest alpha), selected, count (how many sources chose it), runs (how many have it). For a structure only
    its own gates, p, alpha and rank missing (NaN). Of several sources gates are matched by position and PET type;
    p and alpha are means over those that have the gate, rank is by mean p, selected by more than half of all.

    Args:
        runs: a run, its path, a structure, a published file; or several of them.
        budget: p with the shift solved again, and the selection, at another budget.
        step: a recorded step; -1 = the last. A run without steps yet: p, alpha, rank are NaN, none selected.

    Raises:
        RunError: no such run or step.
        BudgetError: the budget cannot be parsed, or is below the smallest module.
        StructureError: a structure file or published file is damaged.
        ConfigError: no source at all, or several that share no gate.
    """
    return _table([view(source, budget=budget, step=step) for source in as_sources(runs)])[0]


def _table(views: Sequence[View]) -> tuple[pd.DataFrame, tuple[Gate, ...]]:
    gates, places = joint_gates(views)
    count, present = np.zeros(len(gates), dtype=np.int64), np.zeros(len(gates), dtype=np.int64)
    sums = {name: np.zeros(len(gates)) for name in ("p", "alpha")}
    known = np.zeros(len(gates))
    for one, at in zip(views, places, strict=True):
        present[at] += 1
        count[at] += one.selected
        known[at] += np.isfinite(one.p)
        for name in sums:
            sums[name][at] += np.nan_to_num(getattr(one, name), nan=0.0)
    with np.errstate(invalid="ignore"):
        p, alpha = (np.where(known > 0, total / np.maximum(known, 1), np.nan) for total in sums.values())
    if len(views) == 1:
        p, alpha, rank, selected = views[0].p, views[0].alpha, views[0].rank, views[0].selected
    else:
        selected = count * 2 > len(views)
        rank = np.where(known > 0, ranks(np.where(known > 0, p, -1.0)), np.nan)
    table = pd.DataFrame(
        {
            "gate": [g.index for g in gates],
            "row": rows_of(gates),
            "column": [g.column for g in gates],
            "stack": [g.stack for g in gates],
            "layer": [g.layer for g in gates],
            "module": [g.module for g in gates],
            "pet_type": [g.pet_type for g in gates],
            "position": [g.position for g in gates],
            "n_params": [g.n_params for g in gates],
            "p": p,
            "alpha": alpha,
            "rank": rank,
            "selected": selected,
            "count": count,
            "runs": present,
        }
    )
    return table, gates


def heatmap(
    runs: Source | Iterable[Source],
    *,
    value: Value | None = None,
    budget: Budget | None = None,
    step: int = -1,
    title: str | None = None,
) -> go.Figure:
    """Draw every gate on the grid of modules and layers; chosen gates are outlined.

    Args:
        runs: a run, its path, a structure (whose chosen gates are drawn), a published file; or several of them.
        value: what colour means: ``p`` (the default where p is known), ``alpha``, ``rank``, ``selected``, or
            ``count``, in how many of several runs the gate is chosen.
        budget, step: as `heatmap_table`.
        title: instead of the run's name, budget and step.

    Returns:
        A figure with two traces: the heatmap ("gates") and the outlines ("chosen").

    Raises:
        ConfigError: `value` is none of these, or is not known for a structure.
        RunError, BudgetError, StructureError: as `heatmap_table`.
    """
    sources = as_sources(runs)
    structures = all(isinstance(source, Structure) for source in sources)
    if value is None:
        value = "p" if not structures else "selected" if len(sources) == 1 else "count"
    if value not in get_args(Value):
        raise ConfigError(f"value: expected one of {', '.join(get_args(Value))}, found {value!r}")
    if structures and value not in ("selected", "count"):
        raise ConfigError(f"value: a structure has no {value}; expected 'selected', or draw the run instead")
    views = [view(source, budget=budget, step=step) for source in sources]
    table, gates = _table(views)
    grid = Grid(gates)

    figure = _style.new_figure(title if title is not None else _title(sources, views, table, budget, step))
    figure.add_trace(gate_cells(grid, table, value, len(views)))
    name = "chosen" if len(views) == 1 else "chosen in most runs"
    # With two colours for chosen and open, outlines would say it twice.
    figure.add_trace(outline(grid, table["selected"].to_numpy(), name, visible=value != "selected"))
    axes(figure, grid)
    return figure


def gate_cells(grid: Grid, table: pd.DataFrame, value: Value, n_runs: int = 1) -> go.Heatmap:
    """The cells of a table as `heatmap_table` makes it, with all that is known of a gate on hovering."""
    values = table[value].to_numpy(dtype=float)
    finite = values[np.isfinite(values)]
    scale: dict[str, Any]
    if value == "p":
        # Its own maximum: early in a search, or at a tiny budget, every p is far below 1.
        scale = {"colorscale": _style.SEQUENTIAL, "zmin": 0, "zmax": float(finite.max()) if len(finite) else 1}
    elif value == "alpha":
        reach = float(np.abs(finite).max()) if len(finite) else 0
        scale = {"colorscale": _style.DIVERGING, "zmin": -(reach or 1), "zmax": reach or 1}
    elif value == "rank":
        scale = {"colorscale": _style.REVERSED, "zmin": 1, "zmax": max(2, len(table))}
    elif value == "count":
        scale = {"colorscale": _style.SEQUENTIAL, "zmin": 0, "zmax": n_runs}
    else:
        scale = {"colorscale": _style.BINARY, "zmin": 0, "zmax": 1, "showscale": False}
    if n_runs == 1:
        chosen = np.where(table["selected"], " · <b>chosen</b>", "")
    else:
        chosen = np.array([f" · chosen in {c} of {n_runs}" for c in table["count"]])
    hover = [
        [_style.plain(f"{c} {r}") for c, r in zip(table["column"], table["row"], strict=True)],
        chosen.tolist(),
        [_style.plain(p) for p in table["position"]],
        [f"{n:,} parameters" if n else "size not known" for n in table["n_params"]],
        shown(table["p"], ".4g"),
        shown(table["alpha"], "+.4f"),
        shown(table["rank"], ".0f"),
    ]
    lines = ["<b>%{customdata[0]}</b>%{customdata[1]}", "%{customdata[2]}", "%{customdata[3]}"]
    if table["p"].notna().any():
        mean = "mean " if n_runs > 1 else ""
        lines.append(
            f"{mean}p = %{{customdata[4]}}   {mean}α = %{{customdata[5]}}   "
            f"rank %{{customdata[6]}} of {len(table):,}"
        )
    made = cells(grid, values, hover, "<br>".join(lines), _LABELS[value], **scale)
    if value == "count" and n_runs <= 12:
        made.colorbar.update(tickmode="linear", tick0=0, dtick=1)
    return made


def _title(
    sources: Sequence[Opened], views: Sequence[View], table: pd.DataFrame, budget: Budget | None, step: int
) -> str:
    n_chosen = int(table["selected"].sum())
    params = int(table.loc[table["selected"], "n_params"].sum())
    chosen = f"{n_chosen:,} gates chosen" + (f", {params:,} parameters" if params else "")
    if len(sources) > 1:
        words = [f"{len(sources)} runs", f"{n_chosen:,} gates chosen in most of them"]
    elif isinstance(sources[0], Structure):
        return f"{_style.plain(sources[0].backbone)} · {chosen}" if sources[0].backbone else chosen
    else:
        words = [_style.plain(shorten(views[0].name, 48)), chosen]
    if budget is not None:
        words.append(f"at budget {_style.plain(budget)}")
    if len(sources) == 1 and views[0].step is not None:
        words.append(f"step {views[0].step:,}" if step >= -1 else f"step {step}")
    return " · ".join(words)


def shown(values: pd.Series, form: str) -> list[str]:
    """Numbers as text, a dash where there is none."""
    return [format(float(v), form) if np.isfinite(v) else "–" for v in values]
