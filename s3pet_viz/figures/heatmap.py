"""The heatmap that explains a search: rows = module and PET type, columns = layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.analysis.annotate import INERT, Annotate, annotation
from s3pet_viz.analysis.grid import rows_of
from s3pet_viz.config.checks import among
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import View, joint_gates, left_out, pinned, shorten, spread, view
from s3pet_viz.figures._grid import (
    FILLS,
    Grid,
    Scale,
    add_chosen,
    add_inert,
    add_pinned,
    axes,
    cells,
    fitted,
    letters,
    limits,
)
from s3pet_viz.figures._theme import Look, themed
from s3pet_viz.runs import Run
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import Opened, Sources, open_sources
from s3pet_viz.structure import Gate, Structure, ranks

Value = Literal["p", "alpha", "rank", "selected", "count"]

_COLUMNS = ("gate", "row", "column", "stack", "layer", "module", "pet_type", "position", "n_params")
_LABELS = {
    "p": "gate probability p",
    "alpha": "structure parameter α",
    "rank": "rank by α",
    "selected": "",
    "count": "runs that chose it",
}
#: Numbers that are told on hovering, and how they are written.
_NUMBERS = {"p": ".4g", "alpha": "+.4f", "rank": ".0f", "distance": "+.4f"}


def heatmap_table(runs: Sources, *, budget: Budget | None = None, step: int = -1) -> pd.DataFrame:
    """The numbers behind `heatmap`, one row per gate.

    Columns: gate (index), row, column, stack, layer, module, pet_type, position, n_params, p, alpha, rank
    (1 = highest alpha), selected, fill (selected only to fill what is left of the budget: a likelier gate did not fit),
    distance (alpha less that of the first gate that did not fit), count (how many sources chose it), runs (how many
    have it). For a structure only its own gates, p, alpha, rank and distance missing (NaN). Of several sources gates
    are matched by position and PET type; p and alpha are means over those that have the gate, rank is by mean p,
    selected by more than half of all, and fill and distance are not known. Of a space that offers ranks also unit, and
    units of several sources are matched by their order at a position, never unit by unit.

    Args:
        runs: a run, its path, a structure, a published file; or several of them.
        budget: p with the shift solved again, and the selection, at another budget.
        step: a recorded step; -1 = the last. A run without steps yet: p, alpha, rank are NaN, none selected.

    Raises:
        RunError: no such run or step.
        BudgetError: the budget cannot be parsed, or is below the smallest module.
        StructureError: a structure file or published file is damaged.
        ConfigError: no source at all, or several that share no gate.
    """
    return table_of([view(source, budget=budget, step=step) for source in open_sources(runs)])[0]


def table_of(views: Sequence[View]) -> tuple[pd.DataFrame, tuple[Gate, ...]]:
    """`heatmap_table` of views, and its gates."""
    gates, places = joint_gates(views)
    count = spread(views, places, len(gates), "selected", False).sum(axis=0)
    present = np.bincount(np.concatenate(places), minlength=len(gates))
    known_p, known_alpha = (spread(views, places, len(gates), name, np.nan) for name in ("p", "alpha"))
    known = np.isfinite(known_p).sum(axis=0)
    p, alpha = (
        np.where(known > 0, np.nansum(v, axis=0) / np.maximum(known, 1), np.nan) for v in (known_p, known_alpha)
    )
    fill, distance = np.zeros(len(gates), dtype=bool), np.full(len(gates), np.nan)
    if len(views) == 1:
        p, alpha, rank, selected = views[0].p, views[0].alpha, views[0].rank, views[0].selected
        fill, distance = views[0].fill, alpha - views[0].cut
    else:
        selected = count * 2 > len(views)
        rank = np.where(known > 0, ranks(np.where(known > 0, p, -1.0)), np.nan)
    table = gates_frame(gates, _COLUMNS).assign(p=p, alpha=alpha, rank=rank, selected=selected, fill=fill)
    if any(gate.unit is not None for gate in gates):
        table = table.assign(unit=pd.array([gate.unit for gate in gates], dtype="Int64"))
    return table.assign(distance=distance, count=count, runs=present), gates


def by_cell(table: pd.DataFrame, gates: Sequence[Gate]) -> tuple[pd.DataFrame, list[Gate]]:
    """A table of gates as one of cells, and a gate of each: units of a position are one cell.

    There p is the sum over the units (the expected rank), ``chosen_units`` how many are chosen (the rank), and
    ``units`` how many there are; 0 of a gate that is none. Without units the table is as it was.
    """
    if "unit" not in table:
        return table, list(gates)
    places = pd.Series([gate.place for gate in gates], index=table.index)
    first = ~places.duplicated()
    told = table.assign(units=table["unit"].notna(), only_fill=table["fill"] | ~table["selected"])
    told["chosen_units"] = told["selected"] & told["units"]
    grouped = told.groupby(places.map({place: i for i, place in enumerate(places[first])}), sort=True)
    made = table[first].reset_index(drop=True)
    made["p"] = grouped["p"].sum(min_count=1)
    for name, how in (("alpha", "max"), ("rank", "min"), ("distance", "max"), ("count", "max"), ("runs", "max")):
        made[name] = grouped[name].agg(how)
    made["selected"] = grouped["selected"].any()
    made["fill"] = grouped["only_fill"].all() & made["selected"]
    for name in ("units", "chosen_units"):
        made[name] = grouped[name].sum().astype(int)
    return made, [gate for gate, lead in zip(gates, first, strict=True) if lead]


def _add_units(table: pd.DataFrame, leads: Sequence[Gate], inside: Sequence[Gate]) -> None:
    """Count units that were pinned in with the rank, and the expected rank, of the cell that they share; in place."""
    at = {gate.place: i for i, gate in enumerate(leads) if gate.unit is not None}
    for gate in inside:
        if gate.unit is not None and gate.place in at:
            table.loc[at[gate.place], ["p", "units", "chosen_units"]] += 1


def gates_frame(gates: Sequence[Gate], columns: Sequence[str]) -> pd.DataFrame:
    """Facts of gates: ``gate`` is the index, ``row`` the label in a grid, other columns are attributes of a gate."""
    facts = {name: [getattr(gate, "index" if name == "gate" else name) for gate in gates] for name in columns}
    return pd.DataFrame(facts | {"row": rows_of(gates)})


@themed
def heatmap(
    runs: Sources,
    *,
    value: Value | None = None,
    budget: Budget | None = None,
    step: int = -1,
    scale: Scale = "full",
    annotate: Annotate | None = None,
    **look: Unpack[Look],
) -> go.Figure:
    """Draw every gate on the grid of modules and layers; chosen gates are outlined.

    Units share the cell of their position: its colour is the expected rank (the sum of their p), and the number in it
    the rank, that is how many are chosen.

    Dotted outlines are of gates that only fill what is left of the budget: they come after one that did not fit.
    Hatched cells are of gates that the search left out, because the model's output does not depend on their weights.
    A small square or cross is on gates that were pinned in or out by hand: nothing was searched there.

    Args:
        runs: a run, its path, a structure (whose chosen gates are drawn), a published file; or several of them.
        value: what colour means: ``p`` (the default where p is known), ``alpha``, ``rank``, ``selected``, or
            ``count``, in how many of several runs the gate is chosen.
        budget, step: as `heatmap_table`.
        scale: of the colours: ``full`` (of p: 0 to 1, so that pictures can be compared), ``own`` (from the lowest to
            the highest number of this picture), or two numbers. Of alpha, 0 stays in the middle.
        annotate: what stands in the cells, as large as fits: ``rank``, ``seeds`` (k/n: chosen in k of n runs),
            ``importance`` (of a run that was explained), ``alpha``, ``params`` or ``inert`` (which cannot help). Where
            cells would be too narrow the figure is made wider, and where that does not help either its title says that
            the text is left out. None: the rank, where ranks are chosen.
        title: instead of the run's name, budget and step. theme: ``light`` or ``dark``.

    Returns:
        A figure with these traces: the heatmap ("gates"), the outlines ("chosen" and, where there are such, "fills the
        rest of the budget"), a casing under them, and where there are such gates the hatching ("cannot help") and the
        marks ("pinned in by hand", "pinned out by hand").

    Raises:
        ConfigError: `value`, `scale` or `annotate` is none of these, or not known for what is drawn.
        RunError, BudgetError, StructureError: as `heatmap_table`.
    """
    sources = open_sources(runs)
    structures = all(isinstance(source, Structure) for source in sources)
    if value is None:
        value = "p" if not structures else "selected" if len(sources) == 1 else "count"
    among("value", value, get_args(Value))
    if structures and value not in ("selected", "count"):
        raise ConfigError(f"value: a structure has no {value}; expected 'selected', or draw the run instead")
    views = [view(source, budget=budget, step=step) for source in sources]
    gate_table, gates = table_of(views)
    table, leads = by_cell(gate_table, gates)
    inert = left_out(sources, gates)
    inside, outside = pinned(sources)
    if len(sources) == 1 and isinstance(sources[0], Run):
        _add_units(table, leads, inside)
    grid = Grid(leads, inert, [*inside, *outside])

    words = _title(sources, views, gate_table, budget, step)
    beside = sources[0].redundant_beside() if len(sources) == 1 and isinstance(sources[0], Run) else {}
    told = [f"adds nothing beside {_style.plain(', '.join(beside[g.key]))}" if g.key in beside else "" for g in leads]
    cells_ = gate_cells(grid, table, value, len(views), scale, told if beside else None)
    if annotate is not None:
        explained = sources[0] if len(sources) == 1 and isinstance(sources[0], Run) else None
        numbers = {name: table[name].to_numpy() for name in ("alpha", "rank", "count", "runs")}
        texts, what = annotation(annotate, leads, explained=explained, **numbers)
        size, width = fitted(grid, [*texts, INERT])
        words += f" · {what}" if size else f" · {what}, left out: the cells are too narrow"
        shown = texts if size else [""] * len(texts)
        cells_.update(text=grid.spread(shown, "", object), texttemplate="%{text}", textfont={"size": size or 1})
    figure = _style.new_figure(look, words)
    figure.add_trace(cells_)
    name = "chosen" if len(views) == 1 else "chosen in most runs"
    # With two colours for chosen and open, outlines would say it twice.
    chosen, fill = table["selected"].to_numpy(), table["fill"].to_numpy()
    add_chosen(figure, grid, chosen, fill, name, visible=value != "selected")
    add_inert(figure, grid, inert)
    add_pinned(figure, grid, inside, outside)
    axes(figure, grid)
    if annotate is not None and size:
        figure.update_layout(width=width)
        if annotate == "inert" and inert:
            figure.add_trace(letters(grid, INERT, size))
    return figure


def gate_cells(
    grid: Grid,
    table: pd.DataFrame,
    value: Value,
    n_runs: int = 1,
    scale: Scale = "full",
    more: Sequence[str] | None = None,
) -> go.Heatmap:
    """The cells of a table as `heatmap_table` makes it, with all that is known of a gate on hovering; `more`: a last
    line a gate."""
    values = table[value].to_numpy(dtype=float)
    most_units = int(table["units"].max()) if "units" in table else 0
    if value == "alpha":
        # Around 0, and as far as alpha goes.
        most = float(np.nanmax(np.abs(values), initial=0)) or 1.0
        reach = max(map(abs, limits("full" if scale == "own" else scale, values, 0, most)))
        ends = -reach, reach
    else:
        ends = limits(
            scale, values, *{"rank": (1, max(2, len(table))), "count": (0, n_runs)}.get(value, (0, most_units or 1))
        )
    colours = {"alpha": _style.DIVERGING, "rank": _style.REVERSED, "selected": _style.BINARY}
    label = "expected rank, the sum of p" if most_units and value == "p" else _LABELS[value]
    look: dict[str, Any] = {"colorscale": colours.get(value, _style.SEQUENTIAL), "zmin": ends[0], "zmax": ends[1]}
    if value == "selected":
        look |= {"zmin": 0, "zmax": 1, "showscale": False}
    if most_units:
        ranks_ = [str(n) if n else "" for n in table["chosen_units"]]
        look |= {"text": grid.spread(ranks_, "", object), "texttemplate": "%{text}", "textfont": {"size": 11}}
    known = table["p"].notna().any() or table["selected"].any()
    if not known:
        chosen = np.full(len(table), "")
    elif n_runs == 1:
        told = np.where(table["fill"], f"<b>{FILLS}</b>", np.where(table["selected"], "<b>chosen</b>", "not chosen"))
        chosen = np.char.add(" · ", told.astype(str))
    else:
        chosen = np.array([f" · chosen in {c} of {n_runs}" for c in table["count"]])
    names, positions = places_of(table)
    hover = [
        names,
        chosen.tolist(),
        positions,
        [f"{n:,} parameters" if n else "size not known" for n in table["n_params"]],
        *(shown(table[name], form) for name, form in _NUMBERS.items()),
    ]
    lines = ["<b>%{customdata[0]}</b>%{customdata[1]}", "%{customdata[2]}", "%{customdata[3]}"]
    if table["p"].notna().any():
        mean = "mean " if n_runs > 1 else ""
        lines.append(
            f"{mean}p = %{{customdata[4]}}   {mean}α = %{{customdata[5]}}   rank %{{customdata[6]}} of {len(table):,}"
        )
    if most_units:
        found = zip(table["units"], table["chosen_units"], strict=True)
        hover.append([f"rank {r} of the {n} offered; p is the sum over them" if n else "one gate" for n, r in found])
        lines.append(f"%{{customdata[{len(hover) - 1}]}}")
    if table["distance"].notna().any():
        lines.append("α is %{customdata[7]} from the cut, the first gate that did not fit")
    if more is not None:
        hover.append(list(more))
        lines.append(f"%{{customdata[{len(hover) - 1}]}}")
    made = cells(grid, values, hover, "<br>".join(lines), label, **look)
    if value == "count" and n_runs <= 12:
        made.colorbar.update(tickmode="linear", tick0=0, dtick=1)
    return made


def _title(
    sources: Sequence[Opened], views: Sequence[View], table: pd.DataFrame, budget: Budget | None, step: int
) -> str:
    n_chosen = int(table["selected"].sum())
    params = int(table.loc[table["selected"], "n_params"].sum())
    chosen = f"{n_chosen:,} gates chosen" + (f", {params:,} parameters" if params else "")
    if inside := pinned(sources)[0]:
        chosen += f" · {len(inside):,} pinned in" + f", {sum(g.n_params for g in inside):,}"
    if len(sources) > 1:
        words = [f"{len(sources)} runs", f"{n_chosen:,} gates chosen in most of them"]
    elif isinstance(sources[0], Structure):
        return f"{_style.plain(sources[0].backbone)} · {chosen}" if sources[0].backbone else chosen
    else:
        words = [_style.plain(shorten(views[0].name, 48)), chosen]
    if budget is not None:
        words.append(f"at budget {_style.plain(budget)}")
    if len(sources) == 1 and views[0].step is not None:
        words.append(f"step {views[0].step:,}" if step >= -1 else f"step {step}")
    return " · ".join(words)


def places_of(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """For hovering: the name of each gate of a table, and its position."""
    names = [_style.plain(f"{c} {r}") for c, r in zip(table["column"], table["row"], strict=True)]
    return names, [_style.plain(p) for p in table["position"]]


def shown(values: pd.Series, form: str) -> list[str]:
    """Numbers as text, a dash where there is none."""
    return [format(float(v), form) if np.isfinite(v) else "–" for v in values]
