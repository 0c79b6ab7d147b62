"""Small heatmaps beside each other, on one grid and one scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from s3pet_viz.figures import _style
from s3pet_viz.figures._data import shorten
from s3pet_viz.figures._grid import Grid, cased, outlines, tiles
from s3pet_viz.figures._theme import Look

_ROW_PX, _LINE = 8, 15
#: px between two rows of panels: the labels of the columns, and the first line of a head.
_BETWEEN = 43
#: Between two panels beside each other, in parts of the plot; where each has an axis of its own.
_SPACE, _SPACE_APART = 0.04, 0.11
#: px that all panels beside each other have on a narrow screen (900 px), and what a column's label needs of them.
_WIDTH, _LABEL = 640, 27


class Panel(NamedTuple):
    """One of the heatmaps.

    Attributes:
        name: the first line of its head; text from outside.
        cells: numbers of the gates it has among those of the grid, shape (n,).
        values: what colours them, shape (n,). told: HTML shown on hovering, n of them. chosen: bool, shape (n,).
        below: further lines of its head, of the package's own words.
    """

    name: str
    cells: np.ndarray
    values: np.ndarray
    told: Sequence[str]
    chosen: np.ndarray
    below: tuple[str, ...] = ()


def panels(
    made: Sequence[Panel],
    grid: Grid,
    look: Look,
    words: str,
    *,
    columns: int,
    top: float,
    bar: str,
    beneath: tuple[int, str] | None = None,
) -> tuple[go.Figure, int]:
    """Draw panels, the chosen gates outlined.

    Args:
        words: of the title. columns: panels beside each other.
        top: the end of the colour scale, which begins at 0. bar: its title.
        beneath: height in px and head of one more plot over the whole width, which is left empty.

    Returns:
        The figure, and the row of that plot.
    """
    across = min(columns, len(made))
    down = math.ceil(len(made) / across)
    wide = 105 // across  # characters
    heads = []
    for one in made:
        below = [part if len(part) <= wide else part.replace(", ", "<br>") for part in one.below]
        heads.append("<br>".join([_style.plain(shorten(one.name, 90 // across)), *below]))
    lines = max(head.count("<br>") for head in heads)
    between = _BETWEEN + _LINE * lines
    height = max(60, _ROW_PX * len(grid.rows))
    specs: list[list[Any]] = [[{} if r * across + c < len(made) else None for c in range(across)] for r in range(down)]
    if beneath is not None:
        specs.append([{"colspan": across}, *[None] * (across - 1)])
        heads.append(_style.plain(beneath[1]))
    figure = make_subplots(
        rows=len(specs), cols=across, specs=specs, subplot_titles=heads, figure=_style.new_figure(look, words)
    )
    figure.update_layout(meta={"panels": len(made)})
    x, y = np.arange(len(grid.columns)), np.arange(len(grid.rows))
    every = max(1, math.ceil(len(x) * across * _LABEL / _WIDTH))
    stacks: dict[str, list[int]] = {}
    for k, label in enumerate(grid.columns):
        stacks.setdefault(label.partition(".")[0], []).append(k)
    ticks = [k for stack, mine in stacks.items() if stack for k in mine[::every]]
    ticks = [k for k, after in zip(ticks, [*ticks[1:], math.inf], strict=True) if after - k >= every]
    across_axis = _style.named([grid.columns[k] for k in ticks], ticks, 9)
    down_axis = _style.named([_style.plain(row) for row in grid.rows], y, 8)
    for i, one in enumerate(made):
        at = {"row": i // across + 1, "col": i % across + 1}
        z, told = (np.full((len(y), len(x)), fill, dtype=kind) for fill, kind in ((np.nan, float), ("", object)))
        z[grid.row[one.cells], grid.col[one.cells]] = one.values
        told[grid.row[one.cells], grid.col[one.cells]] = one.told
        colours = {"colorscale": _style.SEQUENTIAL, "zmin": 0, "zmax": top, "hoverongaps": False}
        place = {"thickness": 10, "lenmode": "pixels", "len": 160, "y": 1, "yanchor": "top", "outlinewidth": 0}
        scale = {**place, "title": {"text": bar, "side": "top"}}
        trace = tiles(
            _style.plain(one.name), x, y, z, told, "%{customdata}", **colours, showscale=not i, colorbar=scale
        )
        figure.add_trace(trace.update(xgap=0.5, ygap=0.5), **at)
        selected = np.zeros(len(grid.row), dtype=bool)
        selected[one.cells[one.chosen]] = True
        edge_x, edge_y = outlines(grid, selected)
        figure.add_trace(cased(edge_x, edge_y, line={"color": _style.GROUND, "width": 3}), **at)
        figure.add_trace(_style.line(edge_x, edge_y, "chosen", _style.OUTLINE, 1.5, showlegend=False), **at)
        figure.update_xaxes(tickangle=0, **across_axis, **_style.BARE, **at)
        figure.update_yaxes(range=[len(y) - 0.5, -0.5], **down_axis, **_style.BARE, **at)
    for head in figure.layout.annotations:
        head.update(font={"size": 11}, yshift=2)
    gap = _BETWEEN if beneath is None else _BETWEEN + _LINE * beneath[1].count("<br>")
    inner = lay(figure, across, height, between, 0 if beneath is None else beneath[0], gap)
    more = _LINE * max(0, lines - 1)
    _style.place_top(figure, height=round(inner) + 130 + more, legend=False, heads=True)
    figure.update_layout(margin_t=figure.layout.margin.t + more)
    return figure, len(specs)


def lay(figure: go.Figure, across: int, height: float, between: float, beneath: float = 0, gap: float = 0) -> float:
    """Place the panels of a figure (`meta`: how many; "apart": each with an axis of its own) so many beside each other;
    rows are named at the left ones alone, axes titled where nothing is beneath.

    Args:
        height: of a panel. between: two rows of them. beneath: of the plot under them, if any. gap: above it. In px.

    Returns:
        The height of all, in px.
    """
    n, apart = figure.layout.meta["panels"], figure.layout.meta.get("apart", False)
    down = math.ceil(n / across)
    inner = down * height + (down - 1) * between + (gap + beneath if beneath else 0)
    x_axes, y_axes, heads = list(figure.select_xaxes()), list(figure.select_yaxes()), figure.layout.annotations
    space = _SPACE_APART if apart else _SPACE
    width = (1 - space * (across - 1)) / across
    title = x_axes[n - 1].title.text
    for i in range(n):
        row, column = divmod(i, across)
        left, top = column * (width + space), 1 - row * (height + between) / inner
        x_axes[i].domain = [left, min(1.0, left + width)]
        y_axes[i].domain = [max(0.0, top - height / inner), top]
        if apart:
            x_axes[i].title.text = title if i + across >= n else None
        else:
            y_axes[i].update(showticklabels=not column, automargin=not column)
        heads[i].update(x=left + width / 2, y=top)
    if beneath:
        x_axes[n].domain, y_axes[n].domain = [0, 1], [0, beneath / inner]
        heads[n].update(x=0.5, y=beneath / inner)
    return inner
