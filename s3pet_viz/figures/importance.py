"""What each chosen gate is worth, beside the p that the search gave it."""

from __future__ import annotations

import os
from typing import Any, Unpack

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.analysis.explanation import NOISE, Explanation, shown
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.runs import Run

ExplanationLike = Explanation | Run | str | os.PathLike[str]

_CLEAR, _NOISE_FILL, _P = "#4a8cc2", "#d3e2f1", _style.MUTED
_ROW_PX = 22
#: The left panel's share of the width, and where the right one begins.
_LEFT, _RIGHT = 0.66, 0.7


def importance_table(explanation: ExplanationLike, *, top: int | None = None) -> pd.DataFrame:
    """The numbers behind `importance`, one row per gate, the largest loss increase first.

    Columns: those of `Explanation.table`, and name (``E.3 FFN · LoRA``) and clear (the loss moves by more than 2
    standard errors).

    Args:
        explanation: an `Explanation`, its file, a run that has one, or the run's path.
        top: only so many gates, those whose loss moves most, up or down. None: all.

    Raises:
        RunError: no such file or run, the run is not explained yet, or the file is damaged.
        ConfigError: `top` below 1.
    """
    if top is not None and top < 1:
        raise ConfigError(f"top: expected 1 or more, found {top}")
    source = _opened(explanation)
    table = source.table
    table.insert(1, "name", table["column"] + " " + table["row"])
    table["clear"] = [e.clear for e in source.effects]
    if top is not None:
        order = np.argsort(-table["loss_increase"].abs().to_numpy(), kind="stable")
        table = table.iloc[np.sort(order[:top])]
    return table.sort_values("loss_increase", ascending=False, kind="stable", ignore_index=True)


@themed
def importance(explanation: ExplanationLike, *, top: int | None = 40, **look: Unpack[Look]) -> go.Figure:
    """Draw how much the validation loss rises without each gate, beside the p of the same gates.

    Left: the mean rise with one standard error to either side; strong where it is more than 2 standard errors from
    zero, pale where that may be noise; diamonds mark the gradient estimate of the same. Right: p. If p says which
    gates matter, both panels fall from top to bottom.

    Args:
        explanation, top: as `importance_table`; the title says when gates are left out.
        title: instead of task, backbone and rank correlation. theme: ``light`` or ``dark``.

    Returns:
        A figure with the traces "over 2 standard errors", "may be noise", "gradient estimate" and, where p is known,
        "p".
    """
    source = _opened(explanation)
    table = importance_table(source, top=top)
    with_p = bool(table["p"].notna().any())
    names = [_style.plain(name) for name in table["name"]]
    places = np.arange(len(table))

    figure = _style.new_figure(look, _title(source, len(table)))
    numbers = {"p": ".4g", "rank": ".0f", "loss_increase": "+.5f", "loss_increase_se": ".5f"}
    numbers |= {"metric_change": "+.4f", "gradient": "+.5f"}
    words = [names, [_style.plain(p) for p in table["position"]], [f"{n:,}" for n in table["n_params"]]]
    words += [[shown(v, form) for v in table[name]] for name, form in numbers.items()]
    hover = np.array(words, dtype=object).T.reshape(len(table), len(words))
    text = (
        "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]} parameters   p = %{customdata[3]}   "
        "rank %{customdata[4]}<br>without it: loss %{customdata[5]} ± %{customdata[6]} "
        f"{_style.plain(source.unit)}, score %{{customdata[7]}}<br>gradient estimate %{{customdata[8]}}"
    )
    clear = table["clear"].to_numpy(dtype=bool)
    for name, mask, colour in (
        (f"over {NOISE:g} standard errors", clear, _CLEAR),
        ("may be noise", ~clear, _NOISE_FILL),
    ):
        rows = table[mask]
        error = {"type": "data", "array": rows["loss_increase_se"].to_numpy(), "color": _style.INK}
        bars = _bars(name, rows["loss_increase"], places[mask], colour, hover[mask], text, showlegend=True)
        figure.add_trace(bars.update(error_x={**error, "thickness": 1, "width": 3}))
    style = {"symbol": "diamond", "size": 8, "color": _style.OUTLINE, "line": {"width": 1, "color": _style.GROUND}}
    x = table["gradient"].to_numpy()
    figure.add_trace(_style.markers(x, places, "gradient estimate", style, hover=text, customdata=hover))
    if with_p:
        figure.add_trace(_bars("p", table["p"], places, _P, hover, text, xaxis="x2", showlegend=False))
    _dress(figure, names, with_p, source.unit)
    return figure


def _bars(name: str, x: pd.Series, y: Any, colour: str, told: Any, hover: str, **more: Any) -> go.Bar:
    # Without a width, a bar is as wide as the next one of its trace is far.
    look = {"marker": {"color": colour, "line": {"width": 0}}, "width": 0.7, "hovertemplate": f"{hover}<extra></extra>"}
    return go.Bar(name=name, orientation="h", x=x.to_numpy(), y=y, customdata=told, **look, **more)


def _dress(figure: go.Figure, names: list[str], with_p: bool, unit: str) -> None:
    n = len(names)
    figure.update_xaxes(
        title=f"rise of the validation loss without the gate ({_style.plain(unit)})",
        domain=[0, _LEFT if with_p else 1],
        **{"zeroline": True, "zerolinecolor": _style.MUTED, "zerolinewidth": 1, "showline": False, "nticks": 7},
    )
    figure.update_yaxes(range=[n - 0.4, -0.6], **_style.BARE, **_style.named(names))
    if with_p:
        look = {"title": {"text": "gate probability p", "standoff": 8}, "anchor": "y", "rangemode": "tozero"}
        figure.update_layout(xaxis2={**look, "domain": [_RIGHT, 1], "nticks": 4, "showline": False})
    figure.update_layout(barmode="overlay")
    _style.place_top(figure, height=max(260, 170 + _ROW_PX * n))


def _title(source: Explanation, n_drawn: int) -> str:
    words = [f"{_style.plain(source.task)} on {_style.plain(source.backbone)}", "what each gate is worth"]
    if n_drawn < len(source):
        words.append(f"{n_drawn} of {len(source):,} gates")
    if np.isfinite(source.rho):
        words.append(f"rank correlation with p {source.rho:+.2f} (n = {len(source):,})")
    return " · ".join(words)


def _opened(explanation: ExplanationLike) -> Explanation:
    return explanation if isinstance(explanation, Explanation) else Explanation.load(explanation)
