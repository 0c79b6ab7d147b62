"""Ways to place PET modules, side by side: search, scores, baselines, for one task and budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Unpack, cast, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.analysis.ways import Ways
from s3pet_viz.analysis.ways_gathered import Choice, WaysLike, takes_choice, ways_of
from s3pet_viz.analysis.ways_missing import SCORED, TRAINED
from s3pet_viz.config.checks import among, whole
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import shorten
from s3pet_viz.figures._grid import Grid, tiles
from s3pet_viz.figures._panels import Panel, panels
from s3pet_viz.figures._theme import Look, themed

Of = Literal["ways", "gates", "pairs"]
#: More are no longer told apart.
MOST = 24
_ROW_PX = 34


@takes_choice
def ways_table(source: WaysLike | Ways, *, of: Of = "ways", draws: int = 199, **choice: Unpack[Choice]) -> pd.DataFrame:
    """The numbers behind `ways`. What could not be compared is in ``.attrs["left_out"]``, with the reason; what a study
    lacks in ``.attrs["missing"]``, with the call that makes it.

    Args:
        source: a study, its folder or a recorded study's name; a mapping of names to runs, structures, scores, paths,
            what was trained (`Scores`), or lists of these (seeds); or a list of `Scores`, by their methods. Or what
            `ways_of` gathered.
        task: of a study that has several.
        budget: of a study, as it is written there; None: that of most trainings. Of a mapping: runs and scores are
            solved at it.
        seed: of a study; None: all. methods: which, in this order; None: all.
        space: a run or scores, whose gates random structures are drawn from where a structure comes without a space.
        compute: score ``gora`` and ``plop`` on the spot where a study lacks them. See `analysis.ways_gathered.Choice`.
        of: ``ways``, a row per way: method, structures (how many), gates and params (means), of_budget (params over the
            budget), score, low, high (mean and 95 % interval, of scores from 0 to 1 cut there; NaN where not
            known), n (trainings), metric, overlap (mean Jaccard with the first), chance, above.
            ``gates``, a row per way and place: method, row, column, position, pet_type, share (of its structures; NaN
            where it could not choose the place), units (mean number chosen), most (whether more than half chose it),
            structures.
            ``pairs``, a row per pair: a, b, overlap, chance, low, high (of random structures of the same budgets; NaN
            where a search space is not known), above, pairs.
        draws: of random structures.

    Raises:
        ConfigError: a task, budget, seed, method or way to look that there is none of; nothing to compare.
        StudyError, SourceError, RunError, StructureError, BudgetError: what cannot be opened, or solved again.
    """
    among("of", of, get_args(Of))
    whole("draws", draws, 1)
    made = _gathered(source, choice)
    table = (
        made.cells().drop(columns="place")
        if of == "gates"
        else (made.pairs if of == "pairs" else made.table)(draws=draws)
    )
    table.attrs |= {"left_out": dict(made.left_out), "missing": dict(made.missing)}
    return table


class _Drawn(Choice, Look, total=False):
    """What `ways` takes beside its own."""


def _gathered(source: WaysLike | Ways, choice: Mapping[str, Any]) -> Ways:
    """What `ways_of` has gathered already, if it is that."""
    return (
        source if isinstance(source, Ways) and not any(choice.values()) else ways_of(cast(WaysLike, source), **choice)
    )


@themed
@takes_choice
def ways(source: WaysLike | Ways, *, columns: int = 3, draws: int = 199, **options: Unpack[_Drawn]) -> go.Figure:
    """Draw where each way places, a small heatmap each, and beneath how far they agree.

    A cell's colour is the share of the way's structures (seeds) that chose it; those chosen by more than half are
    outlined. The head of a panel says the score where it is known, the size, and the overlap with the first panel. In
    the matrix stands the mean Jaccard, and in brackets what random structures of the same budgets give; on its diagonal
    how far a way's own seeds agree.

    Args:
        source, task, budget, seed, methods, space, compute, draws: as `ways_table`.
        columns: panels beside each other.
        title: instead of task and budget. theme: ``light`` or ``dark``.

    Returns:
        A figure with a heatmap and an outline per way, in their order, and a last heatmap, "agreement".

    Raises:
        As `ways_table`; ConfigError: columns below 1, or more than 24 ways.
    """
    whole("columns", columns, 1)
    whole("draws", draws, 1)
    choice: Any = {name: value for name, value in options.items() if name in Choice.__annotations__}
    look: Any = {name: value for name, value in options.items() if name not in choice}
    made = _gathered(source, choice)
    if len(made.ways) > MOST:
        raise ConfigError(
            f"ways: expected at most {MOST} to draw beside each other, found {len(made.ways)}; choose some (methods=)"
        )
    table, cells, pairs = made.table(draws=draws), made.cells(), made.pairs(draws=draws)
    grid = Grid(list(made.gates))
    drawn: list[Panel] = []
    for row in table.to_dict("records"):
        part = cells[cells["method"] == row["method"]]
        told = [
            f"<b>{_style.plain(f'{cell.column} {cell.row}')}</b><br>"
            + (
                "not to choose from"
                if np.isnan(cell.share)
                else f"chosen by {round(cell.share * cell.structures)} of {cell.structures}"
            )
            + (f"<br>{cell.units:.3g} units" if cell.units else "")
            for cell in part.itertuples()
        ]
        below = [_score(row), _size(row)]
        if drawn:
            below.append(f"overlap with the first {row['overlap']:.2f}")
        numbers = (part["place"].to_numpy(), part["share"].to_numpy(), told, part["most"].to_numpy())
        drawn.append(Panel(row["method"], *numbers, tuple(line for line in below if line)))
    named = [word for word in (made.task, made.budget) if word]
    words = " · ".join(
        ["Ways to place", *map(_style.plain, named), "share of seeds that chose a gate, outlined: more than half"]
    )
    if made.left_out:
        out = "; ".join(f"{name} {why}" for name, why in made.left_out.items())
        words += _style.plain(f" · left out: {shorten(out, 70)}")
    for name, how in (("not scored", SCORED), ("not trained", TRAINED)):
        if lacking := [one for one in made.missing if one in how]:
            words += f" · {name}: {', '.join(lacking)}{' (compute=True)' if how is SCORED else ''}"
    n = len(made.ways)
    known = pairs["chance"].notna().any()
    head = f"Agreement (mean Jaccard{'' if made.ranked else ' of places'}{'; in brackets: by chance' if known else ''})"
    figure, last = panels(drawn, grid, look, words, columns=columns, top=1.0, bar="share", beneath=(_ROW_PX * n, head))
    _matrix(figure, made, pairs, last)
    return figure


def _score(row: dict[Any, Any]) -> str:
    if not row["n"]:
        return ""
    score, low, high = (float(str(row[name])) for name in ("score", "low", "high"))
    between = f" ({low:.3f} to {high:.3f})" if np.isfinite(low) else ""
    return f"score {score:.3f}{between}, n = {row['n']}"


def _size(row: dict[Any, Any]) -> str:
    params, of = float(str(row["params"])), float(str(row["of_budget"]))
    return f"{params:,.0f} params" + (f", {of:.0%} of budget" if np.isfinite(of) else "")


def _matrix(figure: go.Figure, made: Ways, pairs: pd.DataFrame, row: int) -> None:
    """The agreement of each pair, in the last plot."""
    names = [way.name for way in made.ways]
    n = len(names)
    z, text, told = np.full((n, n), np.nan), np.full((n, n), "–", dtype=object), np.full((n, n), "", dtype=object)
    at = {name: i for i, name in enumerate(names)}
    for pair in pairs.to_dict("records"):
        i, j = at[pair["a"]], at[pair["b"]]
        if not np.isfinite(pair["overlap"]):
            said = "one structure, no pair"
        else:
            said, short = f"overlap {pair['overlap']:.3f}, {pair['pairs']} pairs", f"{pair['overlap']:.2f}"
            if np.isfinite(pair["chance"]):
                said += f"<br>by chance {pair['chance']:.3f} ({pair['low']:.3f} to {pair['high']:.3f})"
                short += f" ({pair['chance']:.2f})"
            text[[i, j], [j, i]] = short
        z[[i, j], [j, i]] = pair["overlap"]
        who = " – ".join(names[k] for k in (i, j)) if i != j else f"{names[i]}, its own seeds"
        told[[i, j], [j, i]] = f"<b>{_style.plain(who)}</b><br>{said}"
    colours = {"colorscale": _style.SEQUENTIAL, "zmin": 0, "zmax": 1, "showscale": False, "hoverongaps": False}
    trace = tiles("agreement", np.arange(n), np.arange(n), z, told, "%{customdata}", **colours)
    figure.add_trace(
        trace.update(text=text, texttemplate="%{text}", textfont={"size": 11 if n <= 8 else 8}), row=row, col=1
    )
    ticks = _style.named([_style.plain(shorten(name, 16)) for name in names], size=10)
    fits = 6.5 * n * max(len(label) for label in ticks["ticktext"]) < 560
    figure.update_xaxes(
        tickangle=0 if fits else -90, automargin=True, range=[-0.5, n - 0.5], **ticks, **_style.BARE, row=row, col=1
    )
    figure.update_yaxes(range=[n - 0.5, -0.5], automargin=True, **ticks, **_style.BARE, row=row, col=1)
