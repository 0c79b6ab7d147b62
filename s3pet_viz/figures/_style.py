"""How every figure looks: one template, given to each figure and never set globally."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
import yaml

from s3pet_viz.figures._theme import Look
from s3pet_viz.resources import text_of

TEMPLATE = go.layout.Template(yaml.safe_load(text_of("figures", "template.yaml")))
INK: str = TEMPLATE.layout.font.color
MUTED = "#7b8794"
PALE = "#c3cbd3"
#: Of the figure, and of the casing that parts a ring from the cell under it.
GROUND: str = TEMPLATE.layout.paper_bgcolor
#: Of lines that are told apart.
CATEGORICAL: list[str] = list(TEMPLATE.layout.colorway)

#: Light to dark, so that it prints; one hue, so that colour blindness does not matter. The light end is
#: not white, which stands for 'no such gate'.
_BLUES = ("#e6eef7", "#bdd3e9", "#86b3d9", "#4a8cc2", "#1f5f9f", "#08306b")
SEQUENTIAL: list[tuple[float, str]] = list(zip((0.0, 0.2, 0.4, 0.6, 0.8, 1.0), _BLUES, strict=True))
REVERSED = [(round(1 - at, 2), colour) for at, colour in reversed(SEQUENTIAL)]
#: Below and above zero.
DIVERGING = [[0.0, "#7f3b08"], [0.25, "#e08214"], [0.5, "#f4f1ec"], [0.75, "#4a8cc2"], [1.0, "#08306b"]]
#: Two states: open, chosen.
BINARY = [[0.0, "#e6eef7"], [1.0, "#1f5f9f"]]
#: An axis of a grid of cells.
BARE: dict[str, Any] = {"showgrid": False, "showline": False, "ticks": ""}
#: Paired with blue for colour-blind readers; with a casing of the ground's colour it is seen on every cell.
OUTLINE = "#d9540b"

DASHES = ["solid", "dash", "dot", "dashdot"]

#: Characters of a title's line: 15 px text of that length fits a figure of 650 px.
TITLE_CHARS = 80


def new_figure(look: Look, words: str) -> go.Figure:
    """An empty figure with the template. Its title, these words unless `look` has another, is text, not mark-up, and
    wraps at its dots.
    """
    figure = go.Figure()
    figure.update_layout(template=TEMPLATE)
    title = look.get("title")
    if title := words if title is None else title:
        figure.update_layout(title={"text": wrap(title), "pad": {"t": 16, "l": 16}})
    return figure


def line(x: Any, y: Any, name: str, colour: str, width: float, *, hover: str = "", **more: Any) -> go.Scatter:
    """A line, which is hovered over where there is a text for it. `more`: of the trace; ``dash`` and ``shape`` of the
    line itself.
    """
    style = {"color": colour, "width": width} | {key: more.pop(key) for key in ("dash", "shape") if key in more}
    return go.Scatter(x=x, y=y, mode="lines", name=name, line=style, **_told(hover), **more)


def markers(x: Any, y: Any, name: str, look: dict[str, Any], *, hover: str = "", **more: Any) -> go.Scatter:
    """Markers, which are hovered over as a `line` is."""
    return go.Scatter(x=x, y=y, mode="markers", name=name, marker=look, **_told(hover), **more)


def _told(hover: str) -> dict[str, str]:
    return {"hovertemplate": f"{hover}<extra></extra>"} if hover else {"hoverinfo": "skip"}


def named(labels: Sequence[str], at: Any = None, size: float | None = 11, **more: Any) -> dict[str, Any]:
    """An axis with these labels, at 0, 1, 2, ... or at these places."""
    places = list(range(len(labels))) if at is None else list(at)
    font = {} if size is None else {"tickfont": {"size": size}}
    return {"tickmode": "array", "tickvals": places, "ticktext": list(labels), **font, **more}


def head(figure: go.Figure, text: str, x: float, **more: Any) -> None:
    """A word just above the plot."""
    place = {"x": x, "y": 1, "yref": "paper", "yanchor": "bottom", "yshift": 2, **more}
    figure.add_annotation(text=text, showarrow=False, font={"size": 12, "color": INK}, **place)


#: Mean width of a character, in parts of the font size.
CHAR = 0.55
#: Height of a legend's row: plotly gives it 16 px and 3 between, at fonts up to 12 px.
LEGEND_ROW = 19.0
#: What a figure on the screen has for its legend at least, in px.
_LEGEND_WIDTH = 760.0


def legend_rows(names: Sequence[str], width: float, size: float = 12) -> int:
    """Rows of a horizontal legend within so many px; once it wraps, plotly gives every entry the widest one's width."""
    widths = [CHAR * size * len(name) + 40 for name in names]
    if sum(widths) <= width:
        return 1
    return math.ceil(len(names) / max(1, int(width / max(widths))))


def place_top(
    figure: go.Figure, *, height: int, legend: bool = True, heads: bool = False, names: Sequence[str] = ()
) -> None:
    """Stack title, legend (of these names, where one row may not hold them) and column heads above the plot, so that
    they cannot overlap at any width; the whole figure gets this height, in px.
    """
    text = figure.layout.title.text or ""
    top = 43 + 14 * text.count("<br>") if text else 10
    if legend:
        place = {"orientation": "h", "x": 0, "xanchor": "left", "yref": "container", "yanchor": "top"}
        look = {"y": 1 - top / height, "font": {"size": 12}, "itemsizing": "trace", "tracegroupgap": 0}
        figure.update_layout(showlegend=True, legend={**place, **look})
        top += 26 + round(LEGEND_ROW) * (legend_rows(names, _LEGEND_WIDTH) - 1)
    figure.update_layout(height=height, margin={"t": top + (24 if heads else 8), "b": 56})


def wrap(title: str, width: int = TITLE_CHARS) -> str:
    """Break a title between its parts (" · ") into lines of at most about `width` characters."""
    lines = [""]
    for part in title.split(" · "):
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(longer) > width and lines[-1]:
            lines.append(part)
        else:
            lines[-1] = longer
    return "<br>".join(lines)


def plain(text: object) -> str:
    """Text from outside (a run's name), safe in plotly labels, which understand some HTML."""
    return html.escape(str(text), quote=False)
