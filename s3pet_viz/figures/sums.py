"""Where the open gates and their parameters are: sums by layer, module or PET type."""

from __future__ import annotations

from typing import Literal, Unpack, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from s3pet_viz.analysis.grid import MODULES, column_order
from s3pet_viz.analysis.measures import need_sizes
from s3pet_viz.config.checks import among
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import View, joint_gates, shorten, view
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import Sources, open_sources
from s3pet_viz.structure import Gate, pet_type_order

By = Literal["layer", "module", "pet_type"]
#: px that the labels of layers have on a narrow screen.
_WIDTH = 720.0
_WORDS = {"layer": "layer", "module": "module", "pet_type": "PET type"}


def sums_table(runs: Sources, *, by: By = "layer", budget: Budget | None = None, step: int = -1) -> pd.DataFrame:
    """The numbers behind `sums`, one row per layer, module or PET type.

    Columns: group, gates (candidates), params (theirs), expected_gates (sum of p), expected_params (sum of p n),
    mean_p, chosen (gates), chosen_params. Of several sources: means over them; a group that one lacks counts 0 there.
    For a structure the candidates are its own gates and what needs p is missing (NaN).

    Raises:
        ConfigError: `by` is none of these, no source, or several that share no gate.
        StructureError: sizes are not known (a published file without its backbone), or a file is damaged.
        RunError, BudgetError: as `heatmap_table`.
    """
    among("by", by, get_args(By))
    views = [view(source, budget=budget, step=step) for source in open_sources(runs)]
    gates, _ = joint_gates(views)
    need_sizes(gates, "sums")
    groups = _groups(gates, by)
    mean = np.mean([_one(one, by, groups) for one in views], axis=0)
    columns = ["gates", "params", "expected_gates", "expected_params", "chosen", "chosen_params"]
    table = pd.DataFrame(mean, columns=columns)
    table.insert(0, "group", groups)
    table.insert(5, "mean_p", table["expected_gates"] / table["gates"])
    return table


@themed
def sums(
    runs: Sources, *, by: By = "layer", budget: Budget | None = None, step: int = -1, **look: Unpack[Look]
) -> go.Figure:
    """Draw, per layer, module or PET type, the expected open gates and parameters, and what was chosen.

    Args:
        runs, by, budget, step: as `sums_table`.
        title: instead of the run's name. theme: ``light`` or ``dark``.

    Returns:
        A figure of two panels, gates and parameters, each with a bar trace ("expected") and markers ("chosen").
    """
    sources = open_sources(runs)
    table = sums_table(sources, by=by, budget=budget, step=step)
    one = view(sources[0], step=step).name if len(sources) == 1 else f"mean of {len(sources)} runs"
    name = _style.plain(shorten(one, 48))
    upright = by == "layer"
    across = {"rows": 1, "cols": 2, "shared_yaxes": True, "horizontal_spacing": 0.06}
    shape = {"rows": 2, "cols": 1, "shared_xaxes": True, "vertical_spacing": 0.09} if upright else across
    figure = make_subplots(figure=_style.new_figure(look, f"{name} · sums by {_WORDS[by]}"), **shape)
    places, names = list(range(len(table))), [_style.plain(group) for group in table["group"]]
    for panel, (expected, chosen, what) in enumerate(
        (("expected_gates", "chosen", "gates"), ("expected_params", "chosen_params", "parameters")), 1
    ):
        at = {"row": panel, "col": 1} if upright else {"row": 1, "col": panel}
        common = {"showlegend": panel == 1, "customdata": names}
        number = "y" if upright else "x"
        hover = f"<b>%{{customdata}}</b><br>%{{{number}:,.4~g}} {what}"
        bars = table[expected].to_numpy()
        # A marker at zero in every empty group would only hide the short bars.
        dots = table[chosen].where(table[chosen] > 0).to_numpy()
        if np.isfinite(bars).any():
            x, y = (places, bars) if upright else (bars, places)
            text, turn = f"{hover} expected<extra></extra>", "v" if upright else "h"
            drawn = go.Bar(x=x, y=y, orientation=turn, marker={"color": "#86b3d9"}, hovertemplate=text, **common)
            figure.add_trace(drawn.update(name="expected (sum of p)", legendgroup="expected"), **at)
        x, y = (places, dots) if upright else (dots, places)
        mark = {"color": _style.OUTLINE, "size": 8, "symbol": "diamond"}
        more = {"legendgroup": "chosen", "cliponaxis": False, **common}
        drawn = _style.markers(x, y, "chosen", mark, hover=f"{hover} chosen", **more)
        figure.add_trace(drawn, **at)
        axis = figure.update_yaxes if upright else figure.update_xaxes
        axis(title=what, rangemode="tozero", **at)
    if upright:
        flat = len(table) * (_style.CHAR * 11 * max(map(len, names), default=0) + 4) < _WIDTH
        angle = 0 if flat else -90
        ticks = _style.named(names, size=9 if len(table) > 40 else 11)
        figure.update_xaxes(tickangle=angle, showgrid=False, range=[-0.6, len(table) - 0.4], **ticks)
    else:
        figure.update_yaxes(range=[len(table) - 0.4, -0.6], showgrid=False, **_style.named(names, size=None))
    _style.place_top(figure, height=480 if upright else max(280, 160 + 24 * len(table)))
    figure.update_layout(bargap=0.25, margin_b=64)
    return figure


def _groups(gates: tuple[Gate, ...], by: By) -> list[str]:
    if by == "layer":
        return [column for column in column_order(gates) if column]
    present = {_group(g, by) for g in gates}
    if by == "pet_type":
        return pet_type_order(present)
    return [name for name in MODULES if name in present] + sorted(present - set(MODULES))


def _group(gate: Gate, by: By) -> str:
    name: str = getattr(gate, "column" if by == "layer" else by)
    return name


def _one(one: View, by: By, groups: list[str]) -> np.ndarray:
    """Shape (n_groups, 6)."""
    at = {group: i for i, group in enumerate(groups)}
    place = np.array([at[_group(g, by)] for g in one.gates], dtype=np.int64)
    n, chosen = one.counts, one.selected.astype(float)
    weights = (np.ones(len(n)), n, one.p, one.p * n, chosen, chosen * n)
    return np.stack([np.bincount(place, weights=w, minlength=len(groups)) for w in weights], axis=1)
