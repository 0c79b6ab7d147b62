"""How gate probabilities moved during a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.runs import Run
from s3pet_viz.sources import RUN, RunLike, open_source
from s3pet_viz.structure import ranks

#: Steps drawn at most; a screen is not wider, and 10,000 steps of 12 gates would be 2 MB.
_MAX_STEPS = 500
#: Points drawn at most for the gates that are not named.
_MAX_CONTEXT = 40_000


def trace_table(
    run: RunLike, *, gates: Sequence[int | str] | None = None, top: int = 12, max_steps: int = _MAX_STEPS
) -> pd.DataFrame:
    """The numbers behind `trace`, one row per step and gate.

    Columns: step, gate (index), name, row, column, p, alpha, selected.

    Args:
        run: a run, or its path.
        gates: which gates, as `Run.trace` names them. None: the `top` gates by final alpha.
        top: how many, where `gates` is None.
        max_steps: longer runs are thinned to about this many steps, evenly; the last one always stays.

    Raises:
        RunError: no such run or gate.
        ConfigError: `top` or `max_steps` below 1.
    """
    source = open_source(run, allow=RUN, what="run")
    if top < 1 or max_steps < 1:
        raise ConfigError(f"top, max_steps: expected 1 or more, found {top}, {max_steps}")
    if gates is None:
        order = np.argsort(ranks(source.alpha())) if source.n_steps else np.arange(len(source.gates_list))
        gates = order[:top].tolist()
    table = source.trace(gates, step_stride=max(1, -(-source.n_steps // max_steps)))
    chosen = source.structure().keys if source.n_steps else frozenset()
    selected = np.array([g.key in chosen for g in source.gates_list])
    names = [gate.label for gate in source.gates_list]
    table.insert(2, "name", [names[i] for i in table["gate"]])
    table["selected"] = selected[table["gate"].to_numpy(dtype=np.int64)]
    return table


@themed
def trace(run: RunLike, *, gates: Sequence[int | str] | None = None, top: int = 12, **look: Unpack[Look]) -> go.Figure:
    """Draw p over steps: named gates in colour (chosen ones marked ● and drawn thicker), the others in grey.

    Args:
        run: a run, or its path.
        gates, top: which gates are named, as `trace_table`.
        title: instead of the run's name. theme: ``light`` or ``dark``.

    Returns:
        A figure with one grey trace ("other gates") and one trace per named gate, highest final p first.
    """
    source = open_source(run, allow=RUN, what="run")
    table = trace_table(source, gates=gates, top=top)
    figure = _style.new_figure(look, f"{_style.plain(source.name)} · gate probabilities")
    named = set(table["gate"])
    if source.n_steps:
        _add_context(figure, source, [g.index for g in source.gates_list if g.index not in named])
    last = table.groupby("gate", sort=False).last().sort_values("p", ascending=False, kind="stable")
    for place, gate in enumerate(last.index):
        rows = table[table["gate"] == gate]
        chosen = bool(last.loc[gate, "selected"])
        name = _style.plain(last.loc[gate, "name"])
        colour = _style.CATEGORICAL[place % len(_style.CATEGORICAL)]
        dash = _style.DASHES[place // len(_style.CATEGORICAL) % len(_style.DASHES)]
        label, width = (f"● {name}", 2.2) if chosen else (f"○ {name}", 1.2)
        hover = f"<b>{name}</b><br>step %{{x:,}}   p = %{{y:.4g}}"
        x, y = rows["step"].to_numpy(), rows["p"].to_numpy()
        figure.add_trace(_style.line(x, y, label, colour, width, dash=dash, hover=hover))
    figure.update_xaxes(title="search step", showgrid=False)
    figure.update_yaxes(title="gate probability p", rangemode="tozero")
    legend = {"x": 1.01, "y": 1, "font": {"size": 11}, "title": {"text": "● chosen   ○ not chosen"}}
    figure.update_layout(height=440, showlegend=True, legend=legend)
    return figure


def _add_context(figure: go.Figure, run: Run, others: list[int]) -> None:
    """The other gates, as one trace of broken lines, thinned to what a browser draws at once."""
    if not others:
        return
    n_steps = min(run.n_steps, 60)
    shown = others[:: max(1, -(-len(others) * n_steps // _MAX_CONTEXT))]
    rows = np.unique(np.linspace(0, run.n_steps - 1, n_steps).astype(np.int64))
    steps = run.steps()["step"].to_numpy()[rows]
    p = run.ps()[np.ix_(rows, np.array(shown, dtype=np.int64))].T
    gap = np.full((len(shown), 1), np.nan, dtype=np.float32)  # float32 halves what travels to the browser
    name = f"other gates ({len(shown):,} of {len(others):,})" if len(shown) < len(others) else "other gates"
    x = np.tile(np.append(steps, np.nan).astype(np.float32), len(shown))
    figure.add_trace(_style.line(x, np.hstack([p, gap]).ravel(), name, _style.PALE, 0.8, opacity=0.6))
