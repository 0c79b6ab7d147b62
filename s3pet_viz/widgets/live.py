"""The live view: gates, curves and the state of a search, while it runs and after."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as w

from s3pet_viz.errors import S3PETError
from s3pet_viz.runs import Run
from s3pet_viz.widgets import _html
from s3pet_viz.widgets._curves import CurvesPane
from s3pet_viz.widgets._figure import fit, whole_until_seen
from s3pet_viz.widgets._heatmap import HeatmapPane
from s3pet_viz.widgets._pace import Pace
from s3pet_viz.widgets.frame import Frame, LiveModel, Source

#: Least time between two updates, in seconds. A repaint takes about 7 ms of the kernel; what that costs a search:
#: benchmarks/watch_cost.py.
INTERVAL = 0.4
#: Least time between two drawings of the curves, in seconds: they change less, and are half of a repaint.
CURVES_INTERVAL = 1.0
#: The thread rests at least this long, in seconds, however slow drawing is: the kernel has other work too.
_REST = 0.05
#: Which buttons make sense.
_ACTIONS = {
    "running": {"pause", "stop"},
    "paused": {"resume", "stop"},
    "stopped": {"resume"},
    "failed": {"resume"},
    "dead": {"resume"},
}
_DOING = {"pause": "pausing", "resume": "resuming", "stop": "stopping"}

_views: dict[Path, LiveView] = {}


def watch(run: Source) -> LiveView:
    """Show a search live; returns at once. The view follows the run directory until the search has ended.

    The same view is returned again where this run is being shown already (a figure in a notebook is never freed).

    Args:
        run: a `Run`, the path of a run directory, or a `Launched`; live or finished.

    Raises:
        RunError: no run directory.
        MissingExtraError: ipywidgets or anywidget is not installed.
    """
    model = LiveModel(run)
    key = model.path.resolve()
    known = _views.get(key)
    if known is not None and known.shows(model):
        known.follow()
        return known
    _views[key] = view = LiveView(model)
    return view


class LiveView(w.VBox):
    """One FigureWidget of the gates and one of the curves, with status, progress and Pause / Resume / Stop.

    A thread reads the run directory and repaints, at most every 0.4 s and no faster than the browser draws, and ends
    with the search or with `close`.

    Attributes:
        frame: what is shown now.
        updates: how many frames it showed.
        heatmap, curves: the two figures.
        pause_button, resume_button, stop_button: write the reader's request into the run directory.

    Raises:
        RunError: as `watch`.
    """

    def __init__(self, source: Source | LiveModel | None = None, *, on_frame: Callable[[Frame], None] | None = None):
        self.frame = Frame()
        self.updates = 0
        self._drawn = float("-inf")
        self._in_curves: object = None
        self._model: LiveModel | None = None
        self._name = ""
        self._on_frame = on_frame
        self._asked: str | None = None
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()

        self._gates, self._curves = HeatmapPane(), CurvesPane()
        self.heatmap, self.curves = self._gates.figure, self._curves.figure
        self._pace = Pace(self.heatmap, self.curves)
        self._painted: Frame | None = None
        self._moved = False
        self._pages = 0
        self._title, self._state, self._facts = _html.text(), _html.text(), _html.text()
        self._error, self._health = _html.text(), _html.text()
        self.progress = w.IntProgress(
            description="steps", min=0, max=1, layout=w.Layout(width="auto", max_width="480px", flex="1 1 240px")
        )
        self.pause_button = self._button("pause", "Pause", "pause", "Hold the search after the present step")
        self.resume_button = self._button("resume", "Resume", "play", "Let the search go on")
        self.stop_button = self._button(
            "stop", "Stop", "stop", "End the search after the present step; it can be resumed"
        )
        self._buttons = {"pause": self.pause_button, "resume": self.resume_button, "stop": self.stop_button}
        super().__init__(
            [
                self._title,
                _html.box(self._state, self.progress, *self._buttons.values()),
                self._facts,
                self._error,
                self.heatmap,
                self.curves,
                self._health,
            ],
            layout=w.Layout(width="100%", min_width="0"),
        )
        if source is not None:
            self.attach(source)

    # -- what it shows ---------------------------------------------------------------------------------

    def attach(self, source: Source | LiveModel) -> None:
        """Show this run from now on, in the same figures.

        Raises:
            RunError: as `watch`.
        """
        model = source if isinstance(source, LiveModel) else LiveModel(source)
        self._end_thread()
        with self._lock:
            self._model, self.frame, self._asked = model, Frame(), None
            self._painted = self.frame
            self._name = _name_of(model)
        self.follow()

    def follow(self) -> None:
        """Follow the run (again): after its end, or when it was resumed from elsewhere."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._halt = threading.Event()
        self._update()  # the first picture is there when the cell returns
        self._thread = threading.Thread(target=self._poll, args=(self._halt,), name="s3pet-watch", daemon=True)
        self._thread.start()

    def shows(self, model: LiveModel) -> bool:
        """Whether this view is open and of the same search."""
        mine = self._model
        if mine is None or self.comm is None:
            return False
        if mine.run is None or model.run is None:
            return mine.path == model.path
        return mine.run.gates_list == model.run.gates_list and mine.run.info["started"] == model.run.info["started"]

    @property
    def run(self) -> Run | None:
        """The run that is shown; None before there is one."""
        return self._model.run if self._model is not None else None

    @property
    def following(self) -> bool:
        """Whether the thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """End the thread and take the view off the screen."""
        self._halt.set()
        for key in [key for key, view in _views.items() if view is self]:
            del _views[key]
        for child in (self.heatmap, self.curves):
            child.close()
        super().close()

    def __repr__(self) -> str:
        return f"LiveView({self._name!r})"

    # -- the thread ------------------------------------------------------------------------------------

    def _poll(self, halt: threading.Event) -> None:
        while not halt.is_set() and not (self.frame.ended and self._painted is self.frame):
            began = time.monotonic()
            self._update()
            halt.wait(max(_REST, INTERVAL - (time.monotonic() - began)))

    def _end_thread(self) -> None:
        self._halt.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)

    def _update(self) -> None:
        with self._lock:
            try:
                frame = self._model.poll() if self._model is not None else None
                if frame is not None:
                    self._show(frame)
                self._paint()
            except Exception as error:  # shown: a thread has nobody to raise to
                self._error.value = _html.error_html(
                    f"{type(error).__name__}: {error}", title="this view cannot be drawn"
                )

    def _show(self, frame: Frame) -> None:
        assert self._model is not None
        if self._asked and frame.status != self.frame.status:
            self._asked = None
        moved = frame.status != self.frame.status
        self.frame = frame
        self.updates += 1
        if frame.problem is None:
            self._title.value = _html.paragraph(_heading(self._model))
        self._show_state()
        self._facts.value = _html.paragraph(_html.escaped(" · ".join(_words(frame))), colour="#3e4c59")
        self._error.value = _error(frame)
        # A search that needed fewer steps than it was given is done, not stuck: its bar is full.
        total = None if frame.early_stop else frame.steps_total
        self.progress.max = total or max(1, (frame.step or 0) + 1)
        self.progress.value = 0 if frame.step is None else frame.step + 1
        if moved or frame.ended:
            self._drawn = float("-inf")
        self._moved |= moved
        self._health.value = _html.findings_html(frame.findings)
        if self._on_frame is not None:
            self._on_frame(frame)

    def _paint(self) -> None:
        """Draw what is not on screen yet, unless the browser still draws what it was sent before."""
        frame, now = self.frame, time.monotonic()
        curves = self._in_curves is not frame.curves and now - self._drawn >= CURVES_INTERVAL
        pages = self.heatmap._view_count or 0
        opened = pages > self._pages
        if not opened and ((frame is self._painted and not curves) or not self._pace.free()):
            return
        fresh, moved = frame is not self._painted or opened, self._moved
        if opened:  # the page may have missed what came while it opened
            self._gates.forget()
            curves = True
        # Before the drawing: what cannot be drawn is not tried for ever.
        self._pages, self._painted, self._moved = pages, frame, False
        with whole_until_seen(self.heatmap, self.curves):
            if fresh and self._model is not None and self._model.gates:
                self._gates.lay_out(self._model.gates)
                if frame.p is not None and frame.selected is not None:
                    self._gates.paint(frame.p, frame.selected)
            if curves:
                self._drawn, self._in_curves = now, frame.curves
                self._curves.paint(frame.curves, frame.budget)
        if moved:  # the view may have been hidden until now
            fit(self.heatmap)
            fit(self.curves)

    def _show_state(self) -> None:
        status = self.frame.status
        self._set(self._state, "value", _html.status_html(status, f"{_DOING[self._asked]} …" if self._asked else ""))
        allowed = set() if self._asked else _ACTIONS.get(status, set())
        if self.run is None:
            allowed = set()
        for name, button in self._buttons.items():
            self._set(button, "disabled", name not in allowed)

    @staticmethod
    def _set(widget: Any, name: str, value: Any) -> None:
        """Only what changes: a screen reader reads a status again whenever it is written."""
        if getattr(widget, name) != value:
            setattr(widget, name, value)

    # -- buttons ---------------------------------------------------------------------------------------

    def _button(self, request: str, label: str, icon: str, tooltip: str) -> w.Button:
        button = w.Button(
            description=label,
            icon=icon,
            tooltip=tooltip,
            disabled=True,
            layout=w.Layout(width="auto", min_width="92px"),
        )
        button.on_click(lambda _: self._ask(request))
        return button

    def _ask(self, request: str) -> None:
        """Write the request; whatever follows from it is seen by the thread."""
        run = self.run
        if run is None:
            return
        try:
            getattr(run, request)()
        except (S3PETError, OSError) as error:
            self._error.value = _html.error_html(str(error))
            return
        with self._lock:
            self._asked = request
            self._show_state()
        if request == "resume" and not self.following:
            self.frame = replace(self.frame, status=run.status)
            self.follow()


def _name_of(model: LiveModel) -> str:
    """Of the search, without what differs from one start to the next (its folder has a date)."""
    if model.run is None:
        return "starting"
    config = model.run.config
    if "task" in config and "backbone" in config:
        return f"{config['task']} on {config['backbone']}"
    return model.run.name


def _heading(model: LiveModel) -> str:
    if model.run is None:
        return f"<b>{_html.escaped(model.path.name)}</b> is being prepared: the backbone and the data are loaded"
    config = model.run.config
    words = [f"{key} {config[key]}" for key in ("task", "backbone", "budget", "mode", "seed") if key in config]
    return (
        f"<b>{_html.escaped(model.run.name)}</b> <span style='color:#52606d'>{_html.escaped(' · '.join(words))}</span>"
    )


def _words(frame: Frame) -> list[str]:
    """The facts of a frame in words."""
    words = []
    if frame.early_stop:
        words.append(f"finished {frame.early_stop}")
    elif frame.step is None:
        words.append("no step yet")
    else:
        of = f" of {frame.steps_total:,}" if frame.steps_total else ""
        words.append(f"step {frame.step + 1:,}{of}")
    if frame.seconds_left is not None:
        words.append(f"{_html.duration(frame.seconds_left)} left")
    if frame.selected is not None and frame.chosen_params is not None:
        share = f" ({frame.chosen_params / frame.backbone_params:.3%})" if frame.backbone_params else ""
        of = f" of {frame.budget:,}" if frame.budget else ""
        words.append(f"{int(frame.selected.sum()):,} gates chosen, {frame.chosen_params:,}{of} parameters{share}")
    return words


def _error(frame: Frame) -> str:
    parts = []
    if frame.problem:
        parts.append(_html.error_html(frame.problem, title="the run cannot be read now"))
    if frame.error:
        titles = {"dead": "the search died", "failed": "the search failed"}
        parts.append(_html.error_html(frame.error, title=titles.get(frame.status, "")))
    return "".join(parts)
