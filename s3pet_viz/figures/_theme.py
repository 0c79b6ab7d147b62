"""The dark theme: each colour of the light one has its counterpart; a figure is drawn light and then recoloured."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, TypedDict, get_args

import plotly.graph_objects as go
import yaml

from s3pet_viz.config.checks import among
from s3pet_viz.resources import text_of

Theme = Literal["light", "dark"]
P = ParamSpec("P")

#: Light to dark, one to one. Scales that grow darker on white grow brighter on black; the ground is JupyterLab's.
DARK: dict[str, str] = yaml.safe_load(text_of("figures", "dark.yaml"))
LIGHT = {dark: light for light, dark in DARK.items()}


class Look(TypedDict, total=False):
    """What every figure function takes as ``**look``: a title in place of its own, and the theme."""

    title: str | None
    theme: Theme


def themed(draw: Callable[P, go.Figure]) -> Callable[P, go.Figure]:
    """A figure function whose `Look` stands in its signature, and whose theme is obeyed: checked before anything is
    drawn, and put on the result.
    """
    own = inspect.signature(draw)
    named = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
    title = inspect.Parameter("title", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="str | None")
    theme = title.replace(name="theme", default="light", annotation="Theme")
    signature = own.replace(parameters=[*named, title, theme])

    @functools.wraps(draw)
    def drawn(*args: P.args, **options: P.kwargs) -> go.Figure:
        signature.bind(*args, **options)  # refuses a keyword that is none of these
        theme = among("theme", options.get("theme", "light"), get_args(Theme))
        figure = draw(*args, **options)
        return darkened(figure) if theme == "dark" else figure

    drawn.__signature__ = signature  # type: ignore[attr-defined]
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
