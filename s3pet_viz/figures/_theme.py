"""The dark theme: each colour of the light one has its counterpart; a figure is drawn light and then recoloured."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, get_args

import plotly.graph_objects as go

from s3pet_viz.config.checks import among

Theme = Literal["light", "dark"]
P = ParamSpec("P")

#: Light to dark, one to one. Scales that grow darker on white grow brighter on black; the ground is JupyterLab's.
DARK = {
    "white": "#111111",
    "#1f2933": "#e4e8ec",
    "#7b8794": "#98a4b0",
    "#e8ecf0": "#2a2f35",
    "#9aa5b1": "#5f6b77",
    "#c3cbd3": "#434c56",
    # Sequential; its ends and its middle are the diverging scale's, too.
    "#e6eef7": "#1c2733",
    "#bdd3e9": "#1f4068",
    "#86b3d9": "#2a66a6",
    "#4a8cc2": "#3f8ad0",
    "#1f5f9f": "#7fb8ec",
    "#08306b": "#d7ebff",
    "#7f3b08": "#ffd9a8",
    "#e08214": "#c9761a",
    "#f4f1ec": "#23262a",
    "#d3e2f1": "#2b4057",
    "#d9540b": "#ff8c42",
    # Categorical.
    "#0072b2": "#3d9be0",
    "#d55e00": "#f0853a",
    "#009e73": "#2fc79b",
    "#cc79a7": "#e29cc4",
    "#56b4e9": "#9fd8fa",
    "#e69f00": "#f3bd4a",
    "#000000": "#f5f5f5",
    "#a89a00": "#cdbf2e",
}
LIGHT = {dark: light for light, dark in DARK.items()}


def themed(draw: Callable[P, go.Figure]) -> Callable[P, go.Figure]:
    """A figure function whose keyword `theme` is obeyed: checked before anything is drawn, and put on the result."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **options: P.kwargs) -> go.Figure:
        theme = among("theme", options.get("theme", "light"), get_args(Theme))
        figure = draw(*args, **options)
        return darkened(figure) if theme == "dark" else figure

    return drawn


def darkened(figure: go.Figure) -> go.Figure:
    """The figure itself, in the dark theme."""
    figure.layout.template = recoloured(figure.layout.template.to_plotly_json(), DARK)
    for trace in figure.data:
        trace.update(_colours(trace.to_plotly_json(), DARK))
    layout = figure.layout.to_plotly_json()
    layout.pop("template", None)
    figure.update_layout(_colours(layout, DARK))
    return figure


def recoloured(node: Any, colours: Mapping[str, str], inside: bool = False) -> Any:
    """A copy of a figure's JSON form, or of a part, with each colour exchanged where it is one of these. `inside`:
    whether the node is the value of a key that names a colour; texts elsewhere stay as they are.
    """
    if isinstance(node, dict):
        return {key: recoloured(value, colours, "color" in key) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [recoloured(value, colours, inside) for value in node]
    return colours.get(node.lower(), node) if inside and isinstance(node, str) else node


def _colours(node: dict[str, Any], colours: Mapping[str, str]) -> dict[str, Any]:
    """What `recoloured` changes, and no more: data are not to be checked again."""
    changed: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            if part := _colours(value, colours):
                changed[key] = part
        elif "color" in key:
            changed[key] = recoloured(value, colours, inside=True)
        elif isinstance(value, (list, tuple)) and any(isinstance(part, dict) for part in value):
            changed[key] = [_colours(part, colours) for part in value]
    return changed
