"""Explore a structure: another step, another budget, only some gates, one gate closely."""

from __future__ import annotations

import math
import os
import threading
import time
from typing import Any

import ipywidgets as w

from s3pet_viz.errors import S3PETError
from s3pet_viz.runs import Run, open_run
from s3pet_viz.structure import Structure
from s3pet_viz.widgets import _html
from s3pet_viz.widgets._curves import TracePane
from s3pet_viz.widgets._figure import send_whole
from s3pet_viz.widgets._heatmap import HeatmapPane
from s3pet_viz.widgets._latest import Latest
from s3pet_viz.widgets._pace import Pace
from s3pet_viz.widgets.scene import ExplorerModel, Query, Scene

#: A replay takes about this long, in seconds, and shows so many pictures a second.
_REPLAY_SECONDS, _REPLAY_RATE = 15, 8
_WIDE = {"width": "auto", "flex": "1 1 380px", "max_width": "720px"}
_LABEL = {"description_width": "96px"}


class StructureExplorer(w.VBox):
    """The heatmap with a step slider and its replay, a budget slider that solves the shift again, filters, and one
    gate's trace and facts (click a cell, or choose the gate by name).

    Callbacks return at once; a thread draws the latest of what was asked for.

    Args:
        run: a `Run`, or the path of a run directory.

    Attributes:
        step_slider, play_button, budget_slider, stack_filter, pet_type_filter, module_filter, gate_box: the controls.
        heatmap, trace: the two figures.
        scene: what is shown now.

    Raises:
        RunError: no run, or one without steps.
        MissingExtraError: ipywidgets or anywidget is not installed.
    """

    #: None until there is something to close: ipywidgets closes what `__init__` refused, too.
    _latest: Latest[Query] | None = None

    def __init__(self, run: Run | str | os.PathLike[str]) -> None:
        self.model = model = ExplorerModel(open_run(run))
        self._gates, self._trace = HeatmapPane(), TracePane()
        self.heatmap, self.trace = self._gates.figure, self._trace.figure
        self._gates.lay_out(model.gates)
        self._gate_at = {label: index for index, label in enumerate(model.labels)}
        self._drawn_gate: int | None = None
        self._playing: threading.Event | None = None
        self._latest = Latest(self._draw, on_error=self._complain, ready=Pace(self.heatmap, self.trace).free)
        self._make_controls()
        self._summary, self._message, self._facts = _html.text(), _html.text(), _html.text()
        self._facts.layout = w.Layout(flex="1 1 300px", min_width="260px")
        holder = w.Box([self.trace], layout=w.Layout(flex="2 1 420px", min_width="0"))
        name = f"<b>{_html.escaped(model.run.name)}</b> <span style='color:#52606d'>explore its structure</span>"
        super().__init__(
            [
                w.HTML(_html.paragraph(name)),
                _html.box(self.step_slider, self.play_button, self.reload_button),
                _html.box(self.budget_slider, self.own_button),
                _html.box(self.stack_filter, self.pet_type_filter, self.module_filter),
                self._summary,
                self._message,
                self.heatmap,
                _html.box(self.gate_box, w.HTML("<span style='color:#52606d'>or click a cell of the heatmap</span>")),
                _html.box(self._facts, holder, align_items="flex-start"),
            ],
            layout=w.Layout(width="100%", min_width="0"),
        )
        self._draw(self._query())
        for figure in (self.heatmap, self.trace):
            send_whole(figure)
        for control in (
            self.step_slider,
            self.budget_slider,
            self.stack_filter,
            self.pet_type_filter,
            self.module_filter,
        ):
            control.observe(self._changed, "value")
        self.gate_box.observe(self._named, "value")
        self._gates.on_click(self.look_at)

    # -- what it shows ---------------------------------------------------------------------------------

    @property
    def budget(self) -> int:
        """In parameters, as the slider stands."""
        return min(max(round(self.budget_slider.value), self.model.smallest), self.model.total)

    def structure(self) -> Structure:
        """The structure that is shown: at this step and budget."""
        return self.model.run.structure(budget=self.budget, step=int(self.model.steps[self.step_slider.value]))

    def look_at(self, gate: int) -> None:
        """Show this gate's trace and facts.

        Args:
            gate: index of the gate.
        """
        self.gate_box.value = self.model.labels[gate]

    def wait(self, timeout: float = 10) -> bool:
        """Whether everything asked for was drawn within `timeout` seconds."""
        return self._latest is None or self._latest.wait(timeout)

    def close(self) -> None:
        """End the threads and take the view off the screen."""
        if self._latest is not None:
            self._stop_playing()
            self._latest.close()
            for child in (self.heatmap, self.trace):
                child.close()
        super().close()

    def __repr__(self) -> str:
        return f"StructureExplorer({self.model.run.name!r})"

    # -- inside ----------------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        model = self.model
        last = len(model.steps) - 1
        self.step_slider = w.IntSlider(
            value=last,
            min=0,
            max=max(last, 1),
            description="step",
            style=_LABEL,
            layout=w.Layout(**_WIDE),
            disabled=not last,
        )
        self.play_button = w.ToggleButton(
            description="Play", icon="play", tooltip="Replay the search from this step (at its end: from the start)",
            disabled=not last, layout=w.Layout(width="auto", min_width="92px"),
        )  # fmt: skip
        self.play_button.observe(self._toggle_play, "value")
        self.reload_button = w.Button(
            description="Reload", icon="refresh", tooltip="Take up steps that were written meanwhile",
            layout=w.Layout(width="auto", min_width="92px"),
        )  # fmt: skip
        self.reload_button.on_click(self._reload)
        self.budget_slider = w.FloatLogSlider(
            value=min(max(model.own_budget, model.smallest), model.total), base=10,
            min=math.log10(model.smallest), max=max(math.log10(model.total), math.log10(model.smallest) + 1e-9),
            step=0.005, description="budget", readout_format=",.0f", style=_LABEL, layout=w.Layout(**_WIDE),
        )  # fmt: skip
        self.own_button = w.Button(
            description="The run's budget", icon="undo", tooltip=f"Back to {model.own_budget:,} parameters",
            layout=w.Layout(width="auto", min_width="92px"),
        )  # fmt: skip
        self.own_button.on_click(lambda _: setattr(self.budget_slider, "value", model.own_budget))
        self.stack_filter = self._filter("stack", "stack")
        self.pet_type_filter = self._filter("pet_type", "PET type")
        self.module_filter = self._filter("module", "module")
        best = int(model.run.alpha(int(model.steps[-1])).argmax())
        self.gate_box = w.Combobox(
            value=model.labels[best], options=model.labels, description="gate", continuous_update=False, style=_LABEL,
            placeholder="type part of a name", layout=w.Layout(**_WIDE),
        )  # fmt: skip
        self._gate = best

    def _filter(self, name: str, label: str) -> w.Dropdown:
        width = w.Layout(width="auto", flex="0 1 260px", min_width="220px")
        return w.Dropdown(options=self.model.choices(name), description=label, style=_LABEL, layout=width)

    def _query(self) -> Query:
        row = min(self.step_slider.value, len(self.model.steps) - 1)
        filters = (self.stack_filter.value, self.pet_type_filter.value, self.module_filter.value)
        return Query(row, self.budget, *filters, gate=self._gate)

    def _changed(self, _: Any) -> None:
        if self._latest is not None:
            self._latest.submit(self._query())

    def _named(self, change: Any) -> None:
        """Only whole names: while one is typed the present gate stays."""
        gate = self._gate_at.get(change["new"])
        if gate is None:
            if change["new"]:
                self._message.value = _html.error_html(f"gate: expected a name from the list, found {change['new']!r}")
            return
        self._gate = gate
        self._changed(change)

    def _reload(self, _: Any) -> None:
        try:
            self.model.reload()
        except S3PETError as error:
            self._complain(error)
            return
        last = len(self.model.steps) - 1
        self.step_slider.max = max(last, 1)
        self.step_slider.disabled = self.play_button.disabled = not last
        self.step_slider.value = last
        self._drawn_gate = None
        self._changed(None)

    def _complain(self, error: Exception) -> None:
        self._message.value = _html.error_html(str(error))

    def _draw(self, query: Query) -> None:
        scene = self.scene = self.model.scene(query)
        if self._message.value:
            self._message.value = ""
        self._summary.value = _html.paragraph(_html.escaped(self.model.summary(scene)), role="status")
        self._gates.paint(scene.p, scene.selected, scene.shown)
        self._draw_gate(scene)

    def _draw_gate(self, scene: Scene) -> None:
        gate = scene.query.gate
        if gate != self._drawn_gate:
            self._trace.paint(*self.model.trace(gate), self.model.labels[gate])
            self._drawn_gate = gate
        self._trace.mark(scene.step)
        self._gates.ring(gate if scene.shown[gate] else None)
        self._facts.value = _html.facts_html(self.model.facts(scene, gate))

    # -- replay ----------------------------------------------------------------------------------------

    def _toggle_play(self, change: Any) -> None:
        self._stop_playing()
        self.play_button.description, self.play_button.icon = ("Pause", "pause") if change["new"] else ("Play", "play")
        if change["new"]:
            if self.step_slider.value >= len(self.model.steps) - 1:
                self.step_slider.value = 0
            self._playing = threading.Event()
            threading.Thread(target=self._replay, args=(self._playing,), name="s3pet-replay", daemon=True).start()

    def _stop_playing(self) -> None:
        if self._playing is not None:
            self._playing.set()
            self._playing = None

    def _replay(self, halt: threading.Event) -> None:
        """Moves the slider; the next step only when this one is drawn."""
        last = len(self.model.steps) - 1
        stride = max(1, math.ceil(last / (_REPLAY_SECONDS * _REPLAY_RATE)))
        while not halt.is_set() and self.step_slider.value < last:
            began = time.monotonic()
            self.step_slider.value = min(last, self.step_slider.value + stride)
            self.wait(2)
            halt.wait(max(0.0, 1 / _REPLAY_RATE - (time.monotonic() - began)))
        if not halt.is_set():
            self.play_button.value = False
