"""Explore a transfer study: the matrix, and behind each cell the two structures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from s3pet_viz.errors import S3PETError
from s3pet_viz.figures import _style
from s3pet_viz.figures.transfer import (
    TransferLike,
    Words,
    as_transfer,
    boxes,
    compared,
    drawn,
    row_places,
    yardsticks,
)
from s3pet_viz.runs.measures import chance_overlap, jaccard, random_structures
from s3pet_viz.structure import Gate, Structure
from s3pet_viz.widgets import _html
from s3pet_viz.widgets._figure import new_widget, refill, send_whole
from s3pet_viz.widgets._heatmap import HeatmapPane
from s3pet_viz.widgets._latest import Latest
from s3pet_viz.widgets._pace import Pace

_LABEL = {"description_width": "80px"}
_RELATIVE = {"own": "the target's own structure", "random": "random structures", "full": "full fine-tuning"}
_DRAWS = 400  # pairs of random structures behind the overlap that chance gives
_RING = 0.42  # half a side of the box around the cell that is looked at, in cells


class TransferExplorer(w.VBox):
    """The matrix of sources and targets. Click a cell, or name its source and target: the source's structure and the
    target's own are drawn side by side, the gates that both have outlined.

    Callbacks return at once; a thread draws the latest of what was asked for.

    Args:
        matrix: a `Transfer`, its study, or the path of the study's folder.

    Attributes:
        value_box, relative_box, seed_box, source_box, target_box: the controls.
        matrix_figure: the matrix. source_heatmap, own_heatmap: the two structures.

    Raises:
        StudyError: not a study folder, or not one of transfer.
        MissingExtraError: ipywidgets or anywidget is not installed.
    """

    #: None until there is something to close: ipywidgets closes what `__init__` refused, too.
    _latest: Latest[None] | None = None

    def __init__(self, matrix: TransferLike) -> None:
        self.matrix = as_transfer(matrix)
        self._trained = self.matrix.table()
        self._gates = self.matrix.gates() or []
        self._make_controls()
        self.matrix_figure = new_widget(go.Figure(layout={"template": _style.TEMPLATE, "height": 300}))
        self._panes = _pane(), _pane()
        self.source_heatmap, self.own_heatmap = (pane.figure for pane in self._panes)
        self._heads = w.HTML(), w.HTML()
        self._words, self._message = _html.text(), _html.text()
        self._rows: list[str] = []
        self._drawn: dict[str, Any] = {}
        self._chances: dict[tuple[int, int], float] = {}
        pace = Pace(self.matrix_figure, self.source_heatmap, self.own_heatmap)
        latest: Latest[None] = Latest(lambda _: self._draw(), on_error=self._complain, ready=pace.free)
        self._latest = latest
        self._columns = [
            w.VBox([head, pane.figure], layout=w.Layout(flex="1 1 420px", min_width="0"))
            for head, pane in zip(self._heads, self._panes, strict=True)
        ]
        hint = w.HTML("<span style='color:#52606d'>or click a cell of the matrix</span>")
        super().__init__(
            [
                _html.box(self.value_box, self.relative_box, self.seed_box),
                # A FigureWidget's own `layout` is plotly's, so a box around it does what is CSS.
                w.VBox([self.matrix_figure], layout=w.Layout(width="100%", min_width="0")),
                _html.box(self.source_box, self.target_box, hint),
                self._words,
                self._message,
                _html.box(*self._columns, align_items="flex-start"),
            ],
            layout=w.Layout(width="100%", min_width="0"),
        )
        self._draw()
        for figure in (self.matrix_figure, self.source_heatmap, self.own_heatmap):
            send_whole(figure)
        for control in (self.value_box, self.relative_box, self.seed_box, self.source_box, self.target_box):
            control.observe(lambda _: latest.submit(None), "value")

    def look_at(self, source: str, target: str) -> None:
        """Show the structures behind this cell.

        Args:
            source: a row, but not a reference such as random or full: those have no one structure.
            target: a column.
        """
        if source in self.matrix.sources:
            self.source_box.value, self.target_box.value = source, target
        else:
            words = f"{source} → {target}: the row {source} has no one structure to look at; choose a source"
            self._message.value = _html.paragraph(_html.escaped(words), role="status")

    def wait(self, timeout: float = 10) -> bool:
        """Whether everything asked for was drawn within `timeout` seconds."""
        return self._latest is None or self._latest.wait(timeout)

    def close(self) -> None:
        """End the thread and take the view off the screen."""
        if self._latest is not None:
            self._latest.close()
            for figure in (self.matrix_figure, self.source_heatmap, self.own_heatmap):
                figure.close()
        super().close()

    def __repr__(self) -> str:
        return f"TransferExplorer({len(self.matrix.sources)} sources, {len(self.matrix.targets)} targets)"

    # -- inside ----------------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        known: Sequence[str] = yardsticks(self.matrix)
        seeds = sorted({int(seed) for seed in self._trained["seed"]})
        narrow = {"style": _LABEL, "layout": w.Layout(width="auto", flex="0 1 240px", min_width="210px")}
        wide = {"style": _LABEL, "layout": w.Layout(width="auto", flex="1 1 280px", min_width="220px")}
        self.value_box = w.Dropdown(
            options=[("score", "score"), ("held-out loss", "loss")], description="value", **narrow
        )
        self.relative_box = w.Dropdown(
            options=[("nothing", None), *((_RELATIVE[name], name) for name in known)], description="relative to", **wide
        )
        self.seed_box = w.Dropdown(
            options=[("all (mean)", None), *((str(seed), seed) for seed in seeds)], description="seed", **narrow
        )
        sources, targets = self.matrix.sources, self.matrix.targets
        # The first cell off the diagonal: another task's structure.
        elsewhere = [target for target in targets if target != sources[0]]
        self.source_box = w.Dropdown(options=sources, value=sources[0], description="source", **wide)
        self.target_box = w.Dropdown(options=targets, value=(elsewhere or targets)[0], description="target", **wide)

    def _complain(self, error: Exception) -> None:
        self._message.value = _html.error_html(str(error))

    def _draw(self) -> None:
        """Only what has changed: each figure remembers what it shows."""
        self._message.value = ""
        value, relative, seed = self.value_box.value, self.relative_box.value, self.seed_box.value
        source, target = self.source_box.value, self.target_box.value
        if (value, relative, seed) != self._drawn.get("matrix"):
            self._draw_matrix(value, relative, seed)
            self._drawn["matrix"] = value, relative, seed
        self._ring(source, target)
        try:
            structures = self._structures(source, target, seed)
        except S3PETError as error:
            structures = {}
            self._complain(error)
        words = self._scores(source, target)
        if "source" in structures and "own" in structures:
            words += f" · {self._overlap(structures['source'], structures['own'])}"
        self._words.value = _html.paragraph(words, role="status")
        if (source, target, seed, len(structures)) != self._drawn.get("pair"):
            self._draw_pair(structures, source, target)
            self._drawn["pair"] = source, target, seed, len(structures)

    def _draw_matrix(self, value: Any, relative: Any, seed: int | None) -> None:
        self._rows = [
            *self.matrix.sources, *(name for name in self.matrix.references if name != relative)
        ]  # fmt: skip
        self._places = row_places(self.matrix, self._rows)
        self._table = compared(self.matrix, self._trained, value, None, seed)
        figure = drawn(self.matrix, self._trained, value, relative, seed=seed)
        for axis in ("x", "x2"):
            figure.add_trace(
                go.Scatter(
                    name="looked at", mode="lines", line={"color": _style.INK, "width": 3}, hoverinfo="skip",
                    x=[None], y=[None], xaxis=axis, legendgroup="looked at", showlegend=axis == "x",
                )
            )  # fmt: skip
        refill(self.matrix_figure, figure)
        for trace in self.matrix_figure.data[:2]:
            trace.on_click(self._clicked)

    def _clicked(self, trace: Any, points: Any, state: Any) -> None:
        if points.xs and points.ys:
            row = int(np.abs(self._places - points.ys[0]).argmin())
            self.look_at(self._rows[row], self.matrix.targets[round(points.xs[0])])

    def _ring(self, source: str, target: str) -> None:
        here = np.zeros((len(self._rows), len(self.matrix.targets)), dtype=bool)
        here[self._rows.index(source), self.matrix.targets.index(target)] = True
        x, y = boxes(self._places, here, _RING)
        with self.matrix_figure.batch_update():
            for trace in self.matrix_figure.data[-2:]:
                trace.x, trace.y = x, y

    def _structures(self, source: str, target: str, seed: int | None) -> dict[str, Structure]:
        """The source's structure, and the target's own where it has one and is not the same."""
        made = {"source": self.matrix.structure(source, seed=seed, target=target)}
        if target in self.matrix.sources and target != source:
            made["own"] = self.matrix.structure(target, seed=seed, target=target)
        return made

    def _scores(self, source: str, target: str) -> str:
        """What the cell says, beside the target's own structure, random ones and full fine-tuning."""
        said = Words(self._table, self.value_box.value, None)
        cells: dict[str, pd.Series] = {row["source"]: row for _, row in self._at(target).iterrows()}
        parts = [f"<b>{_html.escaped(source)} → {_html.escaped(target)}</b>: {_number(said, cells[source])}"]
        if target in self.matrix.sources and target != source:
            parts.append(f"own {_number(said, cells[target])}")
        parts += [f"{name} {_number(said, cells[name])}" for name in ("random", "full") if name in cells]
        return ", ".join(parts) + (" (held-out loss: lower is better)" if self.value_box.value == "loss" else "")

    def _at(self, target: str) -> pd.DataFrame:
        return self._table[self._table["target"] == target]

    def _overlap(self, a: Structure, b: Structure) -> str:
        shared = len(a.keys & b.keys)
        of = f"{len(a)}" if len(a) == len(b) else f"{len(a)} and {len(b)}"
        chance = self._chance(a, b)
        known = f", by chance {chance:.2f}" if np.isfinite(chance) else ""
        return f"{shared} of {of} gates shared (Jaccard {jaccard(a, b):.2f}{known})"

    def _chance(self, a: Structure, b: Structure) -> float:
        """Mean Jaccard of random structures of the same two budgets; NaN where the search space is not known."""
        gates = self._gates
        if not gates or not a.keys | b.keys <= {g.key for g in gates} or any(g.n_params < 1 for g in gates):
            return float("nan")
        budgets = a.budget or a.n_params, b.budget or b.n_params
        if budgets not in self._chances:
            counts = [gate.n_params for gate in gates]
            drawn = [random_structures(counts, budget, draws=_DRAWS, seed=i) for i, budget in enumerate(budgets)]
            self._chances[budgets] = chance_overlap(*drawn).mean
        return self._chances[budgets]

    def _draw_pair(self, structures: dict[str, Structure], source: str, target: str) -> None:
        names = {"source": f"structure of {source}", "own": f"{target}'s own structure"}
        if source == target:
            names["source"] = names["own"]
        shared = frozenset.intersection(*(s.keys for s in structures.values())) if len(structures) > 1 else frozenset()
        gates = _space(self._gates, structures.values())
        for which, pane, head, column in zip(("source", "own"), self._panes, self._heads, self._columns, strict=True):
            structure = structures.get(which)
            column.layout.display = None if structure is not None else "none"
            if structure is None:
                continue
            seed = structure.source.get("seed")
            facts = f"{len(structure):,} gates, {structure.n_params:,} parameters" + (
                f" · search of seed {seed}" if seed is not None else ""
            )
            head.value = _html.paragraph(f"<b>{_html.escaped(names[which])}</b><br>{_html.escaped(facts)}")
            pane.lay_out(gates)
            pane.paint(
                np.array([gate.key in structure.keys for gate in gates], dtype=float),
                np.array([gate.key in shared for gate in gates], dtype=bool),
            )


def _number(words: Words, row: pd.Series) -> str:
    if not row["n"]:
        return "no training yet"
    spread = "" if np.isnan(row["spread"]) else f" ± {words.plain_number(row['spread'])}"
    return words.plain_number(row["mean"]) + spread


def _pane() -> HeatmapPane:
    """Open gates are dark; what both structures have is outlined."""
    pane = HeatmapPane()
    cells, outline, _ = pane.figure.data
    cells.update(
        colorscale=_style.BINARY,
        showscale=False,
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]} parameters<extra></extra>",
    )
    outline.name = "in both structures"
    return pane


def _space(gates: Sequence[Gate], structures: Any) -> list[Gate]:
    """The gates of the search space, and those of structures from elsewhere."""
    made = {gate.key: gate for gate in gates}
    for structure in structures:
        for gate in structure.gates:
            made.setdefault(gate.key, gate)
    return list(made.values())
