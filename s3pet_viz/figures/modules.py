"""Which modules dominate, over tasks and methods, and how stable that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from s3pet_viz.analysis.dominant import By, shares
from s3pet_viz.analysis.grid import MODULES
from s3pet_viz.config.checks import whole
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import shorten
from s3pet_viz.figures._grid import bar, cased, squares, tiles
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.runs.reader import Budget

_ROW_PX, _HEAD = 26, 40


def modules_table(
    source: Any, *, by: By = "module", budget: Budget | None = None, methods: Sequence[str] | None = None
) -> pd.DataFrame:
    """The numbers behind `modules`: a row per method, task and module, and one of several tasks' mean ("all").

    Columns: method; of (``parameters`` that were chosen, or ``scores``: all of them, of ``gradient`` the gradient
    energy); task; pooled (whether of all tasks); group; share (mean over seeds; pooled: over tasks); low, high (the
    smallest and the largest of them); n (seeds, or tasks); led (in how many of the n none has a larger share); leads
    (whether no mean share is larger); says (in words, where it leads). The budget of a study stands in
    ``.attrs["budget"]``.

    Args:
        source: a study; or a mapping of tasks to runs, structures or scores, or lists of them (seeds), such as
            ``s3.score(tasks=[...])``.
        by: ``module`` (over all layers), ``layer``, or ``place`` (a module of one layer).
        budget: of a study, as it is written there; None: that of most tasks and trainings. Of a mapping: runs and
            scores are solved at it.
        methods: which, in this order; None: all.

    Raises:
        ConfigError: nothing to sum, an unknown `by`, budget or method.
        StudyError, SourceError, RunError, StructureError, BudgetError: what cannot be opened, or solved again.
    """
    return shares(source, by=by, budget=budget, methods=methods)


@themed
def modules(
    source: Any,
    *,
    by: By = "module",
    budget: Budget | None = None,
    methods: Sequence[str] | None = None,
    most: int = 14,
    **look: Unpack[Look],
) -> go.Figure:
    """Draw the share that each module has in each task, a panel a method; the leading one of a task is outlined.

    Args:
        source, by, budget, methods: as `modules_table`.
        most: rows at most, those with the largest share anywhere.
        title: instead of what is shown. theme: ``light`` or ``dark``.

    Returns:
        A figure with two traces per method: its shares, and the outlines.

    Raises:
        As `modules_table`; ConfigError: `most` below 1.
    """
    whole("most", most, 1)
    table = modules_table(source, by=by, budget=budget, methods=methods)
    groups = _ordered(table, by, most)
    every = table["group"].nunique()
    tasks = list(dict.fromkeys([*table.loc[~table["pooled"], "task"], *table["task"]]))
    kinds = list(dict.fromkeys(zip(table["method"], table["of"], strict=True)))
    fewer = f" · {len(groups)} of {every} rows" if every > len(groups) else ""
    at_budget = f" · budget {_style.plain(table.attrs['budget'])}" if table.attrs["budget"] else ""
    words = f"Share of each {by}{at_budget} · outlined: the largest of a task{fewer}"
    heads = [_style.plain(f"{shorten(method, 24)}: {of}") for method, of in kinds]
    height = _ROW_PX * len(groups)
    between = _HEAD + 7 * min(16, max(map(len, tasks)))
    across = 1 if len(tasks) > 8 else 2 if len(kinds) > 1 else 1
    down = -(-len(kinds) // across)
    inner = down * height + (down - 1) * between
    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=heads,
        shared_yaxes=True,
        figure=_style.new_figure(look, words),
        horizontal_spacing=0.04,
        vertical_spacing=between / inner if down > 1 else 0,
    )
    top = float(table["share"].max())
    at_row, at_column = ({name: i for i, name in enumerate(names)} for names in (groups, tasks))
    x, y = np.arange(len(tasks)), np.arange(len(groups))
    for i, (method, of) in enumerate(kinds):
        at = {"row": i // across + 1, "col": i % across + 1}
        z = np.full((len(y), len(x)), np.nan)
        text, told = (np.full(z.shape, "", dtype=object) for _ in range(2))
        part = table[(table["method"] == method) & (table["of"] == of) & table["group"].isin(groups)]
        leading = []
        for row in part.to_dict("records"):
            place = at_row[row["group"]], at_column[row["task"]]
            z[place] = row["share"]
            text[place] = f"{100 * row['share']:.0f}" if row["share"] else ""
            what = "tasks" if row["pooled"] else "seeds"
            told[place] = (
                f"<b>{_style.plain(row['group'])}</b>, {_style.plain(row['task'])}<br>{row['share']:.1%} of the {of}"
                f"<br>{row['low']:.1%} to {row['high']:.1%} over {row['n']} {what}; first in {row['led']}"
            )
            leading += [place] if row["leads"] else []
        colours = {"colorscale": _style.SEQUENTIAL, "zmin": 0, "zmax": top, "hoverongaps": False, "showscale": not i}
        trace = tiles(
            heads[i], x, y, z, told, "%{customdata}", colorbar=bar("share") | {"tickformat": ".0%"}, **colours
        )
        figure.add_trace(trace.update(text=text, texttemplate="%{text}", textfont={"size": 10}), **at)
        ends = np.array(leading, dtype=float).reshape(-1, 2)
        edge_x, edge_y = squares(ends[:, 1], ends[:, 0], 0.45)
        figure.add_trace(cased(edge_x, edge_y), **at)
        figure.add_trace(_style.line(edge_x, edge_y, "leads", _style.OUTLINE, 2, showlegend=False), **at)
        named = _style.named([_style.plain(shorten(task, 16)) for task in tasks], size=10)
        figure.update_xaxes(tickangle=-90, range=[-0.5, len(tasks) - 0.5], **named, **_style.BARE, **at)
        first = at["col"] == 1
        rows = _style.named([_style.plain(name) for name in groups], size=10) if first else {}
        figure.update_yaxes(
            range=[len(y) - 0.5, -0.5], showticklabels=first, automargin=first, **rows, **_style.BARE, **at
        )
    for head in figure.layout.annotations:
        head.update(font={"size": 12}, yshift=2)
    _style.place_top(figure, height=inner + 120 + between, legend=False, heads=True)
    figure.update_layout(margin_b=between)
    return figure


def _ordered(table: pd.DataFrame, by: By, most: int) -> list[str]:
    """The groups to draw: those with the largest share anywhere; modules in the order of data, others as they come."""
    largest = table.groupby("group", sort=False)["share"].max()
    kept = set(largest.sort_values(ascending=False, kind="stable").index[:most])
    names = [name for name in largest.index if name in kept]
    if by == "module":
        return [name for name in MODULES if name in kept] + [name for name in names if name not in MODULES]
    return sorted(names, key=lambda name: (not name.startswith("E"), _numbers(name)))


def _numbers(name: str) -> tuple[str, int, str]:
    """Layers in the order of depth: E.2 before E.10; the embedding first, the final norm last."""
    column, _, rest = name.partition(" ")
    stack, _, layer = column.partition(".")
    return stack, int(layer) if layer.isdigit() else 10**6 if layer == "final" else -1, rest
