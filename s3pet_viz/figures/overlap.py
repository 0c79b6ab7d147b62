"""How alike several structures are: a matrix of overlaps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, Literal, Unpack, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.analysis.measures import need_sizes, spearman
from s3pet_viz.config.checks import among
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import View, expected_ranks, labels, view
from s3pet_viz.figures._grid import bar, tiles
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import Source, open_sources
from s3pet_viz.structure import Structure
from s3pet_viz.structure.units import comparable

By = Literal["gates", "params", "spearman"]
_TITLES = {
    "gates": "Overlap of the chosen gates (Jaccard)",
    "params": "Overlap of the chosen gates by parameters (Jaccard)",
    "spearman": "Rank correlation of p (Spearman)",
}
_BARS = {"gates": "Jaccard, gates", "params": "Jaccard, parameters", "spearman": "Spearman of p"}
_NUMBERS = 16  # runs up to which each cell shows its number


def overlap_table(
    runs: Iterable[Source], *, by: By | None = None, budget: Budget | None = None, step: int = -1
) -> pd.DataFrame:
    """The numbers behind `overlap`, one row per ordered pair.

    Columns: a, b (labels, from what tells the runs apart: task, budget, seed, ...), shared (gates chosen by both),
    and gates, params, spearman: Jaccard by gates, by parameters, and rank correlation of p over the gates that both
    have; NaN where sizes or p are not known. Units compare the rank of a position: how many of them are chosen, and the
    sum of their p; with a whole gate at the same position, whether there is one.

    Args:
        runs: runs, structures, published files, or their paths.
        by: which of the three is needed and must be known.
        budget: every run solved again at one budget.
        step: a recorded step of runs.

    Raises:
        ConfigError: fewer than two sources, or `by` is none of these.
        StructureError: `by` is "params" and sizes are not known; a damaged file.
        RunError, BudgetError: as `heatmap_table`.
    """
    if by is not None:
        among("by", by, get_args(By))
    sources = open_sources(runs)
    if len(sources) < 2:
        raise ConfigError(f"overlap: expected at least two runs or structures, found {len(sources)}")
    views = [view(source, budget=budget, step=step) for source in sources]
    if by == "params":
        for one in views:
            need_sizes(one.gates, "overlap by parameters")
    names = labels(sources, most=28)
    structures = [Structure(tuple(itertools.compress(one.gates, one.selected))) for one in views]
    rows = []
    for (i, a), (j, b) in itertools.product(enumerate(structures), repeat=2):
        sized = all(gate.n_params > 0 for gate in (*a.gates, *b.gates))
        by_params = a.overlap(b, weighted=True) if sized else float("nan")
        ranked = _correlation(views[i], views[j])
        mine, theirs = comparable(a.gates, b.gates)
        rows.append((names[i], names[j], len(mine.keys() & theirs.keys()), a.overlap(b), by_params, ranked))
    return pd.DataFrame(rows, columns=["a", "b", "shared", "gates", "params", "spearman"])


@themed
def overlap(
    runs: Iterable[Source], *, by: By = "gates", budget: Budget | None = None, step: int = -1, **look: Unpack[Look]
) -> go.Figure:
    """Draw the matrix of overlaps.

    Args:
        runs, budget, step: as `overlap_table`.
        by: ``gates`` (Jaccard), ``params`` (Jaccard by parameters) or ``spearman`` (of p).
        title: instead of what `by` means. theme: ``light`` or ``dark``.

    Returns:
        A figure with one heatmap; up to 16 runs each cell shows its number.
    """
    sources = open_sources(runs)
    table = overlap_table(sources, by=by, budget=budget, step=step)
    n = len(sources)
    values = table[by].to_numpy().reshape(n, n)
    names = [_style.plain(name) for name in table["b"][:n]]
    text = [[f"{v:.2f}" if np.isfinite(v) else "–" for v in row] for row in values]
    low = -1 if by == "spearman" and np.nanmin(values, initial=0) < 0 else 0
    shared = table["shared"].to_numpy().reshape(n, n)
    hover = np.array([[[names[i], names[j], text[i][j], str(shared[i, j])] for j in range(n)] for i in range(n)])
    figure = _style.new_figure(look, _TITLES[by])
    template = "%{customdata[0]}<br>%{customdata[1]}<br><b>%{customdata[2]}</b>, %{customdata[3]} gates shared"
    style: dict[str, Any] = {"colorscale": _style.DIVERGING if low else _style.SEQUENTIAL, "zmin": low, "zmax": 1}
    style |= {"text": text, "texttemplate": "%{text}" if n <= _NUMBERS else None, "colorbar": bar(_BARS[by])}
    places = list(range(n))
    figure.add_trace(tiles("overlap", places, places, values, hover, template, **style))
    bare = {**_style.BARE, **_style.named(names, size=11 if n <= 24 else 9), "ticklabelstandoff": 4}
    # Upright unless every label fits its column in a narrow notebook.
    widest = max(len(name) for name in names)
    figure.update_xaxes(tickangle=0 if widest * 6.5 * n < 380 else -90, range=[-0.5, n - 0.5], **bare)
    figure.update_yaxes(range=[n - 0.5, -0.5], **bare)
    size = max(22, min(48, 640 // n)) if n <= 24 else 14
    _style.place_top(figure, height=150 + size * n + min(200, 7 * widest), legend=False)
    return figure


def _correlation(a: View, b: View) -> float:
    # Of alpha, which has the order of p and does not saturate; where ranks are chosen, of the expected rank.
    if any(g.unit is not None for g in (*a.gates, *b.gates)):
        mine, theirs = (expected_ranks(one) for one in (a, b))
    else:
        mine, theirs = ({g.key: alpha for g, alpha in zip(one.gates, one.alpha, strict=True)} for one in (a, b))
    both = [key for key in mine if key in theirs]
    return spearman([mine[key] for key in both], [theirs[key] for key in both])
