"""Many runs at a glance: a small heatmap each, on one grid and one scale."""

from __future__ import annotations

import itertools
from typing import Unpack

import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.analysis.measures import jaccard
from s3pet_viz.config.checks import whole
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import joint_gates, labels, need_space, view
from s3pet_viz.figures._grid import Grid
from s3pet_viz.figures._panels import Panel, panels
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.figures.heatmap import by_cell, shown, table_of
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import RUN, Sources, open_sources
from s3pet_viz.structure import Gate, Structure

#: More are no longer told apart.
MOST = 48


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


def _drawn(runs: Sources, budget: Budget | None, step: int) -> tuple[pd.DataFrame, Grid, list[Structure]]:
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
    structures = [Structure(tuple(itertools.compress(one.gates, one.selected))) for one in views]
    return made, Grid(list(leads.values())), structures


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
    table, grid, structures = _drawn(runs, budget, step)
    names = list(dict.fromkeys(table["run"]))
    parts = [table[table["run"] == name] for name in names]
    units = table["chosen_units"].max()
    made = []
    for name, part, own in zip(names, parts, structures, strict=True):
        numbers = zip(part["column"], part["row"], shown(part["p"], ".3g"), part["chosen"], strict=True)
        told = [
            f"<b>{_style.plain(f'{column} {row}')}</b><br>p = {p} · {'chosen' if chosen else 'not chosen'}"
            for column, row, p, chosen in numbers
        ]
        below = (f"overlap with the first {jaccard(structures[0], own):.2f}",) if name != names[0] else ()
        made.append(Panel(name, part["cell"].to_numpy(), part["p"].to_numpy(), told, part["chosen"].to_numpy(), below))
    words = f"{len(names)} run{'s' * (len(names) > 1)} · {'expected rank' if units else 'p'}, chosen gates outlined"
    top = max(1.0, float(table["p"].max()) if units else 1.0)
    figure, _ = panels(made, grid, look, words, columns=columns, top=top, bar="rank" if units else "p")
    return figure
