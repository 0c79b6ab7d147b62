"""The grid of modules and layers that heatmaps draw gates on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from s3pet_viz.analysis.grid import Grid
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.structure import Gate

ROW_PX = 21
_INSET = 0.45  # half the side of an outline, in cells
_RING = 2  # width of an outline, in px
#: px: what a figure is at least wide, and may be made at most; a font that can still be read.
_NARROW, _WIDE, _READABLE = 760, 1600, 7.0
_CELLS = {**_style.BARE, "zeroline": False, "fixedrange": False}
#: What the legend calls gates that are chosen only because a likelier one did not fit.
FILLS = "fills the rest of the budget"
#: What the legend calls gates that were left out of the search.
INERT = "cannot help"
#: What it calls those that were pinned, and the sign that they bear.
PINNED_IN, PINNED_OUT = "pinned in by hand", "pinned out by hand"
#: Of colours: what the number can be, what is drawn, or from here to there.
Scale = Literal["full", "own"] | tuple[float, float]


def outlines(grid: Grid, selected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and y of one broken line around every selected gate; both of shape (6 * n_selected,)."""
    return squares(grid.col[selected], grid.row[selected], _INSET)


def squares(x: np.ndarray, y: np.ndarray, half: float) -> tuple[np.ndarray, np.ndarray]:
    """One broken line around squares with these centres and half sides; x and y, both of shape (6 * n,)."""
    corner_x, corner_y = np.array([-1, 1, 1, -1, -1, np.nan]), np.array([-1, -1, 1, 1, -1, np.nan])
    return (x[:, None] + corner_x * half).ravel(), (y[:, None] + corner_y * half).ravel()


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
    told = np.stack([grid.spread(column, "", object) for column in hover], axis=-1)
    x, y = np.arange(len(grid.columns)), np.arange(len(grid.rows))
    look = {"hoverongaps": False, "colorbar": bar(colorbar), **scale}
    return tiles("gates", x, y, grid.spread(values), told, template, **look)


def tiles(name: str, x: Any, y: Any, z: Any, told: Any, template: str, **more: Any) -> go.Heatmap:
    """Coloured cells with a gap between them, and what is said of each on hovering (``%{customdata[i]}``)."""
    text = template + "<extra></extra>"
    return go.Heatmap(name=name, x=x, y=y, z=z, customdata=told, hovertemplate=text, xgap=1, ygap=1, **more)


def bar(title: str) -> dict[str, Any]:
    """A colour bar beside the plot."""
    # Plotly puts a title beside the bar over the numbers of the ticks; an empty first line moves it out.
    words = {"text": f"<br>{title}", "side": "right", "font": {"size": 12}}
    place = {"len": 1, "y": 0.5, "x": 1.01}
    return {"title": words, "thickness": 12, "outlinewidth": 0, **place, "ticks": "outside", "ticklen": 3}


def ring(x: np.ndarray, y: np.ndarray, name: str, colour: str = _style.OUTLINE, **more: Any) -> go.Scatter:
    """A broken line around cells, that is seen on each of them because it lies on a casing."""
    line = {"color": colour, "width": _RING, **more.pop("line", {})}
    return go.Scatter(x=x, y=y, mode="lines", name=name, line=line, hoverinfo="skip", showlegend=True, zorder=1, **more)


def cased(x: np.ndarray, y: np.ndarray, **more: Any) -> go.Scatter:
    """The casing of a ring: wider, and in the ground's colour, so that the ring is seen on dark and on pale cells."""
    line = more.pop("line", {"color": _style.GROUND, "width": 2 * _RING})
    return go.Scatter(x=x, y=y, mode="lines", name="casing", line=line, hoverinfo="skip", showlegend=False, **more)


def add_chosen(figure: go.Figure, grid: Grid, selected: np.ndarray, fill: np.ndarray, name: str, **more: Any) -> None:
    """Outline the chosen gates; those of `fill`, which only fill what is left of the budget, by dots."""
    figure.add_trace(ring(*outlines(grid, selected & ~fill), name, **more))
    if fill.any():
        figure.add_trace(ring(*outlines(grid, fill), FILLS, line={"dash": "dot"}, **more))
    figure.add_trace(cased(*outlines(grid, selected), **more))


def add_inert(figure: go.Figure, grid: Grid, inert: Sequence[Gate]) -> None:
    """Hatch the cells of gates that cannot help."""
    if not inert:
        return
    rows, columns = grid.inert
    figure.add_trace(hatched(columns, rows, INERT))
    names = [[_style.plain(f"{g.column} {g.row}"), _style.plain(g.position)] for g in inert]
    look = {"size": 14, "opacity": 0, "color": _style.MUTED}
    told = "<b>%{customdata[0]}</b> · left out<br>%{customdata[1]}<br>whatever its weights are, the output is the same"
    figure.add_trace(_style.markers(columns, rows, "inert", look, hover=told, customdata=names, showlegend=False))


def add_pinned(figure: go.Figure, grid: Grid, inside: Sequence[Gate], outside: Sequence[Gate]) -> None:
    """Mark the cells of gates that were pinned: a small square on those in, a small cross on those out. Gates of the
    grid's `pinned`, those in first.
    """
    rows, columns = grid.pinned
    sides = ((PINNED_IN, inside, "square", slice(0, len(inside))), (PINNED_OUT, outside, "x", slice(len(inside), None)))
    for name, gates, symbol, at in sides:
        if not gates:
            continue
        told = [[_style.plain(f"{g.label}"), _style.plain(g.position), f"{g.n_params:,}"] for g in gates]
        look = {"symbol": symbol, "size": 7, "color": _style.INK, "line": {"color": _style.GROUND, "width": 1}}
        hover = (
            f"<b>%{{customdata[0]}}</b> · {name}<br>%{{customdata[1]}}<br>%{{customdata[2]}} parameters<br>not searched"
        )
        more = {"customdata": told, "showlegend": True, "zorder": 2}
        figure.add_trace(_style.markers(columns[at], rows[at], name, look, hover=hover, **more))


def fitted(grid: Grid, texts: Sequence[str]) -> tuple[float, float | None]:
    """The font size at which the longest of these texts fits a cell, 0 where none does that can be read; and the width
    that the figure needs for it, None for any.
    """
    longest = max((len(text) for text in texts), default=1) or 1
    beside = 60 + 7 * max(len(row) for row in grid.rows) + 90  # labels, and the colour bar

    def size(width: float) -> float:
        return min(11.0, ((width - beside) / len(grid.columns) - 2) / (_style.CHAR * longest))

    if size(_NARROW) >= _READABLE:
        return size(_NARROW), None
    width = beside + len(grid.columns) * (2 + _style.CHAR * longest * _READABLE)
    return (_READABLE, math.ceil(width)) if width <= _WIDE else (0.0, None)


def letters(grid: Grid, letter: str, size: float) -> go.Scatter:
    """A letter on each cell of a gate that cannot help."""
    rows, columns = grid.inert
    font = {"size": max(size, 10), "color": _style.INK}
    ground = {"symbol": "square", "size": 11, "color": _style.GROUND}
    look = {"mode": "markers+text", "marker": ground, "text": [f"<b>{letter}</b>"] * len(rows), "textfont": font}
    hidden = {"hoverinfo": "skip", "showlegend": False}
    return go.Scatter(x=columns, y=rows, name="inert, named", zorder=3, **look, **hidden)


def hatched(columns: np.ndarray, rows: np.ndarray, name: str, strokes: int = 7, **more: Any) -> go.Scatter:
    """Parallel strokes over these cells, from the lower left to the upper right of each."""
    # In units of a cell's side, and as far from each other as from the corners.
    reach = (strokes - 1) / (strokes + 1)
    ends = [(max(0, o), max(0, -o), 1 + min(0, o), 1 - max(0, o)) for o in np.linspace(-1, 1, strokes) * reach]
    x, y = (
        np.stack([place + sign * (0.84 * at - 0.42) for stroke in ends for at in (*stroke[k::2], np.nan)], axis=1)
        for place, sign, k in ((columns, 1, 0), (rows, -1, 1))
    )
    line = {"color": _style.MUTED, "width": 1}
    look = {"mode": "lines", "line": line, "hoverinfo": "skip", "showlegend": True, **more}
    return go.Scatter(x=x.ravel(), y=y.ravel(), name=name, **look)


def limits(scale: Scale, values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The ends of a colour scale for these values (NaN where nothing is drawn); low and high are those of ``full``.
    Raises ConfigError where `scale` is none of its kinds.
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
    figure.update_xaxes(
        # Upright labels need no width: 50 columns stay legible in a narrow notebook.
        tickangle=-90 if n_columns > 12 else 0,
        range=[-0.5, n_columns - 0.5],
        **_style.named([grid.columns[i] for i in at], at, 11 if n_columns <= 40 else 9 if n_columns <= 48 else 8),
        **_CELLS,
    )
    rows = _style.named([_style.plain(row) for row in grid.rows], ticklabelstandoff=4)
    figure.update_yaxes(range=[n_rows - 0.5, -0.5], **rows, **_CELLS)
    heads = len(grid.stacks) > 1
    if heads:
        for letter, (first, last) in grid.stacks.items():
            _style.head(figure, {"E": "encoder", "D": "decoder"}.get(letter, letter), (first + last) / 2)
    _style.place_top(figure, height=max(260, 150 + ROW_PX * n_rows), heads=heads)
