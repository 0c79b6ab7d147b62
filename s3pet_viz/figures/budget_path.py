"""Which gates enter as the budget grows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from s3pet_viz.analysis.grid import rows_of
from s3pet_viz.analysis.measures import need_sizes
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import gate_names, need_space, shorten, view
from s3pet_viz.figures._theme import Theme, themed
from s3pet_viz.runs import Run
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import Opened, Source, open_source
from s3pet_viz.structure import PET_TYPES, FinalAlphas, Structure, parse_budget, pet_type_order

_POINTS = 61


def budget_path_table(
    run: Source, *, budgets: Sequence[Budget] | None = None, step: int = -1, top: int | None = None
) -> pd.DataFrame:
    """The numbers behind `budget_path`, one row per budget and gate chosen at it.

    Columns: budget (parameters), used (parameters of the structure at that budget), gate (index), name, pet_type,
    n_params, enters (the lowest of these budgets at which the gate is chosen). Gates in the order they enter, then
    by alpha. A gate may leave again: a larger budget can fit a larger module that then takes its place.

    Args:
        run: a run, its path, or a table of final alphas.
        budgets: in any form; None: 61 from the smallest module to the whole space, evenly on a log scale.
        step: a recorded step of a run.
        top: only so many gates, the first to enter; None: all.

    Raises:
        ConfigError: no budgets, or `top` below 1.
        StructureError: a structure, which has no alpha; sizes that are not known.
        RunError, BudgetError: no such step; a budget cannot be parsed. One below the smallest module chooses nothing.
    """
    source = open_source(run)
    one = view(source, step=step)
    need_space(one, "budget path")
    need_sizes(one.gates, "budget path")
    if top is not None and top < 1:
        raise ConfigError(f"top: expected 1 or more, found {top}")
    counts = one.counts
    at = _budgets(source, counts, budgets)
    columns = ["budget", "used", "gate", "name", "pet_type", "n_params", "enters"]
    if not np.isfinite(one.alpha).all():
        return pd.DataFrame(columns=columns)
    chosen = select_many(one.alpha, counts, at)  # (n_budgets, n_gates)
    ever = np.flatnonzero(chosen.any(axis=0))
    first = chosen.argmax(axis=0)
    order = sorted(ever, key=lambda i: (first[i], one.rank[i]))[:top]
    names = gate_names(one.gates, rows_of(one.gates))
    used = chosen @ counts
    facts = {
        i: (one.gates[i].index, names[i], one.gates[i].pet_type, int(counts[i]), int(at[first[i]])) for i in order
    }
    rows = [
        (int(at[b]), int(used[b]), *facts[i])
        for i in order
        for b in np.flatnonzero(chosen[:, i])
    ]
    return pd.DataFrame(rows, columns=columns)


@themed
def budget_path(
    run: Source,
    *,
    budgets: Sequence[Budget] | None = None,
    step: int = -1,
    top: int = 40,
    title: str | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """Draw each gate as a line over the budgets at which it is chosen, in the order they enter.

    Args:
        run, budgets, step: as `budget_path_table`.
        top: gates drawn at most, the first to enter.
        title: instead of the run's name.
        theme: ``light`` or ``dark``.

    Returns:
        A figure with one trace per PET type, one of the entering points, and above them the share of the budget
        that is used. The run's own budget is a dashed line.
    """
    source = open_source(run)
    whole = budget_path_table(source, budgets=budgets, step=step)
    gates = whole.drop_duplicates("gate")
    shown = gates.head(top)
    name = source.backbone or "structure" if isinstance(source, Structure) else source.name
    words = f"{_style.plain(shorten(name, 48))} · gates that enter as the budget grows"
    if len(shown) < len(gates):
        words += f" · the first {len(shown)} of {len(gates):,}"
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.03, figure=_style.new_figure(title or words),
        row_heights=[90, max(200, 19 * len(shown))],
    )  # fmt: skip
    used = whole.drop_duplicates("budget").sort_values("budget")
    figure.add_trace(
        go.Scatter(
            x=used["budget"].to_numpy(), y=(100 * used["used"] / used["budget"]).to_numpy(), mode="lines",
            line={"color": _style.INK, "width": 1.5, "shape": "hv"}, name="used", showlegend=False,
            customdata=used["used"].to_numpy(),
            hovertemplate="budget %{x:,}: %{customdata:,} parameters used (%{y:.1f} %)<extra></extra>",
        ),
        row=1, col=1,
    )  # fmt: skip
    place = {gate: i for i, gate in enumerate(shown["gate"])}
    grid = np.unique(whole["budget"].to_numpy())
    rows = whole[whole["gate"].isin(place)]
    # A known type has its own colour in every figure, whichever others are there.
    for i, pet_type in enumerate(pet_type_order([*PET_TYPES, *rows["pet_type"]])):
        mine = rows[rows["pet_type"] == pet_type]
        if len(mine):
            colour = _style.CATEGORICAL[i % len(_style.CATEGORICAL)]
            x, y = _segments(mine, place, grid)
            figure.add_trace(
                go.Scatter(
                    x=x, y=y, mode="lines", name=_style.plain(pet_type), line={"color": colour, "width": 6},
                    hoverinfo="skip",
                ),
                row=2, col=1,
            )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=shown["enters"].to_numpy(), y=list(range(len(shown))), mode="markers", name="enters",
            marker={"color": _style.GROUND, "size": 8, "line": {"color": _style.INK, "width": 1.5}},
            customdata=np.array([[_style.plain(g.name), f"{g.n_params:,}"] for g in shown.itertuples(index=False)])
            .reshape(-1, 2),
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]} parameters<br>enters at %{x:,}<extra></extra>",
        ),
        row=2, col=1,
    )  # fmt: skip
    own = source.info["budget"] if isinstance(source, Run) else source.budget
    if own:
        figure.add_vline(x=own, line={"color": _style.MUTED, "dash": "dash", "width": 1})
        figure.add_annotation(
            x=np.log10(own), y=1, yref="paper", text=f"own budget {own:,}", showarrow=False, yanchor="bottom",
            font={"size": 11, "color": _style.MUTED},
        )  # fmt: skip
    figure.update_xaxes(
        type="log", minor={"ticks": "outside", "ticklen": 2}, exponentformat="none", separatethousands=True, dtick=1
    )
    figure.update_xaxes(title="budget (parameters, log scale)", row=2, col=1)
    figure.update_yaxes(title="used, %", range=[0, 105], row=1, col=1)
    figure.update_yaxes(
        tickmode="array", tickvals=list(range(len(shown))), ticktext=[_style.plain(n) for n in shown["name"]],
        tickfont={"size": 11}, range=[len(shown) - 0.4, -0.6], showgrid=False, row=2, col=1,
    )  # fmt: skip
    _style.place_top(figure, height=280 + max(200, 19 * len(shown)), heads=True)
    return figure


def select_many(alpha: np.ndarray, counts: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """`structure.select` at many budgets at once.

    Args:
        alpha, counts: shape (n_gates,).
        budgets: shape (n_budgets,), in parameters.

    Returns:
        bool, shape (n_budgets, n_gates).
    """
    left = np.asarray(budgets, dtype=np.float64).copy()
    chosen = np.zeros((len(left), len(alpha)), dtype=bool)
    for i in np.argsort(-np.asarray(alpha, dtype=np.float64), kind="stable"):
        fits = counts[i] <= left
        chosen[:, i] = fits
        left -= fits * counts[i]
    return chosen


def _budgets(source: Opened, counts: np.ndarray, budgets: Sequence[Budget] | None) -> np.ndarray:
    """Ascending, in parameters, int64."""
    if budgets is None:
        spread = np.geomspace(counts.min(), counts.sum(), _POINTS)
        return np.unique(np.round(spread).astype(np.int64))
    given = [budgets] if isinstance(budgets, (str, int, float)) else list(budgets)
    if not given:
        raise ConfigError("budgets: expected at least one, found none")
    if isinstance(source, FinalAlphas):
        return np.unique([source.parameters(b) for b in given])
    total = source.info["backbone_params"] if isinstance(source, Run) else 0
    return np.unique([parse_budget(b, total or 10**15) for b in given])


def _segments(rows: pd.DataFrame, place: dict[int, int], grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One broken line over the stretches of neighbouring budgets at which each gate is chosen."""
    step = np.searchsorted(grid, rows["budget"].to_numpy())
    line = np.array([place[g] for g in rows["gate"]])
    ends = np.flatnonzero((np.diff(step) != 1) | (np.diff(line) != 0))
    first, last = np.append(0, ends + 1), np.append(ends, len(rows) - 1)
    # A stretch reaches to the next budget: until there nothing else is known.
    gap = np.full(len(first), np.nan)
    x = np.stack([grid[step[first]], grid[np.minimum(step[last] + 1, len(grid) - 1)], gap], axis=1)
    y = np.stack([line[first], line[first], gap], axis=1)
    return x.ravel(), y.ravel()
