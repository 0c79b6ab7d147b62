"""At the cut: the last gates that a budget chose, and the first that it did not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.analysis.explanation import Explanation
from s3pet_viz.analysis.first_order import first_order
from s3pet_viz.config.checks import whole
from s3pet_viz.errors import RunError, S3PETError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import shorten, view
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.figures.heatmap import table_of
from s3pet_viz.runs import Run
from s3pet_viz.sources import RUN, RunLike, open_source, open_sources

_ROW_PX = 24
_IN, _FILL, _OUT = "#4a8cc2", "#86b3d9", _style.PALE
_NUMBERS = ("p", "alpha", "distance", "n_params", "importance", "importance_se", "seeds", "of", "gain", "swap_cost")


def cut_table(
    run: RunLike,
    *,
    n: int = 8,
    seeds: RunLike | Iterable[RunLike] = (),
    explanation: Explanation | None = None,
    scores: Any = None,
) -> pd.DataFrame:
    """The numbers behind `cut`: the last `n` gates in and the first `n` out by rank, the highest rank first.

    Columns: gate (index), name, side (``in``, ``fill``: in only because a likelier gate did not fit, or ``out``), rank,
    p, alpha, distance (alpha less that of the first gate that did not fit), n_params; importance and importance_se (how
    much the validation loss rises without the gate, where the run was explained; NaN else); seeds and of (how many of
    how many runs chose it, this one among them); gain (first order, `s3.why_not`; ``table.attrs["gain"]`` says of
    what); of gates out also swap_for (the lowest ranked gates that have to leave for it to fit, joined by " + "; "" if
    it fits as it is) and swap_cost (their gain less its own: above 0, the swap costs by first order). What a swap costs
    is measured by `s3.what_if`. Units of several runs are matched by their order at a position, as in `heatmap_table`.

    Args:
        run: a run, or its path.
        n: so many of each side at most.
        seeds: runs of other seeds, or their paths; the run itself among them counts once.
        explanation: of this run's structure; None: the run's own, if it has one.
        scores: `s3.score` of the same space, where the run has recorded no gradients.

    Raises:
        RunError: no such run, no steps yet, or an explanation of another structure. ConfigError: `n` below 1; runs that
            share no gate.
    """
    source: Run = open_source(run, allow=RUN, what="run")
    n = whole("n", n, 1)
    if not source.n_steps:
        raise RunError(f"{source.path}: no steps recorded yet, so nothing was chosen")
    one = view(source)
    several = isinstance(seeds, (list, tuple)) and not seeds
    found_seeds = [] if several else open_sources(seeds, allow=RUN, what="seeds")
    # A reader gives all seeds, the run's own among them: it counts once.
    others = [view(run) for path, run in {run.path: run for run in found_seeds}.items() if path != source.path]
    joint = table_of([one, *others])[0]  # the gates of the first come first, in their order
    found = first_order(source, scores)
    explained = explanation or _own(source)
    effects = {e.gate.key: e for e in explained.effects} if explained is not None else {}
    rank = one.rank.astype(np.int64)
    order = np.argsort(rank)
    inside, outside = order[one.selected[order]], order[~one.selected[order]]
    counts = one.counts
    room = source.searched_budget() - int(counts[one.selected].sum())
    rows = []
    for i in sorted([*inside[-n:], *outside[:n]], key=lambda i: rank[i]):
        gate, effect = one.gates[i], effects.get(one.gates[i].key)
        side = "out" if not one.selected[i] else "fill" if one.fill[i] else "in"
        leaving = [] if one.selected[i] else _leaving(int(counts[i]), room, inside, counts)
        swap = float(np.sum(found.gain[leaving]) - found.gain[i]) if side == "out" and leaving is not None else np.nan
        rows.append(
            {
                "gate": gate.index,
                "name": gate.label,
                "side": side,
                "rank": int(rank[i]),
                "p": float(one.p[i]),
                "alpha": float(one.alpha[i]),
                "distance": float(one.alpha[i] - one.cut),
                "n_params": gate.n_params,
                "importance": effect.loss_increase if effect else np.nan,
                "importance_se": effect.loss_increase_se if effect else np.nan,
                "seeds": int(joint["count"].iloc[i]) if others else int(one.selected[i]),
                "of": int(joint["runs"].iloc[i]) if others else 1,
                "gain": float(found.gain[i]),
                "swap_for": " + ".join(one.gates[j].label for j in leaving or []),
                "swap_cost": swap,
            }
        )
    table = pd.DataFrame(rows)
    table.attrs["gain"] = found.words
    return table


def _own(run: Run) -> Explanation | None:
    try:
        return Explanation.load(run)
    except S3PETError:  # not explained yet, or another structure's
        return None


def _leaving(size: int, room: int, inside: np.ndarray, counts: np.ndarray) -> list[int] | None:
    """The lowest ranked gates to take out so that one of this size fits; None where none would do."""
    leaving: list[int] = []
    for i in inside[::-1]:
        if size <= room:
            break
        leaving.append(int(i))
        room += int(counts[i])
    # A large one may have made small ones needless.
    for i in sorted(leaving, key=lambda i: counts[i]):
        if size <= room - counts[i]:
            leaving.remove(i)
            room -= int(counts[i])
    return leaving if size <= room else None


@themed
def cut(
    run: RunLike,
    *,
    n: int = 8,
    seeds: RunLike | Iterable[RunLike] = (),
    explanation: Explanation | None = None,
    scores: Any = None,
    **look: Unpack[Look],
) -> go.Figure:
    """Draw how far the last gates in and the first out are from the cut, in alpha, and what is known of each.

    Bars to the right were chosen before the first gate that did not fit; pale ones are out. Beside the name: parameters
    and, with other seeds, in how many runs the gate is chosen. At the right, where the run was explained, how much the
    loss rises without each gate, with one standard error.

    Args:
        run, n, seeds, explanation, scores: as `cut_table`.
        title: instead of the run's name. theme: ``light`` or ``dark``.

    Returns:
        A figure with the traces "in", "fills the rest of the budget", "out" and, where known, "importance".
    """
    source = open_source(run, allow=RUN, what="run")
    table = cut_table(source, n=n, seeds=seeds, explanation=explanation, scores=scores)
    figure = _style.new_figure(look, f"{_style.plain(shorten(source.name, 48))} · at the cut")
    measured = bool(table["importance"].notna().any())
    places = np.arange(len(table))
    told = table.astype(object).where(table.notna(), None)
    hover = "<b>%{customdata[0]}</b><br>rank %{customdata[1]}, p = %{customdata[2]}, α %{x:+.4f} from the cut"
    hover += "<br>%{customdata[3]} parameters<br>%{customdata[4]}"
    text = f"{hover}<extra></extra>"
    facts = [
        [_style.plain(r["name"]), f"{r['rank']:,}", f"{r['p']:.4g}", f"{r['n_params']:,}", _style.plain(_swap(r))]
        for r in told.to_dict("records")
    ]
    sides = (("in", _IN, "in"), ("fill", _FILL, "fills the rest of the budget"), ("out", _OUT, "out"))
    for side, colour, name in sides:
        mine = (table["side"] == side).to_numpy()
        if mine.any():
            bar = {
                "marker": {"color": colour, "line": {"width": 0}},
                "orientation": "h",
                "showlegend": True,
                "width": 0.7,
            }
            x, data = table["distance"].to_numpy()[mine], np.array(facts, dtype=object)[mine]
            # A gate on the cut itself has no length: a dot shows it. Without a width, a bar is as wide as its trace's
            # next one is far.
            figure.add_trace(go.Bar(name=name, x=x, y=places[mine], customdata=data, hovertemplate=text, **bar))
    on = np.abs(table["distance"].to_numpy()) == 0
    dot = {"symbol": "line-ns", "size": 12, "line": {"color": _style.INK, "width": 2}}
    if on.any():
        figure.add_trace(_style.markers(np.zeros(int(on.sum())), places[on], "the cut", dot))
    if measured:
        error = {"type": "data", "array": table["importance_se"].to_numpy(), "color": _style.INK, "thickness": 1}
        style = {"symbol": "diamond", "size": 8, "color": _style.OUTLINE, "line": {"width": 1, "color": _style.GROUND}}
        drawn = _style.markers(
            table["importance"].to_numpy(), places, "importance", style, hover="loss %{x:+.5f} without it", xaxis="x2"
        )
        figure.add_trace(drawn.update(error_x=error))
        axis = {"title": {"text": "rise of the loss without it", "standoff": 8}, "anchor": "y", "zeroline": True}
        figure.update_layout(xaxis2={**axis, "domain": [0.7, 1], "nticks": 4, "showline": False})
    ticks = [_style.plain(f"{r['name']} · {r['n_params']:,}{_chosen(r)}") for r in table.to_dict("records")]
    figure.update_yaxes(range=[len(table) - 0.4, -0.6], **_style.BARE, **_style.named(ticks))
    zero = {"zeroline": True, "zerolinecolor": _style.INK, "zerolinewidth": 1}
    words = "α less that of the first gate that did not fit"
    axis = {"domain": [0, 0.66 if measured else 1], "title": {"text": words, "standoff": 8}, **zero}
    figure.update_layout(xaxis=axis, barmode="overlay")
    shown = "gate · parameters" + (" · runs that chose it" if (table["of"] > 1).any() else "")
    figure.update_yaxes(title={"text": shown, "standoff": 8, "font": {"size": 11}})
    _style.place_top(figure, height=max(260, 160 + _ROW_PX * len(table)))
    return figure


def _chosen(row: dict[Any, Any]) -> str:
    return f" · {row['seeds']} of {row['of']}" if row["of"] > 1 else ""


def _swap(row: dict[Any, Any]) -> str:
    if row["side"] != "out":
        return "chosen" if row["side"] == "in" else "chosen to fill what is left of the budget"
    cost = "" if row["swap_cost"] is None else f", first order {row['swap_cost']:+.3g}"
    return f"in its place: {row['swap_for']} out{cost}" if row["swap_for"] else f"not chosen{cost}"
