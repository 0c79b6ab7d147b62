"""A search's curves: losses, how decided the gates are, and whether the budget is kept."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from s3pet_viz.analysis.health import OFF_BUDGET
from s3pet_viz.analysis.measures import entropy
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import shorten
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.runs import Run
from s3pet_viz.sources import RUN, RunLike, open_source
from s3pet_viz.structure.budget import expected_params

_MAX_STEPS = 500
#: The smoothed line is a mean over this part of all steps before each.
_SMOOTH = 0.05


def curves_table(run: RunLike, *, max_steps: int = _MAX_STEPS) -> pd.DataFrame:
    """The numbers behind `curves`, one row per drawn step.

    Columns: step, train_loss, val_loss, train_smooth, val_smooth (mean of the last 5 % of the steps, NaN left out),
    entropy (mean over gates, bits), expected (parameters, sum of p n), budget (parameters; NaN where none).

    Args:
        run: a run, or its path.
        max_steps: longer runs are thinned to about this many steps, evenly; the last one always stays.

    Raises:
        RunError: no such run.
        ConfigError: `max_steps` below 1.
    """
    if max_steps < 1:
        raise ConfigError(f"max_steps: expected 1 or more, found {max_steps}")
    source = open_source(run, allow=RUN, what="run")
    steps = source.steps()
    n, budget = len(steps), source.info["budget"]
    rows = np.arange(0, n, max(1, -(-n // max_steps)))
    if n and rows[-1] != n - 1:
        rows = np.append(rows, n - 1)
    smooth = steps[["train_loss", "val_loss"]].rolling(max(1, round(_SMOOTH * n)), min_periods=1).mean()
    table = steps[["step", "train_loss", "val_loss"]]
    table = table.assign(train_smooth=smooth["train_loss"], val_smooth=smooth["val_loss"])
    p = source.ps()[rows]
    table = table.iloc[rows].reset_index(drop=True)
    kept = float(budget) if budget else np.nan
    return table.assign(entropy=entropy(p).mean(axis=1), expected=_expected(source, p), budget=kept)


@themed
def curves(run: RunLike, *, max_steps: int = _MAX_STEPS, **look: Unpack[Look]) -> go.Figure:
    """Draw the losses (raw and smoothed), the mean gate entropy and, where they say something, the expected parameters
    against the budget: where they vary (a budget that shrinks), or are not the budget.

    Args:
        run, max_steps: as `curves_table`.
        title: instead of the run's name. theme: ``light`` or ``dark``.

    Returns:
        A figure of two or three panels that share the steps, with traces "train" and "validation" (smoothed; the raw
        ones behind them have no legend), "entropy" and, in the third, "expected" and "budget".
    """
    source = open_source(run, allow=RUN, what="run")
    table = curves_table(source, max_steps=max_steps)
    said = _budget_says(source)
    name = _style.plain(shorten(source.name, 48))
    words = f"{name} · losses, entropy, budget" if said else f"{name} · losses, entropy"
    budget = source.info["budget"]
    if budget and not said and source.n_steps and budget <= source.counts.sum() + source.pinned_params:
        words += f" · the budget of {budget:,} parameters is kept at every step"
    figure = make_subplots(
        rows=3 if said else 2,
        row_heights=[0.46, 0.27, 0.27] if said else [0.63, 0.37],
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.05,
        figure=_style.new_figure(look, words),
    )

    def add(row: int, column: str, name: str, colour: str, width: float, **more: Any) -> None:
        y = table[column].to_numpy()
        figure.add_trace(_style.line(table["step"].to_numpy(), y, name, colour, width, **more), row=row, col=1)

    for key, name, colour in (("train", "train", _style.CATEGORICAL[0]), ("val", "validation", _style.CATEGORICAL[1])):
        add(1, f"{key}_loss", f"{name}, raw", colour, 0.8, showlegend=False, opacity=0.3)
        add(1, f"{key}_smooth", name, colour, 2, dash="solid", hover=f"step %{{x:,}}   {name} %{{y:.4g}}")
    hover = "step %{x:,}   entropy %{y:.4f} bits"
    add(2, "entropy", "entropy", _style.CATEGORICAL[2], 2, showlegend=False, hover=hover)
    if said:
        hover = "step %{x:,}   %{y:,.1f} parameters expected"
        add(3, "expected", "expected parameters", _style.INK, 2, hover=hover)
        add(3, "budget", "budget", _style.OUTLINE, 2, dash="dash")
        top = float(np.nanmax(table[["expected", "budget"]].to_numpy(), initial=0))
        figure.update_yaxes(title="parameters", range=[0, 1.2 * top or 1], row=3, col=1)
    figure.update_yaxes(title="loss", row=1, col=1)
    figure.update_yaxes(title="entropy, bits", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(showgrid=False)
    figure.update_xaxes(title="search step", row=3 if said else 2, col=1)
    _style.place_top(figure, height=560 if said else 440)
    return figure


def _budget_says(run: Run) -> bool:
    """Whether the expected parameters vary over all steps, or are not the budget."""
    expected = _expected(run, run.ps())
    if not len(expected):
        return False
    budget = run.info["budget"] or float(expected[0])
    # A budget above the whole space opens every gate; that is its end, and no news.
    return bool(np.abs(expected / min(budget, run.counts.sum() + run.pinned_params) - 1).max() > OFF_BUDGET)


def _expected(run: Run, p: np.ndarray) -> np.ndarray:
    """Parameters expected in use, shape (n_steps,), those of gates pinned in with them."""
    return expected_params(p, run.counts) + run.pinned_params
