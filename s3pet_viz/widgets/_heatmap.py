"""The gates' heatmap as one FigureWidget that is made once and then only repainted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from s3pet_viz.figures import _style
from s3pet_viz.figures._grid import Grid, axes, bar
from s3pet_viz.runs.grid import rows_of
from s3pet_viz.structure import Gate
from s3pet_viz.widgets._figure import fit, new_widget, without_nan


class HeatmapPane:
    """Rows = module and PET type, columns = layers, p as colour, chosen gates outlined, one of them ringed.

    Attributes:
        figure: the FigureWidget.
        labels: of the gates, e.g. ``E.3 SelfAttn.Q · LoRA``, as text, shape (n_gates,).
    """

    def __init__(self) -> None:
        self.figure = new_widget()
        self.figure.update_layout(template=_style.TEMPLATE, height=260, autosize=True)
        self.figure.add_trace(
            go.Heatmap(
                name="gates",
                colorscale=_style.SEQUENTIAL,
                zmin=0,
                zmax=1,
                hoverongaps=False,
                xgap=1,
                ygap=1,
                hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]} parameters"
                "<br>p = %{z:.4g}<extra></extra>",
                colorbar=bar("gate probability p"),
            )
        )
        outline = {"color": _style.OUTLINE, "width": 2}
        self.figure.add_trace(go.Scatter(name="chosen", mode="lines", line=outline, hoverinfo="skip"))
        ring = {"symbol": "circle-open", "size": 13, "color": _style.INK, "line": {"width": 2.5}}
        self.figure.add_trace(
            go.Scatter(name="looked at", mode="markers", marker=ring, hoverinfo="skip", visible=False)
        )
        self._gates: tuple[Gate, ...] = ()
        self._grid: Grid | None = None
        self._at: dict[tuple[int, int], int] = {}
        self.labels: list[str] = []

    def lay_out(self, gates: Sequence[Gate]) -> None:
        """Give every gate its cell; what was painted before is removed."""
        if tuple(gates) == self._gates:
            return
        self._gates = tuple(gates)
        self._grid = grid = Grid(gates)
        self._at = {(int(r), int(c)): i for i, (r, c) in enumerate(zip(grid.row, grid.col, strict=True))}
        self.labels = [f"{g.column} {row}" for g, row in zip(gates, rows_of(gates), strict=True)]
        facts = [
            grid.spread([_style.plain(label) for label in self.labels], "", object),
            grid.spread([_style.plain(g.position) for g in gates], "", object),
            grid.spread([f"{g.n_params:,}" for g in gates], "", object),
        ]
        with self.figure.batch_update():
            cells = self.figure.data[0]
            cells.x, cells.y = np.arange(len(grid.columns)), np.arange(len(grid.rows))
            cells.z = without_nan(grid.spread(np.nan))
            cells.customdata = np.stack(facts, axis=-1)
            self.figure.data[1].x = self.figure.data[1].y = []
            self._dress(grid)
        fit(self.figure)

    def forget(self) -> None:
        """Have the next `lay_out` send everything again."""
        self._gates = ()

    def paint(self, p: np.ndarray, selected: np.ndarray, shown: np.ndarray | None = None) -> None:
        """Repaint.

        Args:
            p: shape (n_gates,).
            selected: bool, shape (n_gates,).
            shown: bool, shape (n_gates,): the others are left out. None: all.
        """
        grid = self._the_grid
        values = np.asarray(p, dtype=np.float32)
        # The colour's reach is that of all gates, so that a filter does not change it.
        reach = float(values.max()) if np.isfinite(values).any() else 1.0
        if shown is not None:
            values, selected = np.where(shown, values, np.nan), selected & shown
        x, y = grid.outlines(selected)
        with self.figure.batch_update():
            self.figure.data[0].z = without_nan(grid.spread(values))
            self.figure.data[0].zmax = reach or 1.0
            self.figure.data[1].x, self.figure.data[1].y = x, y

    def ring(self, gate: int | None) -> None:
        """Mark the gate that is looked at; None: no one."""
        mark = self.figure.data[2]
        with self.figure.batch_update():
            if gate is not None:
                mark.x, mark.y = [int(self._the_grid.col[gate])], [int(self._the_grid.row[gate])]
            mark.visible = gate is not None

    def on_click(self, callback: Callable[[int], None]) -> None:
        """Call with the index of a gate whose cell is clicked."""

        def clicked(trace: Any, points: Any, state: Any) -> None:
            if points.xs and points.ys:
                gate = self._at.get((round(points.ys[0]), round(points.xs[0])))
                if gate is not None:
                    callback(gate)

        self.figure.data[0].on_click(clicked)

    # -- inside ----------------------------------------------------------------------------------------

    @property
    def _the_grid(self) -> Grid:
        assert self._grid is not None, "lay_out comes first"
        return self._grid

    def _dress(self, grid: Grid) -> None:
        # On a figure of its own: inside batch_update one cannot add to what is not there yet.
        plain = go.Figure()
        axes(plain, grid)
        layout = plain.to_dict()["layout"]
        layout.pop("template", None)
        self.figure.layout.annotations = layout.pop("annotations", [])
        self.figure.update_layout(layout)
