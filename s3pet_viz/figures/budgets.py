"""Scores against trained parameters: what a study found at each budget, method by method."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, Unpack, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from s3pet_viz.analysis import Study, Transfer, open_study
from s3pet_viz.config.checks import among
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import shorten
from s3pet_viz.figures._theme import Look, themed

Value = Literal["score", "loss"]
#: A study, one of transfer, the path of a study's folder, or a recorded study's name.
StudyLike: TypeAlias = Study | Transfer | str | os.PathLike[str]

#: Drawn in this order and these colours; other methods of several budgets take the colours that follow.
_LINES = ("searched", "resolved", "random", "gradient")
#: Drawn across the panel: they have no PET parameters to be placed by.
_LEVELS = {"full": "dash", "head": "dot", "untouched": "dot"}
_SYMBOLS = ("diamond", "square", "triangle-up", "cross", "x", "star")
_COLUMNS = 3
#: Methods of one budget stand beside each other, each this many times further right.
_ASIDE = 1.05


def budgets_table(study: StudyLike, *, tasks: Sequence[str] | None = None, value: Value = "score") -> pd.DataFrame:
    """The numbers behind `budgets`, one row per task, method and budget; trainings of other tasks' structures left out.

    Columns: task, method (with the search mode where there are several), budget (as given; empty where the method has
    none), percent (trained PET parameters, mean, of the backbone), mean, spread (standard deviation, n - 1 in the
    divisor; NaN for one training), n, low, high (the smallest and largest value), metric.

    Args:
        study: a study, its folder, or a recorded study's name.
        tasks: which, in this order; None: all.
        value: ``score`` (the task's main metric) or ``loss`` (mean held-out loss; lower is better).

    Raises:
        ConfigError: a task that the study does not have, another value, or nothing trained yet.
        StudyError: not a study folder.
    """
    among("value", value, get_args(Value))
    opened = study.study if isinstance(study, Transfer) else open_study(study)
    rows = opened.table()
    rows = rows[(rows["source"] == "") | (rows["source"] == rows["task"])]
    known = list(dict.fromkeys(rows["task"]))
    if not known:
        raise ConfigError(f"budgets: {opened.name} has no finished training yet")
    wanted = known if tasks is None else list(tasks)
    if strange := [task for task in wanted if task not in known]:
        raise ConfigError(f"tasks: expected names among {', '.join(known)}, found {strange[0]!r}")
    modes = rows.loc[rows["mode"] != "", "mode"].nunique() > 1
    method = rows["method"] + np.where(modes & (rows["mode"] != ""), " (" + rows["mode"] + ")", "")
    rows = rows.assign(method=method)[rows["task"].isin(wanted)]
    facts = {"percent": ("percent", "mean"), "mean": (value, "mean"), "spread": (value, "std"), "n": (value, "count")}
    facts |= {"low": (value, "min"), "high": (value, "max"), "metric": ("metric", "first")}
    made = rows.groupby(["task", "method", "budget"], sort=False).agg(**facts).reset_index()
    order = made["task"].map({task: i for i, task in enumerate(wanted)})
    made = made.assign(order=order).sort_values(["order", "method", "percent"], kind="stable", ignore_index=True)
    return made.drop(columns="order")


@themed
def budgets(
    study: StudyLike, *, tasks: Sequence[str] | None = None, value: Value = "score", **look: Unpack[Look]
) -> go.Figure:
    """Draw the scores of a study against the parameters that each method trains; a panel a task.

    Lines join the budgets of one method (a little aside of each other, so that none hides another), bars are standard
    deviations over trainings, marks without a line are methods that have one size only; full fine-tuning, the head
    alone and the untouched backbone are levels. Scores that are fractions are shown times 100.

    Args:
        study, tasks, value: as `budgets_table`.
        title: instead of the study's name. theme: ``light`` or ``dark``.

    Returns:
        A figure with one trace per task and method, named by the method.
    """
    table = budgets_table(study, tasks=tasks, value=value)
    names = list(dict.fromkeys(table["task"]))
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    opened = study.study if isinstance(study, Transfer) else open_study(study)
    words = f"{_style.plain(shorten(opened.name, 40))} · {'score' if value == 'score' else 'held-out loss'} by budget"
    figure = make_subplots(
        rows=rows,
        cols=columns,
        specs=[[{} if r * columns + c < len(names) else None for c in range(columns)] for r in range(rows)],
        horizontal_spacing=0.09,
        vertical_spacing=0.3 / rows,
        subplot_titles=[_head(task, table, value) for task in names],
        figure=_style.new_figure(look, words),
    )
    scale = 100 if value == "score" else 1
    several = table.groupby(["method", "task"], sort=False)["budget"].nunique().groupby("method", sort=False).max() > 1
    looks = _looks({str(method): bool(many) for method, many in several.items()})
    shown: set[str] = set()
    sized = table.loc[(table["percent"] > 0) & ~table["method"].isin(_LEVELS), "percent"]
    ends = (sized.min() / 1.6, sized.max() * 1.6) if len(sized) else (0.01, 1.0)
    for i, task in enumerate(names):
        at = {"row": i // columns + 1, "col": i % columns + 1}
        mine = table[table["task"] == task]
        for method in [m for m in looks if (mine["method"] == m).any()]:
            part = mine[mine["method"] == method].sort_values("percent")
            trace = _level(part, looks[method], scale, ends) if method in _LEVELS else _line(part, looks[method], scale)
            trace.update(name=_style.plain(method), legendgroup=method, showlegend=method not in shown)
            shown.add(method)
            figure.add_trace(trace, **at)
        figure.update_xaxes(type="log", range=[math.log10(ends[0]), math.log10(ends[1])], **at)
    ticks = [t for t in (b * 10.0**k for k in range(-6, 3) for b in (1, 2, 5)) if ends[0] <= t <= ends[1]]
    figure.update_xaxes(tickvals=ticks, ticktext=[f"{t:g}" for t in ticks], tickangle=0)
    for column in range(columns):
        lowest = (len(names) - 1 - column) // columns + 1
        figure.update_xaxes(title="trained, % of backbone", row=lowest, col=column + 1)
    for head in figure.layout.annotations:
        head.update(font={"size": 13}, yshift=2)
    figure.update_layout(meta={"panels": len(names), "apart": True})
    _style.place_top(figure, height=120 + 250 * rows, heads=True, names=list(looks))
    return figure


def _head(task: str, table: pd.DataFrame, value: str) -> str:
    metric = str(table.loc[table["task"] == task, "metric"].iloc[0]) if value == "score" else "loss"
    return f"<b>{_style.plain(shorten(task, 24))}</b>, {_style.plain(metric)}"


def _looks(several: Mapping[str, bool]) -> dict[str, dict[str, Any]]:
    """Colour and mark of each method, in the order of the legend; `several`: whether it has more budgets than one."""
    methods = [m for m in several if m not in _LEVELS]
    lines = sorted((m for m in methods if _base(m) in _LINES), key=lambda m: _LINES.index(_base(m)))
    lines += [m for m in methods if m not in lines and several[m]]
    others = [m for m in methods if m not in lines]
    looks: dict[str, dict[str, Any]] = {}
    for i, method in enumerate(lines):
        color, symbol = _style.CATEGORICAL[i % 8], ("circle", *_SYMBOLS)[i // 8 % 7]
        looks[method] = {"color": color, "symbol": symbol, "aside": i - (len(lines) - 1) / 2}
    for i, method in enumerate(others):
        looks[method] = {"color": _style.MUTED, "symbol": _SYMBOLS[i % len(_SYMBOLS)]}
    for method in (m for m in _LEVELS if m in several):
        looks[method] = {"color": _style.INK if method == "full" else _style.MUTED, "dash": _LEVELS[method]}
    return looks


def _base(method: str) -> str:
    return method.split(" (")[0]


def _line(part: pd.DataFrame, look: dict[str, Any], scale: int) -> go.Scatter:
    spread = np.nan_to_num(scale * part["spread"].to_numpy(dtype=float))
    hover = (
        "<b>%{fullData.name}</b><br>%{y:.4g} (%{customdata[1]:.4g} to %{customdata[2]:.4g}, %{customdata[0]:.0f} "
        "trainings)<br>%{customdata[3]:.4g} % of the backbone<extra></extra>"
    )
    return go.Scatter(
        x=part["percent"].to_numpy() * _ASIDE ** look.get("aside", 0),
        y=scale * part["mean"].to_numpy(),
        mode="lines+markers",
        line={"color": look["color"], "width": 2},
        marker={"symbol": look["symbol"], "size": 8},
        error_y={"type": "data", "array": spread, "thickness": 1.2, "width": 3, "color": look["color"]},
        customdata=np.stack([part["n"], scale * part["low"], scale * part["high"], part["percent"]], axis=-1),
        hovertemplate=hover,
    )


def _level(part: pd.DataFrame, look: dict[str, Any], scale: int, ends: tuple[float, float]) -> go.Scatter:
    mean = scale * float(part["mean"].iloc[0])
    hover = f"<b>%{{fullData.name}}</b><br>%{{y:.4g}} ({int(part['n'].iloc[0])} trainings)"
    x, y = np.geomspace(*ends, 9), np.full(9, mean)
    return _style.line(x, y, "", look["color"], 1.5, dash=look["dash"], hover=hover)
