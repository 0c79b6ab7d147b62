"""What several runs agree on: the mean of their p, and the structure that it selects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.analysis.consensus import consensus_of
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import View, filled, labels, need_space, pinned, view
from s3pet_viz.figures._grid import Grid, Scale, add_chosen, add_pinned, axes
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.figures.heatmap import by_cell, gate_cells, table_of
from s3pet_viz.runs import Run
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import Opened, Sources, open_sources
from s3pet_viz.structure import Gate, Structure


def consensus_structure(runs: Sources, budget: Budget | None = None) -> Structure:
    """The structure that the mean p of several runs selects, by the rule of a single search.

    Args:
        runs: runs or tables of final alphas, or their paths; over gates that all of them have.
        budget: p of each solved again at it, and the selection made at it; None: the budget that all runs have.

    Returns:
        The structure; its source names the runs.

    Raises:
        ConfigError: runs of different budgets and none given, without steps, of different backbones or gate sizes,
            or that share no gate.
        StructureError: a structure, which has no p; sizes that are not known.
        RunError, BudgetError: as `heatmap_table`.
    """
    return _consensus(open_sources(runs), budget)[0]


def _consensus(sources: Sequence[Opened], budget: Budget | None) -> tuple[Structure, list[View]]:
    views = [view(source, budget=budget) for source in sources]
    for one in views:
        need_space(one, "consensus")
        if not np.isfinite(one.p).all():
            raise ConfigError(f"consensus: {one.name} has no steps recorded yet")
    params = {source.structure(budget).budget or 0 for source in sources}  # type: ignore[union-attr]
    if len(params) > 1:
        found_budgets = ", ".join(f"{b:,}" for b in sorted(params))
        raise ConfigError(f"consensus: the runs have different budgets ({found_budgets} parameters); give one")
    own = params.pop()
    first = sources[0]
    if isinstance(first, Run):
        backbone, size = first.info["backbone"] or "", first.info["backbone_params"] or 0
    else:
        backbone, size = first.backbone, first.backbone_params
    searches = [(one.name, one.gates, one.p) for one in views]
    inside = [source.pinned_in if isinstance(source, Run) else () for source in sources]
    return consensus_of(searches, own, backbone, size, pinned=inside, labels=labels(sources)), views


def consensus_table(runs: Sources, *, budget: Budget | None = None) -> pd.DataFrame:
    """The numbers behind `consensus`: `heatmap_table` of several runs, whose `selected` is the consensus structure.

    Columns as there (p = mean over the runs, count = in how many the gate is chosen).

    Raises:
        S3PETError: as `consensus_structure`.
    """
    return _table(open_sources(runs), budget)[0]


def _table(sources: Sequence[Opened], budget: Budget | None) -> tuple[pd.DataFrame, tuple[Gate, ...]]:
    structure, views = _consensus(sources, budget)
    table, gates = table_of(views)
    keys = {gate.key for gate in gates}  # of the searched ones
    selected = np.array([gate.key in structure.keys for gate in gates])
    # The rule goes by the mean p here.
    searched = structure.budget and structure.budget - sum(g.n_params for g in structure.gates if g.key not in keys)
    fill, _ = filled(gates, table["p"].to_numpy(), searched, selected)
    return table.assign(selected=selected, fill=fill, distance=np.nan), gates


@themed
def consensus(runs: Sources, *, budget: Budget | None = None, scale: Scale = "full", **look: Unpack[Look]) -> go.Figure:
    """Draw the mean p of several runs; the gates that it selects are outlined.

    Args:
        runs, budget: as `consensus_structure`.
        scale: of the colours, as in `heatmap`.
        title: instead of the number of runs and gates. theme: ``light`` or ``dark``.

    Returns:
        A figure with these traces: the heatmap ("gates"), the outlines ("consensus" and, where there are such, "fills
        the rest of the budget"), and a casing under them.
    """
    sources = open_sources(runs)
    gate_table, gates = _table(sources, budget)
    table, leads = by_cell(gate_table, gates)
    inside, outside = pinned(sources)
    grid = Grid(leads, (), [*inside, *outside])
    chosen = gate_table[gate_table["selected"]]
    everywhere = int((chosen["count"] == len(sources)).sum())
    words = (
        f"Consensus of {len(sources)} runs · {len(chosen):,} gates, {int(chosen['n_params'].sum()):,} parameters"
        f" · {everywhere:,} of them chosen by every run"
    )
    if budget is not None:
        words += f" · at budget {_style.plain(budget)}"
    figure = _style.new_figure(look, words)
    cells = gate_cells(grid, table, "p", len(sources), scale)
    cells.colorbar.title.text = "<br>mean gate probability p"
    figure.add_trace(cells)
    add_chosen(figure, grid, table["selected"].to_numpy(), table["fill"].to_numpy(), "consensus")
    add_pinned(figure, grid, inside, outside)
    axes(figure, grid)
    return figure
