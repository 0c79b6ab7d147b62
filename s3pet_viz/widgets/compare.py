"""Compare runs: side by side, their difference, and how much all of them overlap."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import numpy as np
import plotly.graph_objects as go

from s3pet_viz import figures
from s3pet_viz.figures import _style
from s3pet_viz.runs import Run
from s3pet_viz.runs.health import health
from s3pet_viz.widgets import _html
from s3pet_viz.widgets._figure import new_widget, refill, send_whole
from s3pet_viz.widgets._heatmap import HeatmapPane
from s3pet_viz.widgets._latest import Latest
from s3pet_viz.widgets._pace import Pace
from s3pet_viz.widgets.shelf import FIELDS, Runs, Shelf

_LABEL = {"description_width": "80px"}
_OVERLAPS = {"by gates": "gates", "by parameters": "params", "rank correlation of p": "spearman"}
#: A matrix with more rows cannot be read.
_MOST = 40


class CompareRuns(w.VBox):
    """Pick runs by task, budget and seed; see two of them side by side, their difference, and the overlap of all.

    Args:
        runs: runs, their paths, or a folder that holds run directories.

    Attributes:
        filters: the controls that pick, by name. left, right: the two runs that are compared. overlap_by: the measure.
        left_heatmap, right_heatmap, difference, overlap: the figures.

    Raises:
        ConfigError: no run with steps.
        RunError: a named run cannot be opened.
        MissingExtraError: ipywidgets or anywidget is not installed.
    """

    #: None until there is something to close: ipywidgets closes what `__init__` refused, too.
    _latest: Latest[None] | None = None

    def __init__(self, runs: Runs) -> None:
        self.shelf = shelf = Shelf(runs)
        narrow = {"width": "auto", "flex": "0 1 220px", "min_width": "190px"}
        wide = {"width": "auto", "flex": "1 1 400px", "min_width": "260px"}
        self.filters = {
            name: w.Dropdown(options=shelf.choices(name), description=name, style=_LABEL, layout=w.Layout(**narrow))
            for name in FIELDS
        }
        labels = list(shelf.runs)
        pair = {"style": _LABEL, "layout": w.Layout(**wide)}
        self.left = w.Dropdown(options=labels, value=labels[0], description="run A", **pair)
        self.right = w.Dropdown(options=labels, value=labels[min(1, len(labels) - 1)], description="run B", **pair)
        self.overlap_by = w.Dropdown(
            options=list(_OVERLAPS.items()), description="overlap", style=_LABEL, layout=w.Layout(**narrow)
        )
        self._panes = HeatmapPane(), HeatmapPane()
        self.left_heatmap, self.right_heatmap = (pane.figure for pane in self._panes)
        self.difference, self.overlap = _blank(), _blank()
        self._heads = w.HTML(), w.HTML()
        self._message, self._note, self._health = _html.text(), _html.text(), _html.text()
        self._drawn: dict[str, Any] = {}
        pace = Pace(self.left_heatmap, self.right_heatmap, self.difference, self.overlap)
        latest: Latest[None] = Latest(lambda _: self._draw(), on_error=self._complain, ready=pace.free)
        self._latest = latest
        # A FigureWidget's own `layout` is plotly's, so a box around it does what is CSS.
        self._overlap_box = w.VBox([self.overlap])
        columns = [
            w.VBox([head, pane.figure], layout=w.Layout(flex="1 1 420px", min_width="0"))
            for head, pane in zip(self._heads, self._panes, strict=True)
        ]
        problems = [w.HTML(_html.error_html("\n".join(shelf.problems), title="left out"))] if shelf.problems else []
        super().__init__(
            [
                _html.box(*self.filters.values(), self._note),
                _html.box(self.left, self.right),
                *problems,
                self._message,
                _html.box(*columns, align_items="flex-start"),
                self.difference,
                _html.box(self.overlap_by),
                self._overlap_box,
                self._health,
            ],
            layout=w.Layout(width="100%", min_width="0"),
        )
        self._draw()
        for figure in (self.left_heatmap, self.right_heatmap, self.difference, self.overlap):
            send_whole(figure)
        for control in self.filters.values():
            control.observe(self._filtered, "value")
        for control in (self.left, self.right, self.overlap_by):
            control.observe(lambda _: latest.submit(None), "value")

    @property
    def picked(self) -> list[Run]:
        """The runs that the filters let through, in order."""
        return [self.shelf.runs[label] for label in self._labels()]

    def wait(self, timeout: float = 10) -> bool:
        """Whether everything asked for was drawn within `timeout` seconds."""
        return self._latest is None or self._latest.wait(timeout)

    def close(self) -> None:
        """End the thread and take the view off the screen."""
        if self._latest is not None:
            self._latest.close()
            for figure in (self.left_heatmap, self.right_heatmap, self.difference, self.overlap):
                figure.close()
        super().close()

    def __repr__(self) -> str:
        return f"CompareRuns({len(self.shelf.runs)} runs)"

    # -- inside ----------------------------------------------------------------------------------------

    def _labels(self) -> list[str]:
        return self.shelf.pick(**{name: control.value for name, control in self.filters.items()})

    def _filtered(self, _: Any) -> None:
        """Offer what the filters let through; what was compared stays where it still is offered."""
        labels = self._labels()
        if labels:
            kept = self.left.value, self.right.value
            with self.left.hold_trait_notifications(), self.right.hold_trait_notifications():
                for control, old, place in zip((self.left, self.right), kept, (0, 1), strict=True):
                    control.options = labels
                    control.value = old if old in labels else labels[min(place, len(labels) - 1)]
        if self._latest is not None:
            self._latest.submit(None)

    def _complain(self, error: Exception) -> None:
        self._message.value = _html.error_html(str(error))

    def _draw(self) -> None:
        """Only what has changed: each figure remembers what it shows."""
        labels = self._labels()
        self._message.value = ""
        few = "" if labels else " · no run has all three: widen a filter"
        self._note.value = _html.paragraph(f"{len(labels):,} of {len(self.shelf.runs):,} runs{few}", role="status")
        if not labels:
            return
        names = self.left.value, self.right.value
        if names != self._drawn.get("pair"):
            for name, pane, head, letter in zip(names, self._panes, self._heads, "AB", strict=True):
                self._draw_run(name, pane, head, letter)
            refill(self.difference, figures.compare(*(self.shelf.runs[name] for name in names)))
            self._drawn["pair"] = names
        asked = (tuple(labels[:_MOST]), self.overlap_by.value)
        if asked != self._drawn.get("overlap"):
            self._draw_overlap(labels)
            self._drawn["overlap"] = asked

    def _draw_run(self, name: str, pane: HeatmapPane, head: w.HTML, letter: str) -> None:
        run = self.shelf.runs[name]
        structure = run.structure()
        words = f"{len(structure):,} gates chosen, {structure.n_params:,} of {run.info['budget']:,} parameters"
        head.value = _html.paragraph(f"<b>{letter}: {_html.escaped(name)}</b><br>{_html.escaped(words)}")
        pane.lay_out(run.gates_list)
        keys = structure.keys
        pane.paint(run.p(), np.array([gate.key in keys for gate in run.gates_list]))

    def _draw_overlap(self, labels: list[str]) -> None:
        runs = [self.shelf.runs[label] for label in labels[:_MOST]]
        self._overlap_box.layout.display = None if len(runs) > 1 else "none"
        if len(runs) < 2:
            self._health.value = _html.paragraph("one run alone overlaps with nothing: widen a filter")
            return
        refill(self.overlap, figures.overlap(runs, by=self.overlap_by.value))
        left_out = f"the first {_MOST} of {len(labels):,} runs are shown" if len(labels) > _MOST else ""
        seeds = [finding for finding in health(runs) if finding.title.startswith("Seeds ")]
        self._health.value = (_html.paragraph(left_out) if left_out else "") + _html.findings_html(seeds)


def _blank() -> go.FigureWidget:
    return new_widget(go.Figure(layout={"template": _style.TEMPLATE, "height": 300}))
