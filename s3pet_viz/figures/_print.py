"""A figure as a paper needs it: fonts of at least 7 pt at its final width, white ground, nothing that overlaps.

Lengths are CSS pixels of 1/96 inch, in which Chrome writes PNG (at scale 1), SVG and PDF.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
import textwrap
import warnings
from typing import Any

import numpy as np
import plotly.graph_objects as go

from s3pet_viz.figures import _style
from s3pet_viz.figures._panels import lay
from s3pet_viz.figures._theme import LIGHT, recoloured

PX_PER_MM = 96 / 25.4
#: Smallest, usual and largest font: 7.25, 7.5 and 9 pt, in px. Chrome shrinks a PDF by 3 %, so that 7 pt are left.
SMALLEST, USUAL, LARGEST = 7.25 * 96 / 72, 10.0, 12.0
#: A figure narrower than this has its legend and colour bar below the plot.
NARROW_MM = 120.0

#: A paper's plot beside the screen's: fonts 12 -> 10 px, lines and heights with them.
_FONTS, _LINES, _HEIGHT = 10 / 12, 0.75, 0.68
_LEAST_PLOT = 110.0
#: Height of a sheet of A4: taller plots fit no page.
_PAGE_MM = 297.0
_TAG = re.compile("</?[a-z]+>")
_NUMBERED = re.compile(r"\w\.\d+")  # `column_label`; a task may be called sst2


def printed(figure: go.Figure, width_mm: float, *, title: bool = False) -> go.Figure:
    """A copy of a figure in print style.

    Args:
        width_mm: final width; a paper's column has about 85 mm, a page 178.
        title: keep the title; a paper's caption says it otherwise.
    """
    width, narrow = width_mm * PX_PER_MM, width_mm < NARROW_MM
    # On paper a dark figure is a light one.
    data = [_smaller(recoloured(copy.deepcopy(trace.to_plotly_json()), LIGHT)) for trace in figure.data]
    layout = _smaller(recoloured(copy.deepcopy(figure.layout.to_plotly_json()), LIGHT))
    layout.pop("sliders", None)
    layout.pop("updatemenus", None)
    layout.setdefault("font", {}).setdefault("size", USUAL)
    layout.update(paper_bgcolor="white", plot_bgcolor="white", width=round(width), autosize=False)

    made = go.Figure(data=data, layout=layout)
    for axis in (*made.select_xaxes(), *made.select_yaxes()):
        axis.title.font.size = axis.title.font.size or USUAL
    top = _title(made, width, title)
    bar = _bar_below(made) if narrow and _panels(made) else 0.0
    of_panels = _lay_panels(made, width) if _panels(made) else None
    _turn_ticks(made, width)
    _wrap_axis_titles(made, width)
    bottom = 8.0 + _axis_height(made)
    legend: dict[str, Any] = {}
    if _legend_names(made):
        rows = _legend_height(made, width)
        beside = made.layout.legend
        if beside.orientation == "h" and (beside.y is None or beside.y > 0.5):
            legend = {"yref": "container", "yanchor": "top", "xref": "container", "x": 0, "xanchor": "left"}
            at, top = top, top + rows
        elif narrow and beside.orientation != "h":
            legend = {"orientation": "h", "xref": "container", "x": 0, "xanchor": "left", "title": {"side": "top"}}
            legend |= {"yref": "container", "y": 0, "yanchor": "bottom"}
            bottom += rows
    if narrow and legend.get("y") != 0:
        bottom += bar or _bar_below(made)
    above = [note.text or "" for note in made.layout.annotations if note.yref == "paper" and (note.y or 0) >= 1]
    if above:  # names of the stacks, heads of panels
        top += 4 + 12 * max(1 + text.count("<br>") for text in above)
    made.update_layout(legend={**legend, "itemsizing": "trace"})
    height = round(top + bottom + (_plot_height(figure, made) if of_panels is None else of_panels))
    if legend.get("yanchor") == "top":
        made.layout.legend.y = 1 - at / height
    made.update_layout(height=height, margin={"t": top, "b": bottom, "l": 40, "r": 8})
    _thin_ticks(made, width)
    _fit_texts(made, width)
    _fit_marks(made, width)
    return made


def _panels(figure: go.Figure) -> int:
    """How many small plots a figure has (`_panels.panels`, or apart); 0 of other figures."""
    return int((figure.layout.meta or {}).get("panels", 0))


def _lay_panels(made: go.Figure, width: float) -> float:
    """Small plots as many beside each other as their heads allow, else beneath; returns the height of the plot."""
    n, apart = _panels(made), made.layout.meta.get("apart", False)
    room = width - 30 if apart else _room(made, width)  # each with an axis of its own: a head may stand over its labels
    heads = made.layout.annotations[:n]
    lines = [_TAG.sub("", line) for one in heads for line in (one.text or "").split("<br>")]
    size = heads[0].font.size or USUAL
    starts = {round(axis.domain[0], 6) for axis in list(made.select_xaxes())[:n]}
    need = max(_LEAST_PLOT, _style.CHAR * size * max(map(len, lines)))
    across = max(1, min(len(starts), int(room / need)))
    axis, last = next(iter(made.select_yaxes())), list(made.select_yaxes())[n:]
    rows = len(axis.tickvals or ())
    height = max(_LEAST_PLOT / 2, 1.25 * (axis.tickfont.size or USUAL) * rows) if rows else _LEAST_PLOT
    labels = 1.4 * USUAL
    between = labels + 1.35 * size * max((one.text or "").count("<br>") + 1 for one in heads) + (12 if apart else 6)
    beneath = 2.6 * USUAL * len(last[0].tickvals) if last else 0.0
    gap = labels + 1.35 * size + 12
    inner = lay(made, across, height, between, beneath, gap)
    if inner > _PAGE_MM * PX_PER_MM and int(room / need) > across:  # more beside each other than on a screen
        inner = lay(made, int(room / need), height, between, beneath, gap)
    if inner > _PAGE_MM * PX_PER_MM:
        across = len({round(axis.domain[0], 6) for axis in list(made.select_xaxes())[:n]})
        fit = across * max(1, int((_PAGE_MM * PX_PER_MM - beneath - gap + between) / (height + between)))
        warnings.warn(
            f"{n} panels are {inner / PX_PER_MM:.0f} mm tall in {width / PX_PER_MM:.0f} mm: a page (A4) holds {fit}; "
            "draw them in parts, or give a larger width_mm",
            stacklevel=4,
        )
    return inner


def _turn_ticks(figure: go.Figure, width: float) -> None:
    """Names of columns that are too long to stand beside each other are turned, as long as they fit so: those of a
    matrix, of which none can be left out. Numbered ones (E.0, E.1) are thinned."""
    for axis in figure.select_xaxes():
        labels, at = axis.ticktext, axis.tickvals
        if labels is None or at is None or len(labels) < 2 or any(_NUMBERED.fullmatch(str(one)) for one in labels):
            continue
        low, high = axis.domain or (0, 1)
        pitch = _room(figure, width) * (high - low) / len(labels)
        size = axis.tickfont.size or USUAL
        longest = max(len(line) for label in labels for line in str(label).split("<br>"))
        if _style.CHAR * size * longest + 4 > pitch >= 1.1 * size:
            axis.update(tickangle=-90)


def _smaller(node: Any) -> Any:
    """Fonts, lines and markers of a figure's JSON form in print size; changed in place."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if isinstance(key, str) and key.endswith("font") and isinstance(value, dict):
            size = value.get("size")
            if isinstance(size, (int, float)):
                value["size"] = min(max(size * _FONTS, SMALLEST), LARGEST)
        elif key == "line" and isinstance(value, dict) and isinstance(value.get("width"), (int, float)):
            value["width"] = max(value["width"] * _LINES, 0.5) if value["width"] else 0
        elif key == "marker" and isinstance(value, dict) and isinstance(value.get("size"), (int, float)):
            value["size"] *= _LINES
        if isinstance(value, (dict, list)):
            _smaller(value)
    return node


def _title(figure: go.Figure, width: float, keep: bool) -> float:
    """Wrap the title anew, or drop it; returns the height above the plot that it takes."""
    text = figure.layout.title.text or ""
    if not (keep and text):
        figure.update_layout(title=None)
        return 6.0
    size = figure.layout.title.font.size or LARGEST
    text = _style.wrap(text.replace("<br>", " · "), max(24, int(width / (_style.CHAR * size))))
    figure.update_layout(title={"text": text, "pad": {"t": 4, "l": 4}, "font": {"size": size}})
    return 1.35 * size * (text.count("<br>") + 1) + 10


def _axis_height(figure: go.Figure) -> float:
    """What the lowest axis needs: labels and title."""
    deepest = 0.0
    for axis in figure.select_xaxes():
        size = axis.tickfont.size or USUAL
        labels = [str(label) for label in axis.ticktext] if axis.ticktext is not None else []
        upright = axis.tickangle in (90, -90)
        need = _style.CHAR * size * max(map(len, labels), default=0) if upright else 1.2 * size
        deepest = max(deepest, need + 6 + _title_height(axis.title.text))
    return deepest


def _title_height(text: str | None) -> float:
    return (0.5 + 1.3 * (text.count("<br>") + 1)) * USUAL if text else 0.0


def _wrap_axis_titles(figure: go.Figure, width: float) -> None:
    """Break titles of x axes that are wider than their axis: they stand at its middle, and would leave the page."""
    room = _room(figure, width)
    for axis in figure.select_xaxes():
        low, high = axis.domain or (0, 1)
        most = max(12, int(room * (high - low) / (_style.CHAR * (axis.title.font.size or USUAL))))
        if axis.title.text and "<" not in axis.title.text and len(axis.title.text) > most:
            axis.title.text = "<br>".join(textwrap.wrap(axis.title.text, most))


def _legend_names(figure: go.Figure) -> list[str]:
    if figure.layout.showlegend is False:
        return []
    shown = [t for t in figure.data if t.visible is not False and t.showlegend is not False]
    return [t.name or "" for t in shown if t.type != "heatmap" or t.showlegend]  # a heatmap is in none by itself


def _legend_height(figure: go.Figure, width: float) -> float:
    """Height of a horizontal legend."""
    names = _legend_names(figure)
    size = figure.layout.legend.font.size or USUAL
    titled = 1.3 * size if figure.layout.legend.title.text else 0
    return _style.legend_rows(names, width - 16, size) * _style.LEGEND_ROW + titled + 4


def _bar_below(figure: go.Figure) -> float:
    """Lay a single colour bar under the plot, where a narrow figure has room for it; returns its height."""
    bars = [t for t in figure.data if t.type == "heatmap" and t.showscale is not False]
    if len(bars) != 1 or (len(list(figure.select_xaxes())) > 1 and not _panels(figure)):
        return 0.0
    place = {"orientation": "h", "x": 0.5, "xanchor": "center", "yref": "container", "y": 0, "yanchor": "bottom"}
    bars[0].update(
        colorbar={**place, "len": 1, "lenmode": "fraction", "thickness": 7, "ypad": 2, "title": {"side": "bottom"}}
    )
    return 40.0


def _plot_height(figure: go.Figure, made: go.Figure) -> float:
    """Of the plot alone: less than on a screen, but row labels, axis titles and a legend beside it keep their room."""
    layout = figure.layout
    margin = layout.margin.to_plotly_json()
    template = layout.template.layout.margin.to_plotly_json() if layout.template else {}
    edges = sum(margin.get(side, template.get(side, default)) for side, default in (("t", 64), ("b", 48)))
    height = max(_LEAST_PLOT, ((layout.height or 450) - edges) * _HEIGHT)
    for axis in made.select_yaxes():
        low, high = axis.domain or (0, 1)
        if axis.tickvals is not None and axis.ticktext is not None:
            height = max(height, len(axis.tickvals) * 1.25 * (axis.tickfont.size or USUAL) / (high - low))
        height = max(height, _style.CHAR * USUAL * len(axis.title.text or "") / (high - low))
    if made.layout.legend.orientation != "h":
        height = max(height, _style.LEGEND_ROW * (len(_legend_names(made)) + 1))
    return height


def _thin_ticks(figure: go.Figure, width: float) -> None:
    """Where named columns are closer than their labels need, name every second, third, ... of each group."""
    room = _room(figure, width)
    for axis in figure.select_xaxes():
        labels, at = axis.ticktext, axis.tickvals
        if labels is None or at is None or len(labels) < 2 or any(isinstance(v, str) for v in at):
            continue
        low, high = axis.domain or (0, 1)
        span = abs(axis.range[1] - axis.range[0]) if axis.range else max(at) - min(at) + 1
        pitch = room * (high - low) / span
        size = axis.tickfont.size or USUAL
        stacks = [str(label).partition(".")[0] for label in labels]
        upright = axis.tickangle in (90, -90)
        need = 1.1 * size if upright else _style.CHAR * size * max(map(len, labels)) + 4
        stride = math.ceil(need / (pitch * float(np.median(np.diff(at)))))  # some may be left out already
        if stride < 2:
            continue
        group = np.cumsum([a != b for a, b in itertools.pairwise([stacks[0], *stacks])])
        kept = np.flatnonzero((np.arange(len(at)) - np.searchsorted(group, group)) % stride == 0)
        clear = np.diff(np.asarray(at, dtype=float)[kept], append=np.inf) * pitch >= need  # of the next stack's first
        axis.update(tickvals=[at[i] for i in kept[clear]], ticktext=[labels[i] for i in kept[clear]])


def _room(figure: go.Figure, width: float) -> float:
    """Width of the plot, beside its row labels and a colour bar."""
    y_labels = [len(label) for axis in figure.select_yaxes() for label in axis.ticktext or ()]
    room = width - 24 - _style.CHAR * USUAL * max(y_labels, default=6)
    bars = any(t.type == "heatmap" and t.showscale is not False and t.colorbar.orientation != "h" for t in figure.data)
    titles = any(axis.title.text for axis in figure.select_yaxes())
    return room - 60 * bars - 1.6 * USUAL * titles


def _fit_marks(figure: go.Figure, width: float) -> None:
    """Outlines and marks on the cells of a gate grid no larger than narrow cells allow: their colours stay in sight."""
    grids = {
        t.xaxis or "x": len(t.x) for t in figure.data if t.type == "heatmap" and (t.name == "gates" or _panels(figure))
    }
    for trace in figure.data:
        if trace.type != "scatter" or (trace.xaxis or "x") not in grids:
            continue
        low, high = figure.layout["xaxis" + (trace.xaxis or "x")[1:]].domain or (0, 1)
        pitch = _room(figure, width) * (high - low) / grids[trace.xaxis or "x"]
        if trace.mode == "markers" and isinstance(trace.marker.size, (int, float)):
            if trace.marker.size > 0.7 * pitch:
                figure.layout.legend.itemsizing = "constant"
                trace.marker.update(size=max(2.0, 0.7 * pitch), line={"width": 0})
        elif trace.line.width:
            share = 0.4 if trace.line.color == _style.GROUND else 0.2  # the casing is under the outline
            trace.line.width = min(trace.line.width, max(0.75, share * pitch))


def _fit_texts(figure: go.Figure, width: float) -> None:
    """Leave the text of a gate grid's cells out, with a warning, where it does not fit them at the smallest font."""
    for trace in figure.data:
        if trace.type != "heatmap" or trace.name != "gates" or trace.text is None:
            continue
        longest = max((len(str(text)) for row in trace.text for text in row), default=0)
        pitch = _room(figure, width) / len(trace.x)
        if longest and pitch < _style.CHAR * SMALLEST * longest:
            trace.update(text=None, texttemplate=None)
            warnings.warn(
                f"the text of the cells is left out: {longest} characters of 7 pt do not fit {len(trace.x)} columns "
                f"in {width / PX_PER_MM:.0f} mm; give width_mm, or style='screen'",
                stacklevel=4,
            )
