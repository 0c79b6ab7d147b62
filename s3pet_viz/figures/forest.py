"""Paired differences of a study, a row a task: one method, or one task's structures, against others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Unpack, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.analysis import Transfer, open_study
from s3pet_viz.analysis.statistics import at_one_size, differences, scale_of
from s3pet_viz.analysis.study import question
from s3pet_viz.config.checks import among, short
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import shorten
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.figures.budgets import StudyLike, Value

#: Of a row, and of each reference in it where there are several.
_ROW_PX, _PART_PX = 24, 16


def forest_table(
    study: StudyLike, *, method: str = "searched", against: str | Sequence[str] = "random", value: Value = "score"
) -> pd.DataFrame:
    """The numbers behind `forest`: a row a task and budget (and mode, where there are several) and one for all tasks
    at each budget, for each reference in turn. A method of one size (LoRA by hand) stands against the budget
    nearest to it alone.

    Columns: label (the task, or "all" ("all tasks" where a task is named so), and what tells it from the others),
    settled (whether the interval leaves 0 out), those of `Study.differences` (task, budget, pooled (whether of all
    tasks), a, b, value, unit ("points": scores that are fractions times 100), mean_a, mean_b, difference, low, high,
    level, n_a, n_b, n_pairs, n_groups, paired, better, effect, test) and nearest (the budget that a method of one size
    is held against; "" where neither has one).

    Args:
        study: a study, its folder, or a recorded study's name.
        method: a method of the study (searched, gradient, LoRA, ...); or where structures come from that were trained
            on other tasks (a task, "consensus", a given structure's name; "from random" of a task named so).
        against: one or several of the same.
        value: ``score`` (the task's main metric) or ``loss`` (mean held-out loss; lower is better).

    Raises:
        ConfigError: a method that the study does not have, none to hold it against, or no task that has both.
        StudyError: not a study folder.
    """
    among("value", value, get_args(Value))
    opened = study.study if isinstance(study, Transfer) else open_study(study)
    rows = opened.table()
    moved = (rows["source"] != "") & (rows["source"] != rows["task"])
    if rows.empty:
        raise ConfigError(f"forest: {opened.name} has no finished training yet")
    # A task may have a method's name (random): its structures are no random ones.
    names = rows["source"].where(~rows["source"].isin(rows.loc[~moved, "method"]), "from " + rows["source"])
    rows = rows.assign(method=names.where(moved, rows["method"]))
    several = isinstance(against, Iterable) and not isinstance(against, (str, bytes))
    references: list[Any] = list(against) if several else [against]
    known = list(dict.fromkeys(rows["method"]))
    for name, wanted in (("method", method), *(("against", one) for one in references)):
        if wanted not in known:
            raise ConfigError(f"{name}: expected one of {', '.join(known) or 'no trainings'}, found {short(wanted)}")
    if not references or method in references or len(set(references)) < len(references):
        found = ", ".join(references) or "none"
        raise ConfigError(f"against: expected methods other than {method}, each once, found {found}")
    scale: Any = scale_of(rows["score"]) if value == "score" else "raw"
    made = []
    for reference in references:
        pair = rows[rows["method"].isin([method, reference])]
        pair, nearest = at_one_size(pair)
        rows_of = differences(pair, a=method, b=reference, by=question(pair), value=value, scale=scale)
        made.append(rows_of.assign(nearest=nearest))
    # Task by task as they come, the smallest budget first.
    tasks, sizes = list(dict.fromkeys(rows["task"])), rows.groupby("budget")["budget_params"].min()
    table = pd.concat(made, ignore_index=True)
    told = table[["task", "pooled"]].itertuples(index=False)
    places = [len(tasks) if pooled else tasks.index(task) for task, pooled in told]
    order = table.assign(place=places, size=table["budget"].map(sizes).fillna(0))
    order["turn"] = order["b"].map({name: i for i, name in enumerate(references)})
    table = table.loc[order.sort_values(["turn", "place", "size"], kind="stable").index].reset_index(drop=True)
    facts = [name for name in ("task", "budget", "mode") if name in table]
    telling = [n for n in facts if n == "task" or table.loc[~table["pooled"], n].nunique() > 1]
    labels = [" ".join(str(row[name]) for name in telling if row[name]) for row in table.to_dict("records")]
    settled = (table["low"] > 0) | (table["high"] < 0)
    table.insert(0, "label", labels)
    table.insert(1, "settled", settled)
    return table


@themed
def forest(
    study: StudyLike,
    *,
    method: str = "searched",
    against: str | Sequence[str] = "random",
    value: Value = "score",
    **look: Unpack[Look],
) -> go.Figure:
    """Draw paired differences with their intervals, a row a task and budget; at the bottom all tasks, a row a budget.

    Marks are filled where the interval leaves 0 out. Of one reference, the numbers stand at the right. The title (of
    several the legend) names the budget that a method of one size is held against.

    Args:
        study, method, against, value: as `forest_table`.
        title: instead of what is compared and how much of it is settled. theme: ``light`` or ``dark``.

    Returns:
        A figure with two traces for each reference: its intervals, and its marks, named by it.
    """
    table = forest_table(study, method=method, against=against, value=value)
    references = list(dict.fromkeys(table["b"]))
    parts = table[~table["pooled"]]
    labels, totals = (list(dict.fromkeys(rows["label"])) for rows in (parts, table[table["pooled"]]))
    shown = [shorten(one, 24) for one in (method, *references)]
    one = len(references) == 1
    near = {reference: f", at {at}" if at else "" for reference, at in zip(table["b"], table["nearest"], strict=True)}
    what = f"{shown[1]}{near[references[0]]}" if one else "each"
    words = f"{shown[0]} less {what} · settled in {int(parts['settled'].sum())} of {len(parts)} rows"
    figure = _style.new_figure(look, _style.plain(words))
    at = {label: i + 0.4 * (i >= len(labels)) for i, label in enumerate([*labels, *totals])}
    for k, reference in enumerate(references):
        mine = table[table["b"] == reference]
        y = np.array([at[label] for label in mine["label"]]) + 0.75 * ((k + 0.5) / len(references) - 0.5)
        colour, name = (
            _style.CATEGORICAL[k % len(_style.CATEGORICAL)],
            _style.plain(f"less {reference}{near[reference]}"),
        )
        gap = np.full(len(mine), np.nan)
        x_bars, y_bars = np.stack([mine["low"], mine["high"], gap], axis=1), np.stack([y, y, gap], axis=1)
        bars = _style.line(x_bars.ravel(), y_bars.ravel(), name, colour, 2, legendgroup=reference, showlegend=False)
        total = mine["pooled"].to_numpy(bool)
        symbols = np.where(total, "diamond", "circle") + np.where(mine["settled"], "", "-open").astype(object)
        style = {
            "symbol": symbols,
            "size": np.where(total, *((12, 9) if one else (10, 8))),
            "color": colour,
            "line": {"width": 2, "color": colour},
        }
        told = np.array([[_style.plain(row["label"]), said(row), _pairs(row)] for row in mine.to_dict("records")])
        hover = "<b>%{customdata[0]}</b><br>%{fullData.name}: %{customdata[1]}<br>%{customdata[2]}"
        x = mine["difference"].to_numpy()
        figure.add_traces(
            [bars, _style.markers(x, y, name, style, hover=hover, customdata=told, legendgroup=reference)]
        )
        if one:
            for row, place in zip(mine.to_dict("records"), y, strict=True):
                _number(figure, said(row), float(place))
    _dress(figure, table, at, len(labels), one, value)
    return figure


def said(row: dict[Any, Any]) -> str:
    """A difference and its interval."""
    if not np.isfinite(row["difference"]):
        return "not known"
    form = "+.1f" if row["unit"] == "points" else "+.3f"
    bounded = np.isfinite(row["low"])
    return f"{row['difference']:{form}} " + (
        f"({row['low']:{form}} to {row['high']:{form}})" if bounded else "(no interval)"
    )


def _pairs(row: dict[Any, Any]) -> str:
    n = f"{row['n_pairs']} pairs of seeds" if row["paired"] else f"{row['n_a']} against {row['n_b']} runs"
    several = f" in {row['n_groups']} groups" if row["n_groups"] > 1 else ""
    return f"{n}{several}; {row['test']}"


def _number(figure: go.Figure, text: str, y: float) -> None:
    place = {"x": 1.01, "xref": "paper", "xanchor": "left", "y": y, "yref": "y", "yanchor": "middle"}
    figure.add_annotation(text=text, showarrow=False, font={"size": 11, "color": _style.INK}, **place)


def _dress(figure: go.Figure, table: pd.DataFrame, at: dict[str, float], n: int, one: bool, value: Value) -> None:
    """Axes and the line above the rows of all tasks. at: where each row stands. n: of single tasks."""
    last = max(at.values())
    references = table["b"].nunique()
    unit = "points" if table["unit"].iloc[0] == "points" else "held-out loss" if value == "loss" else "score"
    better = "less is better" if value == "loss" else "more is better"
    # A row that nobody can read from must not make the others a point.
    bounds = table[["low", "high", "difference"]].to_numpy(dtype=float)
    zero = {"zeroline": True, "zerolinecolor": _style.INK, "zerolinewidth": 1}
    ends = [float(end(bounds, initial=0, where=np.isfinite(bounds))) for end in (np.min, np.max)]
    pad = 0.04 * (ends[1] - ends[0] or 1)
    sides = [shorten(str(table[side].iloc[0]), 24) for side in ("a", "b")]
    near = f", at {table['nearest'].iloc[0]}" if table["nearest"].iloc[0] else ""
    what = f"{sides[0]} less {sides[1]}{near}" if one else "difference"
    figure.update_xaxes(title=f"{_style.plain(what)}, {unit} ({better})", range=[ends[0] - pad, ends[1] + pad], **zero)
    told = [_style.plain(shorten(label, 32)) for label in at]
    ticks = _style.named(told[:n] + [f"<b>{label}</b>" for label in told[n:]], at.values())
    figure.update_yaxes(range=[last + 0.6, -0.6], showgrid=False, ticklabelstandoff=4, zeroline=False, **ticks)
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": n - 0.3, "y1": n - 0.3}
    figure.add_shape(**line, line={"color": _style.PALE, "width": 1})
    names = [trace.name for trace in figure.data if trace.showlegend is not False]
    height = round(150 + max(_ROW_PX, _PART_PX * references) * (last + 1.2))
    _style.place_top(figure, height=height, legend=not one, names=names)
    if one:
        figure.update_layout(margin={"r": 190}, showlegend=False)
