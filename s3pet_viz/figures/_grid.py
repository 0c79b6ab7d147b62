"""The grid of modules and layers that heatmaps draw gates on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from s3pet_viz.analysis.grid import column_order, row_order, rows_of
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.structure import Gate

ROW_PX = 21
_INSET = 0.45  # half the side of an outline, in cells
_RING = 2  # width of an outline, in px
#: What the legend calls gates that are chosen only because a likelier one did not fit.
FILLS = "fills the rest of the budget"
#: Of colours: what the number can be, what is drawn, or from here to there.
Scale = Literal["full", "own"] | tuple[float, float]


class Grid:
    """Where each gate of a search space is drawn.

    Attributes:
        rows: row labels, top to bottom, shape (n_rows,).
        columns: column labels, left to right, with "" for the gap between the stacks, shape (n_columns,).
        row, col: place of each gate, shape (n_gates,).
    """

    def __init__(self, gates: Sequence[Gate]) -> None:
        self.rows = row_order(gates)
        self.columns: list[str] = []
        for column in column_order(gates):
            if self.columns and self.columns[-1][0] != column[0]:
                self.columns.append("")
            self.columns.append(column)
        row_at = {label: i for i, label in enumerate(self.rows)}
        column_at = {label: i for i, label in enumerate(self.columns)}
        self.row = np.array([row_at[label] for label in rows_of(gates)], dtype=np.int64)
        self.col = np.array([column_at[g.column] for g in gates], dtype=np.int64)

    @property
    def stacks(self) -> dict[str, tuple[int, int]]:
        """First and last column of each stack, by its letter."""
        spans: dict[str, tuple[int, int]] = {}
        for at, label in enumerate(self.columns):
            if label:
                spans[label[0]] = (spans.get(label[0], (at, at))[0], at)
        return spans

    def spread(self, values: Any, fill: Any = np.nan, dtype: Any = float) -> np.ndarray:
        """Values of gates, shape (n_gates,), as (n_rows, n_columns); `fill` where there is no gate."""
        cells = np.full((len(self.rows), len(self.columns)), fill, dtype=dtype)
        cells[self.row, self.col] = values
        return cells

    def outlines(self, selected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and y of one broken line around every selected gate; both of shape (6 * n_selected,)."""
        corner_x = np.array([-1, 1, 1, -1, -1, np.nan]) * _INSET
        corner_y = np.array([-1, -1, 1, 1, -1, np.nan]) * _INSET
        x = self.col[selected][:, None] + corner_x
        y = self.row[selected][:, None] + corner_y
        return x.ravel(), y.ravel()


def cells(
    grid: Grid, values: Any, hover: Sequence[Sequence[str]], template: str, colorbar: str, **scale: Any
) -> go.Heatmap:
    """One coloured cell per gate; elsewhere nothing.

    Args:
        values: shape (n_gates,).
        hover: columns of text for `template`'s ``%{customdata[i]}``, each of shape (n_gates,).
        colorbar: its title.
        scale: colorscale, zmin, zmax, showscale, ...
    """
    return go.Heatmap(
        name="gates",
        x=np.arange(len(grid.columns)),
        y=np.arange(len(grid.rows)),
        z=grid.spread(values),
        customdata=np.stack([grid.spread(column, "", object) for column in hover], axis=-1),
        hovertemplate=template + "<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
        colorbar=bar(colorbar),
        **scale,
    )


def bar(title: str) -> dict[str, Any]:
    """A colour bar beside the plot."""
    return {
        # Plotly puts a title beside the bar over the numbers of the ticks; an empty first line moves it out.
        "title": {"text": f"<br>{title}", "side": "right", "font": {"size": 12}},
        "thickness": 12,
        "outlinewidth": 0,
        "len": 1,
        "y": 0.5,
        "x": 1.01,
        "ticks": "outside",
        "ticklen": 3,
    }


def outline(grid: Grid, selected: np.ndarray, name: str, colour: str = _style.OUTLINE, **more: Any) -> go.Scatter:
    """One trace around every selected gate, above its `casing`."""
    return ring(*grid.outlines(np.asarray(selected, dtype=bool)), name, colour, **more)


def casing(grid: Grid, selected: np.ndarray, **more: Any) -> go.Scatter:
    """Under the `outline` of these gates."""
    return cased(*grid.outlines(np.asarray(selected, dtype=bool)), **more)


def ring(x: np.ndarray, y: np.ndarray, name: str, colour: str = _style.OUTLINE, **more: Any) -> go.Scatter:
    """A broken line around cells, that is seen on each of them because it lies on a casing."""
    line = {"color": colour, "width": _RING, **more.pop("line", {})}
    return go.Scatter(x=x, y=y, mode="lines", name=name, line=line, hoverinfo="skip", showlegend=True, zorder=1, **more)


def cased(x: np.ndarray, y: np.ndarray, **more: Any) -> go.Scatter:
    """The casing of a ring: wider, and in the ground's colour, so that the ring is seen on dark and on pale cells."""
    line = {"color": _style.GROUND, "width": 2 * _RING}
    return go.Scatter(x=x, y=y, mode="lines", name="casing", line=line, hoverinfo="skip", showlegend=False, **more)


def add_chosen(
    figure: go.Figure, grid: Grid, selected: np.ndarray, fill: np.ndarray, name: str, **more: Any
) -> None:
    """Outline the chosen gates; those that only fill what is left of the budget by dots.

    Args:
        selected, fill: bool, shape (n_gates,); `fill` within `selected`.
        name: in the legend.
    """
    figure.add_trace(outline(grid, selected & ~fill, name, **more))
    if fill.any():
        figure.add_trace(outline(grid, fill, FILLS, line={"dash": "dot"}, **more))
    figure.add_trace(casing(grid, selected, **more))


def limits(scale: Scale, values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The ends of a colour scale.

    Args:
        scale: ``full``, ``own`` or the ends themselves.
        values: what is drawn; NaN where nothing is.
        low, high: of ``full``.

    Raises:
        ConfigError: `scale` is none of these.
    """
    if isinstance(scale, str) and scale in ("full", "own"):
        finite = np.asarray(values, dtype=float)[np.isfinite(values)]
        # Of equal values there is no range.
        if scale == "own" and len(finite) and finite.min() < finite.max():
            return float(finite.min()), float(finite.max())
        return low, high
    try:
        start, end = map(float, scale)
    except (TypeError, ValueError):
        start = end = np.nan
    if isinstance(scale, str) or not start < end:
        raise ConfigError(f"scale: expected 'full', 'own' or two numbers, the lower one first, found {scale!r}")
    return start, end


def axes(figure: go.Figure, grid: Grid) -> None:
    """Labels of rows and columns, the names of the stacks, and a height that the rows ask for."""
    n_rows, n_columns = len(grid.rows), len(grid.columns)
    at = [i for i, label in enumerate(grid.columns) if label]
    bare = {"showgrid": False, "showline": False, "ticks": "", "zeroline": False, "fixedrange": False}
    figure.update_xaxes(
        tickmode="array",
        tickvals=at,
        ticktext=[grid.columns[i] for i in at],
        # Upright labels need no width: 50 columns stay legible in a narrow notebook.
        tickangle=-90 if n_columns > 12 else 0,
        tickfont={"size": 11 if n_columns <= 40 else 9 if n_columns <= 48 else 8},
        range=[-0.5, n_columns - 0.5],
        **bare,
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(n_rows)),
        ticktext=[_style.plain(row) for row in grid.rows],
        tickfont={"size": 11},
        ticklabelstandoff=4,
        range=[n_rows - 0.5, -0.5],
        **bare,
    )
    heads = len(grid.stacks) > 1
    if heads:
        for letter, (first, last) in grid.stacks.items():
            figure.add_annotation(
                text={"E": "encoder", "D": "decoder"}.get(letter, letter),
                x=(first + last) / 2,
                y=1,
                yref="paper",
                yanchor="bottom",
                yshift=2,
                showarrow=False,
                font={"size": 12, "color": _style.INK},
            )
    _style.place_top(figure, height=max(260, 150 + ROW_PX * n_rows), heads=heads)
