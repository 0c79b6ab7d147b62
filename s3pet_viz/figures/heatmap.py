"""The heatmap that explains a search: rows = module and PET type, columns = layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import RunLike, as_run_or_structure
from s3pet_viz.runs import Run
from s3pet_viz.runs.grid import column_order, row_order, rows_of
from s3pet_viz.runs.reader import Budget, ranks
from s3pet_viz.structure import Gate, Structure

Value = Literal["p", "alpha", "rank", "selected"]

_LABELS = {"p": "gate probability p", "alpha": "structure parameter α", "rank": "rank by α", "selected": ""}
_HOVER = ("position", "n_params", "p", "alpha", "rank", "chosen")
_ROW_PX = 21
_INSET = 0.45  # half the side of an outline, in cells


def heatmap_table(run: RunLike | Structure, *, budget: Budget | None = None, step: int = -1) -> pd.DataFrame:
    """The numbers behind `heatmap`, one row per gate.

    Columns: gate (index), row, column, stack, layer, module, pet_type, position, n_params, p, alpha, rank
    (1 = highest alpha), selected. For a structure only its own gates, p, alpha and rank missing (NaN).

    Args:
        run: a run, its path, or a structure.
        budget: p with the shift solved again, and the selection, at another budget.
        step: a recorded step; -1 = the last. A run without steps yet: p, alpha, rank are NaN, none selected.

    Raises:
        RunError: no such run or step.
        BudgetError: the budget cannot be parsed, or is below the smallest module.
    """
    source = as_run_or_structure(run)
    gates: Sequence[Gate] = source.gates if isinstance(source, Structure) else source.gates_list
    table = pd.DataFrame(
        {
            "gate": [g.index for g in gates],
            "row": rows_of(gates),
            "column": [g.column for g in gates],
            "stack": [g.stack for g in gates],
            "layer": [g.layer for g in gates],
            "module": [g.module for g in gates],
            "pet_type": [g.pet_type for g in gates],
            "position": [g.position for g in gates],
            "n_params": [g.n_params for g in gates],
        }
    )
    missing = np.full(len(gates), np.nan)
    if isinstance(source, Structure):
        return table.assign(p=missing, alpha=missing, rank=missing, selected=True)
    if step == -1 and not source.n_steps:
        return table.assign(p=missing, alpha=missing, rank=missing, selected=False)
    alpha = source.alpha(step)
    chosen = source.structure(budget=budget, step=step).keys
    return table.assign(
        p=source.p(step, budget=budget).astype(float),
        alpha=alpha.astype(float),
        rank=ranks(alpha),
        selected=[g.key in chosen for g in gates],
    )


def heatmap(
    run: RunLike | Structure,
    *,
    value: Value | None = None,
    budget: Budget | None = None,
    step: int = -1,
    title: str | None = None,
) -> go.Figure:
    """Draw every gate on the grid of modules and layers; chosen gates are outlined.

    Args:
        run: a run, its path, or a structure (whose chosen gates are drawn).
        value: what colour means: ``p`` (the default for a run), ``alpha``, ``rank`` or ``selected``.
        budget, step: as `heatmap_table`.
        title: instead of the run's name, budget and step.

    Returns:
        A figure with two traces: the heatmap ("gates") and the outlines ("chosen").

    Raises:
        ConfigError: `value` is none of these, or is not known for a structure.
        RunError, BudgetError: as `heatmap_table`.
    """
    source = as_run_or_structure(run)
    if value is None:
        value = "selected" if isinstance(source, Structure) else "p"
    if value not in get_args(Value):
        raise ConfigError(f"value: expected one of {', '.join(get_args(Value))}, found {value!r}")
    if isinstance(source, Structure) and value != "selected":
        raise ConfigError(f"value: a structure has no {value}; expected 'selected', or draw the run instead")
    table = heatmap_table(source, budget=budget, step=step)
    grid = Grid(source.gates if isinstance(source, Structure) else source.gates_list)

    figure = _style.new_figure(title if title is not None else _title(source, table, budget, step))
    figure.add_trace(_cells(grid, table, value))
    x, y = grid.outlines(table["selected"].to_numpy(dtype=bool))
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            name="chosen",
            line={"color": _style.OUTLINE, "width": 2},
            hoverinfo="skip",
            # With two colours for chosen and open, outlines would say it twice.
            visible=value != "selected",
            showlegend=True,
        )
    )
    _dress(figure, grid)
    return figure


class Grid:
    """Where each gate of a search space is drawn.

    Attributes:
        rows: row labels, top to bottom, shape (n_rows,).
        columns: column labels, left to right, with "" for the gap between the stacks, shape (n_columns,).
        row, col: place of each gate, shape (n_gates,).
    """

    def __init__(self, gates: Sequence[Gate]) -> None:
        self.rows = row_order(gates)
        self.columns: list[str] = []
        for column in column_order(gates):
            if self.columns and self.columns[-1][0] != column[0]:
                self.columns.append("")
            self.columns.append(column)
        row_at = {label: i for i, label in enumerate(self.rows)}
        column_at = {label: i for i, label in enumerate(self.columns)}
        self.row = np.array([row_at[label] for label in rows_of(gates)], dtype=np.int64)
        self.col = np.array([column_at[g.column] for g in gates], dtype=np.int64)

    @property
    def stacks(self) -> dict[str, tuple[int, int]]:
        """First and last column of each stack, by its letter."""
        spans: dict[str, tuple[int, int]] = {}
        for at, label in enumerate(self.columns):
            if label:
                spans[label[0]] = (spans.get(label[0], (at, at))[0], at)
        return spans

    def spread(self, values: Any, fill: Any = np.nan, dtype: Any = float) -> np.ndarray:
        """Values of gates, shape (n_gates,), as (n_rows, n_columns); `fill` where there is no gate."""
        cells = np.full((len(self.rows), len(self.columns)), fill, dtype=dtype)
        cells[self.row, self.col] = values
        return cells

    def outlines(self, selected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and y of one broken line around every selected gate; both of shape (6 * n_selected,)."""
        corner_x = np.array([-1, 1, 1, -1, -1, np.nan]) * _INSET
        corner_y = np.array([-1, -1, 1, 1, -1, np.nan]) * _INSET
        x = self.col[selected][:, None] + corner_x
        y = self.row[selected][:, None] + corner_y
        return x.ravel(), y.ravel()


def _cells(grid: Grid, table: pd.DataFrame, value: Value) -> go.Heatmap:
    values = table[value].to_numpy(dtype=float)
    finite = values[np.isfinite(values)]
    scale: dict[str, Any]
    if value == "p":
        # Its own maximum: early in a search, or at a tiny budget, every p is far below 1.
        scale = {
            "colorscale": _style.SEQUENTIAL,
            "zmin": 0,
            "zmax": float(finite.max()) if len(finite) else 1,
        }
    elif value == "alpha":
        reach = float(np.abs(finite).max()) if len(finite) else 0
        scale = {"colorscale": _style.DIVERGING, "zmin": -(reach or 1), "zmax": reach or 1}
    elif value == "rank":
        scale = {"colorscale": _style.REVERSED, "zmin": 1, "zmax": max(2, len(table))}
    else:
        scale = {"colorscale": _style.BINARY, "zmin": 0, "zmax": 1, "showscale": False}
    hover = pd.DataFrame(
        {
            "position": [_style.plain(p) for p in table["position"]],
            "n_params": [f"{n:,}" for n in table["n_params"]],
            "p": _shown(table["p"], ".4g"),
            "alpha": _shown(table["alpha"], "+.4f"),
            "rank": _shown(table["rank"], ".0f"),
            "chosen": np.where(table["selected"], " · <b>chosen</b>", ""),
        }
    )
    lines = ["<b>%{customdata[6]}</b>%{customdata[5]}", "%{customdata[0]}", "%{customdata[1]} parameters"]
    if table["p"].notna().any():
        lines.append(
            "p = %{customdata[2]}   α = %{customdata[3]}   rank %{customdata[4]} of " + f"{len(table):,}"
        )
    names = [_style.plain(f"{c} {r}") for c, r in zip(table["column"], table["row"], strict=True)]
    layers = [grid.spread(hover[name], "", object) for name in _HOVER] + [grid.spread(names, "", object)]
    return go.Heatmap(
        name="gates",
        x=np.arange(len(grid.columns)),
        y=np.arange(len(grid.rows)),
        z=grid.spread(values),
        customdata=np.stack(layers, axis=-1),
        hovertemplate="<br>".join(lines) + "<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
        colorbar={
            "title": {"text": _LABELS[value], "side": "right", "font": {"size": 12}},
            "thickness": 12,
            "outlinewidth": 0,
            "len": 1,
            "y": 0.5,
            "x": 1.01,
            "ticks": "outside",
            "ticklen": 3,
        },
        **scale,
    )


def _dress(figure: go.Figure, grid: Grid) -> None:
    n_rows, n_columns = len(grid.rows), len(grid.columns)
    at = [i for i, label in enumerate(grid.columns) if label]
    bare = {"showgrid": False, "showline": False, "ticks": "", "zeroline": False, "fixedrange": False}
    figure.update_xaxes(
        tickmode="array",
        tickvals=at,
        ticktext=[grid.columns[i] for i in at],
        # Upright labels need no width: 50 columns stay legible in a narrow notebook.
        tickangle=-90 if n_columns > 16 else 0,
        tickfont={"size": 11 if n_columns <= 40 else 9},
        range=[-0.5, n_columns - 0.5],
        **bare,
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(n_rows)),
        ticktext=[_style.plain(row) for row in grid.rows],
        tickfont={"size": 11},
        range=[n_rows - 0.5, -0.5],
        **bare,
    )
    if len(grid.stacks) > 1:
        for letter, (first, last) in grid.stacks.items():
            figure.add_annotation(
                text={"E": "encoder", "D": "decoder"}.get(letter, letter),
                x=(first + last) / 2,
                y=1,
                yref="paper",
                yanchor="bottom",
                yshift=2,
                showarrow=False,
                font={"size": 12, "color": _style.MUTED},
            )
    figure.update_layout(
        height=max(260, 150 + _ROW_PX * n_rows),
        margin={"t": 76, "b": 56},
        legend={"x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "orientation": "h"},
    )


def _title(source: Run | Structure, table: pd.DataFrame, budget: Budget | None, step: int) -> str:
    n_chosen = int(table["selected"].sum())
    params = int(table.loc[table["selected"], "n_params"].sum())
    chosen = f"{n_chosen:,} gates chosen, {params:,} parameters"
    if isinstance(source, Structure):
        return f"{_style.plain(source.backbone)} · {chosen}" if source.backbone else chosen
    words = [_style.plain(source.name), chosen]
    if budget is not None:
        words.append(f"at budget {_style.plain(budget)}")
    if source.n_steps:
        number = int(source.steps(last=1)["step"].iloc[0]) if step == -1 else step
        words.append(f"step {number:,}" if step >= -1 else f"step {step}")
    return " · ".join(words)


def _shown(values: pd.Series, form: str) -> list[str]:
    return [format(float(v), form) if np.isfinite(v) else "–" for v in values]
