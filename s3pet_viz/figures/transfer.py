"""Does a structure serve another task? Scores by source structure and target task, beside the structures' overlap."""

from __future__ import annotations

import os
from typing import Any, TypeAlias, Unpack, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.special import stdtr, stdtrit

from s3pet_viz.analysis import Study, Transfer
from s3pet_viz.analysis.contrast import corrected
from s3pet_viz.analysis.transfer import Relative, Value, against
from s3pet_viz.config.checks import among
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._data import shorten
from s3pet_viz.figures._grid import bar, cased, ring, squares, tiles
from s3pet_viz.figures._theme import Look, themed

#: A transfer matrix, its study, or the path of the study's folder.
TransferLike: TypeAlias = Transfer | Study | str | os.PathLike[str]

#: Targets up to which each cell shows its number.
_NUMBERS = 16
#: Height of the gap above the reference rows, in rows.
_GAP = 0.35
#: Space between the two panels, without and with a colour bar in it.
_BETWEEN, _BETWEEN_BARS = 0.04, 0.16
_LESS = {"own": "the target's own structure's", "random": "the mean of random structures'"}
#: What the legend calls the mark of a cell.
DIFFERS = "differs from it beyond seeds"
_CORNER = 0.4  # from the middle of a cell to its mark, in cells
_HALF = 0.47  # of the side of an outline, in cells


def transfer_table(
    matrix: TransferLike, *, value: Value = "score", relative: Relative | None = None, seed: int | None = None
) -> pd.DataFrame:
    """The numbers behind `transfer`, one row per cell of the matrix, the sources before the reference rows.

    Columns: source (a task, "consensus", a published file, or a reference: random, full, head, ...), target, kind
    ("source", else the reference's name), own (whether it is the target's own structure), value (as `relative` says),
    spread (standard deviation, n - 1 in the divisor; NaN for one training), n (trainings), mean (of the value itself),
    overlap (mean Jaccard of the gates with the target's own structure; NaN where none), low, high (95 % interval of
    value by Student's t), less_own, less_own_low, less_own_high (the value itself less that of the target's own
    structure, mean over seeds, and its interval, corrected for the number of cells), q (of the paired t over seeds, by
    Benjamini and Hochberg over the cells), differs (q at most 0.05: exactly where that interval leaves 0 out). Cells
    without a training yet are NaN, with n = 0; intervals are NaN below two seeds and where all are alike.

    Args:
        matrix: a `Transfer`, its study, or the path of the study's folder.
        value: ``score`` (the task's main metric) or ``loss`` (mean held-out loss; lower is better).
        relative: None: the value. ``own``: less that of the target's own structure, seed by seed. ``random``: less
            the mean of random structures; ``full``: over the mean of full fine-tuning; for these two the yardstick
            counts as known, the spread is the trainings' alone, and the yardstick's own row is left out.
        seed: only the trainings of this seed; None: all.

    Raises:
        ConfigError: `value`, `relative` or `seed` is none of these, or the study has no such yardstick.
        StudyError: not a study folder, or not one of transfer.
    """
    opened = as_transfer(matrix)
    return compared(opened, opened.table(), value, relative, seed)


def compared(
    opened: Transfer, rows: pd.DataFrame, value: Value, relative: Relative | None, seed: int | None
) -> pd.DataFrame:
    """`transfer_table`, of rows that are at hand: `opened.table()`."""
    among("value", value, get_args(Value))
    if relative is not None and relative not in get_args(Relative):
        raise ConfigError(f"relative: expected None or one of {', '.join(get_args(Relative))}, found {relative!r}")
    if relative is not None and relative not in yardsticks(opened):
        there = ", ".join(yardsticks(opened)) or "none"
        raise ConfigError(f"relative: this study has no {relative!r} to compare with; it has: {there}")
    if seed is not None:
        known = sorted(set(rows["seed"]))
        if seed not in known:
            raise ConfigError(f"seed: expected one of {', '.join(map(str, known))}, found {seed!r}")
        rows = rows[rows["seed"] == seed]
    # A reference is named by its kind: a given structure's file may be called "random", too.
    rows = rows.assign(name=rows["source"].where(rows["kind"] == "source", rows["kind"]))
    names = [*opened.sources, *(name for name in opened.references if name != relative)]
    cells = pd.MultiIndex.from_product([names, opened.targets], names=["name", "target"])
    rows["value"] = against(rows, value, relative)
    grouped = rows.groupby(["name", "target"])
    of = grouped[value]
    columns = {"value": grouped["value"].mean(), "spread": grouped["value"].std(), "n": of.count(), "mean": of.mean()}
    table = pd.DataFrame({**columns, "overlap": grouped["overlap"].mean()}).reindex(cells)
    table["n"] = table["n"].fillna(0).astype(np.int64)
    table = table.reset_index().rename(columns={"name": "source"})
    source = np.repeat(np.arange(len(names)) < len(opened.sources), len(opened.targets))
    table.insert(2, "kind", np.where(source, "source", table["source"]))
    table.insert(3, "own", source & (table["source"] == table["target"]).to_numpy())
    error = _errors(table["spread"].to_numpy(dtype=float), table["n"].to_numpy(), table["value"].to_numpy(dtype=float))
    reach = stdtrit(np.maximum(table["n"] - 1, 1), 0.975) * error
    table = table.assign(low=table["value"] - reach, high=table["value"] + reach)
    if relative == "own":
        table.loc[table["own"], ["spread", "low", "high"]] = np.nan  # of a difference that is zero
    return table.join(_less_own(rows, value).reindex(cells).reset_index(drop=True)).assign(
        differs=lambda made: made["differs"] == 1
    )


def _less_own(rows: pd.DataFrame, value: Value) -> pd.DataFrame:
    """Each cell (name, target) less the target's own structure, paired over seeds; of the own ones NaN."""
    by_seed = rows.groupby(["name", "target", "seed"])[value].mean().unstack("seed")
    targets = by_seed.index.get_level_values("target")
    home = pd.MultiIndex.from_arrays([targets, targets], names=by_seed.index.names)
    pairs = by_seed.to_numpy(dtype=float) - by_seed.reindex(home).to_numpy(dtype=float)  # (cells, seeds)
    pairs[by_seed.index.get_level_values("name") == targets] = np.nan
    n, known = np.isfinite(pairs).sum(axis=1), np.isfinite(pairs)
    means = np.where(n > 0, np.where(known, pairs, 0).sum(axis=1) / np.maximum(n, 1), np.nan)
    squares = np.where(known, pairs - means[:, None], 0) ** 2
    spread = np.sqrt(squares.sum(axis=1) / np.maximum(n - 1, 1))
    error, freedom = _errors(spread, n, means), np.maximum(n - 1, 1)
    q, differs, level = corrected(2 * stdtr(freedom, -np.abs(means) / error))
    reach = stdtrit(freedom, (1 + level) / 2) * error
    made = {
        "less_own": means,
        "less_own_low": means - reach,
        "less_own_high": means + reach,
        "q": q,
        "differs": differs,
    }
    return pd.DataFrame({name: np.asarray(of, dtype=float) for name, of in made.items()}, index=by_seed.index)


def _errors(spread: np.ndarray, n: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Standard errors of means; NaN below two values, and where all are alike but for rounding."""
    known = (n > 1) & (spread > 1e-12 * np.maximum(1, np.abs(np.nan_to_num(means))))
    return np.where(known, spread / np.sqrt(np.maximum(n, 1)), np.nan)


@themed
def transfer(
    matrix: TransferLike,
    *,
    value: Value = "score",
    relative: Relative | None = None,
    overlap: bool = True,
    seed: int | None = None,
    **look: Unpack[Look],
) -> go.Figure:
    """Draw the matrix of sources (rows) and targets (columns), and beside it how alike the structures are.

    Each cell holds mean and spread, and is marked where it differs from the target's own structure by more than seeds
    would make it, corrected for the number of cells; hovering tells intervals. Scores that are fractions are shown
    times 100. Stronger (or bluer) is better, for a loss too.
    The colours reach as far as the structures go: full fine-tuning and the head alone may lie beyond.
    One column of a paper has room for three tasks; without the overlap for eight, of a loss for five.

    Args:
        matrix, value, relative, seed: as `transfer_table`.
        overlap: with the second panel, the mean Jaccard of the gates with the target's own structure.
        title: instead of what the numbers are. theme: ``light`` or ``dark``.

    Returns:
        A figure with the heatmap "values", the heatmap "overlap" unless left out, and the outlines of the targets'
        own structures in each. Row i of n sources lies at y = i, the references below a gap.
    """
    opened = as_transfer(matrix)
    rows = opened.table()
    table = compared(opened, rows, value, relative, seed)
    shape = -1, len(opened.targets)
    names = table["source"].to_numpy().reshape(shape)[:, 0].tolist()
    places = np.arange(len(names), dtype=float)
    places[len(opened.sources) :] += _GAP
    words = Words(table, value, relative)
    own = table["own"].to_numpy().reshape(shape)
    numbers = len(opened.targets) <= _NUMBERS
    between = _BETWEEN if numbers else _BETWEEN_BARS
    # As wide as the texts ask for: one of the overlaps has four characters.
    wider = max(1.3, max(len(line) for text in words.cells() for line in text.split("<br>")) / 4)
    end = (1 - between) * wider / (1 + wider) if overlap else 1.0

    seeds = rows["seed"].nunique()
    over = f"seed {seed}" if seed is not None else f"{seeds} seeds, mean ± standard deviation" if seeds > 1 else ""
    at = f"Transfer at {_style.plain(opened.budget)}" if opened.budget else "Transfer"
    said = " · ".join(part for part in (at, words.long, words.better, over) if part)
    figure = _style.new_figure(look, said)
    panels: list[tuple[str, pd.Series, list[str], dict[str, Any], str]] = [
        ("values", table["value"] * words.factor, words.cells(), words.scale(), words.short)
    ]
    if overlap:
        scale = {"colorscale": _style.SEQUENTIAL, "zmin": 0, "zmax": 1}
        overlaps = [f"{value:.2f}" if np.isfinite(value) else "" for value in table["overlap"]]
        panels.append(("overlap", table["overlap"], overlaps, scale, "overlap (Jaccard)"))
    hover = np.array(words.hover(), dtype=object).reshape(*shape, 4)
    # The gap above the references is a row of its own, without a cell.
    edges = np.unique(np.round([places - 0.5, places + 0.5], 9))
    gaps = np.flatnonzero(np.diff(places) > 1) + 1
    # Names of columns stand just below the last row that has an overlap.
    last = places[np.isfinite(table["overlap"].to_numpy(dtype=float).reshape(shape)).any(axis=1)].max(initial=-1)
    lower = overlap and 0 <= last < places[-1]
    on = [{"xaxis": "x"}, {"xaxis": "x2", **({"yaxis": "y2"} if lower else {})}]
    for i, (name, values, text, scale, head) in enumerate(panels):
        tile: dict[str, Any] = {"hoverongaps": False, **on[i], "showscale": not numbers, **scale}
        tile |= {"showlegend": False, "texttemplate": "%{text}" if numbers else None, "textfont": {"size": 11}}
        drawn = tiles(
            name,
            list(range(len(opened.targets))),
            edges.tolist(),
            np.insert(values.to_numpy(dtype=float).reshape(shape), gaps, np.nan, axis=0),
            np.insert(hover, gaps, "", axis=0),
            "<b>%{customdata[0]}</b><br>%{customdata[1]}%{customdata[2]}<br>%{customdata[3]}",
            text=np.insert(np.array(text, dtype=object).reshape(shape), gaps, "", axis=0),
            colorbar={**bar(head), "x": end + 0.01} if i == 0 else bar(head),
            **tile,
        )
        figure.add_trace(drawn)
    row, column = np.nonzero(own)
    x, y = squares(column, places[row], _HALF)
    for i in range(len(panels)):
        style: dict[str, Any] = {**on[i], "legendgroup": "own"}
        figure.add_traces([cased(x, y, **style), ring(x, y, "the target's own structure", **style)])
        figure.data[-1].showlegend = i == 0
    row, column = np.nonzero(table["differs"].to_numpy().reshape(shape))
    if len(row):
        corner = {"symbol": "triangle-ne", "size": 8, "color": _style.OUTLINE}
        corner |= {"line": {"color": _style.GROUND, "width": 1}}
        figure.add_trace(_style.markers(column + _CORNER, places[row] - _CORNER, DIFFERS, corner, showlegend=True))
    domains = [(0.0, end), (end + between, 1.0)][: len(panels)]
    _dress(figure, opened.targets, names, places, domains)
    if lower:
        rows_of = {"range": [last + 0.5, -0.5], "domain": [1 - (last + 1) / (places[-1] + 1), 1], "anchor": "x2"}
        figure.update_layout(xaxis2={"anchor": "y2"}, yaxis2={**rows_of, "showticklabels": False, **_style.BARE})
        figure.update_layout(yaxis2={"zeroline": False})
    for domain, (*_, head) in zip(domains, panels, strict=True):
        _style.head(figure, head, sum(domain) / 2, xref="paper", xanchor="center")
    return figure


class Words:
    """What a table's numbers are called, and how they are written.

    Attributes:
        factor: what values are shown times: 100 for fractions.
        short, long: the value's name above the panel and in the title. better: how to read the colours.
    """

    def __init__(self, table: pd.DataFrame, value: Value, relative: Relative | None) -> None:
        self.table, self.value, self.relative = table, value, relative
        means = np.abs(table["mean"].to_numpy(dtype=float))
        #: Of the value itself, whatever it is compared with.
        self.times = 100.0 if value == "score" and not (means > 1).any() else 1.0
        self.factor = 100.0 if relative == "full" else self.times
        self.form = ".1f" if self.factor == 100 or value == "score" else ".3f"
        if relative in ("own", "random"):
            self.form = "+" + self.form
        name = f"{value} × 100" if self.times == 100 else value
        if relative is None:
            self.short = f"{value} (lower is better)" if value == "loss" else name
            self.long = f"held-out {value}" if value == "loss" else name
        elif relative == "full":
            self.short, self.long = f"{value}, % of full", f"{value} as % of full fine-tuning's"
        else:
            self.short, self.long = f"{value} − {relative}", f"{name} less {_LESS[relative]}"
        lower = "lower is better" if value == "loss" else ""
        colour = "blue is better" if relative in ("own", "random") else "drawn stronger" if lower else ""
        self.better = ", ".join(filter(None, (lower, colour)))

    def cells(self) -> list[str]:
        """The text of each cell: the value, and its spread in a second line."""
        return [
            "–" if np.isnan(value) else self._number(value) + self._spread(spread, "<br>± ")
            for value, spread in self._shown()
        ]

    def hover(self) -> list[list[str]]:
        """Four texts for each cell: which it is, the value, the number of trainings, the overlap."""
        made = []
        for row, (value, spread) in zip(self.table.to_dict("records"), self._shown(), strict=True):
            own = " (its own structure)" if row["own"] else ""
            text = f"{_style.plain(row['source'])} → {_style.plain(row['target'])}{own}"
            told = "no training yet" if not row["n"] else f"{self.short}: {self._number(value)}{self._spread(spread)}"
            if np.isnan(value) and row["n"]:
                told = f"{self.short}: not known"
            if self.relative and row["n"]:
                mean = row["mean"] * self.times
                number = format(mean, ".1f" if self.value == "score" else ".3f") if np.isfinite(mean) else "–"
                told += f" ({self.value} {number})"
            bounds = np.array([row["low"], row["high"]]) * self.factor
            if np.isfinite(bounds).all():
                told += f" (95 % {self._number(bounds[0])} to {self._number(bounds[1])})"
            trained = f", {row['n']} training{'s' if row['n'] != 1 else ''}" if row["n"] else ""
            if row["differs"]:
                less = [self._less(row[name]) for name in ("less_own", "less_own_low", "less_own_high")]
                trained += f" · less the target's own {less[0]} ({less[1]} to {less[2]}, corrected)"
            known = np.isfinite(row["overlap"])
            made.append([text, told, trained, f"overlap {row['overlap']:.2f}" if known else "overlap not known"])
        return made

    def scale(self) -> dict[str, Any]:
        """Colours, as far as structures go: full fine-tuning and the head alone do not set the limits."""
        among = self.table["kind"].isin(["source", "random"])
        values = (self.table.loc[among, "value"] * self.factor).dropna().to_numpy(dtype=float)
        if self.relative in ("own", "random"):
            reach = float(np.abs(values).max()) if len(values) else 0.0
            # Turned round for a loss, so that blue is always the better side.
            places, hues = zip(*_style.DIVERGING, strict=True)
            both = list(zip(places, hues[::-1] if self.value == "loss" else hues, strict=True))
            return {"colorscale": both, "zmin": -(reach or 1), "zmax": reach or 1}
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        if low == high:
            low, high = low - 0.5, high + 0.5
        colours = _style.REVERSED if self.value == "loss" else _style.SEQUENTIAL
        return {"colorscale": colours, "zmin": low, "zmax": high}

    def _shown(self) -> list[tuple[float, float]]:
        pairs = self.table[["value", "spread"]].to_numpy(dtype=float) * self.factor
        return list(map(tuple, pairs.tolist()))

    def _number(self, value: float) -> str:
        text = format(value, self.form)
        # No sign for what rounds to zero.
        return text.lstrip("+-") if float(text) == 0 else text

    def _less(self, value: float) -> str:
        """A difference from the target's own structure."""
        return format(value * self.times, "+.1f" if self.value == "score" else "+.3f")

    def _spread(self, spread: float, before: str = " ± ") -> str:
        return "" if np.isnan(spread) else before + format(spread, self.form.lstrip("+"))


def yardsticks(opened: Transfer) -> list[Relative]:
    """What the values of this study can be compared with."""
    own = set(opened.targets) & set(opened.sources)
    return [name for name in get_args(Relative) if (own if name == "own" else name in opened.references)]


def as_transfer(matrix: TransferLike) -> Transfer:
    """Open a path or a study; a `Transfer` is returned as it is. Raises StudyError: not a study folder, or not one of
    transfer. TypeError: none of these.
    """
    if isinstance(matrix, (Study, str, os.PathLike)):
        return Transfer(matrix)
    if not isinstance(matrix, Transfer):
        raise TypeError(f"expected a Transfer, or the path of a transfer study, found {type(matrix).__name__}")
    return matrix


def _dress(
    figure: go.Figure, targets: list[str], names: list[str], rows: np.ndarray, domains: list[tuple[float, float]]
) -> None:
    """Labels of rows and columns, and a height that two lines of text in each row ask for."""
    most = 18 if len(targets) < 5 else 16
    columns = [_style.plain(shorten(name, most)) for name in targets]
    widest = max(map(len, columns))
    # Upright unless every label fits its column on a narrow screen (print turns them by itself).
    flat = widest * 6.5 * len(columns) * len(domains) < 560
    bare = {**_style.BARE, "zeroline": False, "ticklabelstandoff": 4}
    title = {"standoff": 8, "font": {"size": 12}}
    for i, domain in enumerate(domains):
        axis = _style.named(columns, domain=list(domain), anchor="y", range=[-0.5, len(columns) - 0.5])
        axis |= {"tickangle": 0 if flat else -90, "title": {"text": "trained on", **title}, **bare}
        figure.update_layout({"xaxis" if i == 0 else "xaxis2": axis})
    ticks = _style.named([_style.plain(shorten(name, most)) for name in names], rows.tolist())
    ends = [float(rows[-1]) + 0.5, -0.5]
    figure.update_yaxes(range=ends, title={"text": "structure of", **title}, **ticks, **bare)
    cell = 38 if any("<br>" in str(text) for text in np.ravel(figure.data[0].text)) else 28
    _style.place_top(figure, height=round(150 + cell * (rows[-1] + 1) + (0 if flat else 6.5 * widest)), heads=True)
