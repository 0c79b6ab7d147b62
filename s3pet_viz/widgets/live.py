"""The live view: gates, curves and the state of a search, while it runs and after."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from s3pet_viz.errors import ConfigError, RunError, S3PETError, StructureError
from s3pet_viz.runs import Run
from s3pet_viz.structure import Structure
from s3pet_viz.viewer.documents import EXPLORE_PARTS, LIVE_PARTS, live_doc, of_run, run_doc, text
from s3pet_viz.viewer.feed import Feed, Frame, Source
from s3pet_viz.viewer.state import State, opened
from s3pet_viz.viewer.static import Panel
from s3pet_viz.widgets.viewer import Viewer

#: Least time between two messages, in seconds. What that costs a search: benchmarks/speed/watch_cost.py.
INTERVAL = 0.25
#: The thread rests at least this long, in seconds, however slow reading is: the kernel has other work too.
_REST = 0.05
#: Histories up to so many bytes travel whole each time: no gap can then be.
_WHOLE = 256 << 10
#: The end is sent again after so long, in seconds, unless a page has said that it has it: Jupyter's server may drop a
#: message while a kernel prints much.
_AGAIN = (4.0, 12.0)
_DOING = {"pause": "pausing", "resume": "resuming", "stop": "stopping"}

_views: dict[Path, LiveView] = {}


def watch(run: Source, *, theme: str = "auto", state: State | None = None) -> LiveView:
    """Show a search live; returns at once. The view follows the run directory until the search has ended.

    The same view is returned again where this run is being shown already, and no state is given.

    Args:
        run: a `Run`, the path of a run directory, or a `Launched`; live or finished.
        theme: ``auto``, ``light`` or ``dark``.
        state: open as another view was: what its `share` gave.

    Raises:
        RunError: no run directory.
        ConfigError: another theme; a wrong state, or one of other gates (names the field), or no gates are known yet.
        MissingExtraError: ipywidgets or anywidget is not installed.
    """
    feed = Feed(run)
    key = feed.path.resolve()
    known = _views.get(key)
    if state is None and known is not None and known.shows(feed) and known.theme == theme:
        known.follow()
        return known
    _views[key] = view = LiveView(feed, theme=theme, state=state)
    return view


class LiveView(Viewer):
    """The viewer of one run: heatmap, curves, traces, sums, other budgets, health; step and budget sliders; Pause,
    Resume and Stop while a search runs.

    A thread reads the run directory and tells the page what is new, at most every 0.25 s, and ends with the search or
    with `close`. The page draws without the kernel; only Pause, Resume and Stop need it.

    Args:
        source: as `watch`; None: nothing yet, see `attach`.
        control: with Pause, Resume and Stop. parts: what is open at first, of ``curves``, ``trace``, ``sums``,
            ``path``, ``worth``, ``health`` and ``trust``. theme, state: as `watch`.
        on_frame: called with each new `Frame`, in the thread.

    Attributes:
        frame: the latest moment.
        updates: how many messages were sent.

    Raises:
        RunError, ConfigError: as `watch`.
    """

    #: None until there is something to show.
    _feed: Feed | None = None

    def __init__(
        self,
        source: Source | Feed | None = None,
        *,
        control: bool = True,
        parts: tuple[str, ...] = LIVE_PARTS,
        theme: str = "auto",
        state: State | None = None,
        on_frame: Callable[[Frame], None] | None = None,
    ) -> None:
        self.frame, self.updates = Frame(), 0
        self._control, self._parts, self._on_frame = control, parts, on_frame
        self._key, self._name = "", "starting"
        self._told: Any = None
        self._asked, self._doing, self._refused, self._seen = 0, "", "", -1
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock, self.theme = threading.RLock(), theme
        doc, picked = "null", list[int]()
        if source is not None:  # what there is goes with the opening message, which no server drops
            self._feed = source if isinstance(source, Feed) else Feed(source)
            self.frame = self._feed.poll() or self._feed.frame
            if state is not None and self._feed.run is not None:
                made = self._doc(self._feed.run)
                picked = opened(state, made, self.frame.step)
                doc = text(made)
            else:
                doc = self._describe() or doc
        if state is not None and doc == "null":
            raise ConfigError("state: expected a run whose gates are known, found none yet")
        super().__init__(theme=theme, whole=self._whole, doc=doc, selection=picked)
        if source is not None:
            self._show_static()
            if self._on_frame is not None and self._key:
                self._on_frame(self.frame)
            self.follow()

    # -- what it shows ---------------------------------------------------------------------------------

    def attach(self, source: Source | Feed) -> None:
        """Show this run from now on.

        Raises:
            RunError: as `watch`.
        """
        feed = source if isinstance(source, Feed) else Feed(source)
        self._end_thread()
        with self._lock:
            self._feed, self.frame, self._key, self._doing, self._refused = feed, Frame(), "", "", ""
            self._name = "starting"
            self.page.selection, self.page.edit, self.page.view, self.page.doc = [], None, None, "null"
            self.page.trust = "{}"
        self.follow()

    def follow(self) -> None:
        """Follow the run (again): after its end, or when it was resumed from elsewhere."""
        if self.following:
            return
        self._halt = threading.Event()
        self._update()  # the first picture is there when the cell returns
        self._thread = threading.Thread(target=self._poll, args=(self._halt,), name="s3pet-watch", daemon=True)
        self._thread.start()

    def shows(self, feed: Feed) -> bool:
        """Whether this view is open and of the same search."""
        mine = self._feed
        if mine is None or self.comm is None:
            return False
        if mine.run is None or feed.run is None:
            return mine.path == feed.path
        return mine.run.gates_list == feed.run.gates_list and mine.run.info["started"] == feed.run.info["started"]

    @property
    def run(self) -> Run | None:
        """The run that is shown; None before there is one."""
        return self._feed.run if self._feed is not None else None

    @property
    def edited(self) -> Structure | None:
        """The structure as it was edited in the page (tick ``edit``, click gates in and out); None where it is not.

        Its source says what was changed. ``s3.tune(view.edited)`` trains it.

        Raises:
            StructureError: it is above the budget.
        """
        told, run = self.page.edit, self.run
        if told is None or run is None:
            return None
        base = run.structure(told.get("budget"), -1 if told.get("step") is None else int(told["step"]))
        every = run.candidates
        if not all(isinstance(i, int) and 0 <= i < len(every) for i in told.get("gates", ())):
            raise StructureError(f"edited: expected gates from 0 to {len(every) - 1}, found {told.get('gates')!r:.80}")
        wanted = {every[i].key: every[i] for i in told.get("gates", ())}
        coming = [gate for key, gate in wanted.items() if key not in base.keys]
        going = [gate for gate in base.gates if gate.key not in wanted]
        return base.edit(add=coming, remove=going) if coming or going else base

    @property
    def following(self) -> bool:
        """Whether the thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """End the thread and take the view off the screen."""
        if "_halt" in vars(self):  # ipywidgets closes what `__init__` refused, too
            self._halt.set()
        for key in [key for key, view in _views.items() if view is self]:
            del _views[key]
        super().close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    # -- the thread ------------------------------------------------------------------------------------

    def _poll(self, halt: threading.Event) -> None:
        ended_at = None
        again = list(_AGAIN)
        while not halt.is_set():
            began = time.monotonic()
            self._update()
            if not self.frame.ended:
                ended_at, again = None, list(_AGAIN)
            else:
                ended_at = ended_at or began
                if not again or self._seen >= self.updates:
                    return
                if began - ended_at > again[0]:
                    again.pop(0)
                    with self._lock:
                        self._tell(0)
            halt.wait(max(_REST, INTERVAL - (time.monotonic() - began)))

    def _end_thread(self) -> None:
        self._halt.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)

    def _update(self) -> None:
        with self._lock:
            frame = self._feed.poll() if self._feed is not None else None
            if frame is None or self._feed is None:
                return
            if frame.status != self.frame.status:
                self._doing, self._refused = "", ""
            static = frame.status != self.frame.status or not self.updates
            self.frame = frame
            if doc := self._describe():
                self.page.doc = doc
            self._tell()
            if static:
                self._show_static()
        if self._on_frame is not None:
            self._on_frame(frame)

    def _describe(self) -> str:
        """The document of a run that none was made for yet; else nothing."""
        if self._feed is None or self._feed.run is None or self._key:
            return ""
        return text(self._doc(self._feed.run))

    def _doc(self, run: Run) -> dict[str, Any]:
        self._key, self._name = uuid.uuid4().hex, _name_of(run)
        self._told = None
        return run_doc(run, key=self._key, parts=self._parts, control=self._control, theme=self.theme)

    def _tell(self, start: int | None = None) -> None:
        """Send what is new; the whole where it is small, at the end, and each time it has doubled."""
        log = self._feed.log if self._feed is not None else None
        rows, beside = None, dict[str, Any](doc=self.page.doc)
        if log is not None and self.frame.alpha is not None:
            history, ended = log.history, self.frame.ended
            era, sent, whole_at = self._told or ("", 0, 0)
            whole = start == 0 or era != history.era or history.size <= _WHOLE or ended or history.n >= 2 * whole_at
            rows, scalars, values = history.part(0 if whole else sent)
            self._told = history.era, history.n, history.n if whole else whole_at
            if start != 0 and not ended:  # else the document may have been lost, too
                beside = {}
            beside |= {"scalars": scalars, "values": values, "last": self.frame.alpha.tobytes()}
        self.updates += 1
        self.page.tell(beside, live=text(self._live(rows)))

    def _live(self, rows: dict[str, object] | None) -> dict[str, Any]:
        made = live_doc(self.frame, self._key, rows)
        made |= {"asked": self._asked, "doing": self._doing, "seq": self.updates, "seen": self.frame.ended}
        if self._refused:
            made["error"] = self._refused
        return made

    def _whole(self) -> dict[str, Any]:
        """What a page gets that opens now."""
        with self._lock:
            log = self._feed.log if self._feed is not None else None
            if log is None or self.frame.alpha is None:
                return {"live": text(self._live(None))} if self._feed is not None else {}
            rows, scalars, values = log.history.part(0)
            last = self.frame.alpha.tobytes()
            return {"live": text(self._live(rows)), "scalars": scalars, "values": values, "last": last}

    # -- what the page asks ----------------------------------------------------------------------------

    def _heard(self, _: Any, message: Any, buffers: Any) -> None:
        if not isinstance(message, dict):
            return
        if message.get("kind") == "whole":
            with self._lock:
                if self._due():
                    self._tell(0)
        elif message.get("kind") == "seen":
            self._seen = max(self._seen, int(message.get("seq", -1)))
        elif self._control and message.get("kind") == "request" and message.get("request") in _DOING:
            self.ask(message["request"])

    def _trusted(self, runs: Any) -> Run:
        if self.run is None:
            raise RunError("no run is shown yet; there is nothing to judge")
        return Run(self.run.path)  # the other thread reads on

    def ask(self, request: str) -> None:
        """Write a request (``pause``, ``resume``, ``stop``) into the run directory; the thread sees what follows."""
        run = self.run
        if run is None:
            return
        try:
            getattr(run, request)()
        except (S3PETError, OSError) as error:
            doing, refused = "", str(error)
        else:
            doing, refused = _DOING[request], ""
        with self._lock:
            self._asked, self._doing, self._refused = self._asked + 1, doing, refused
            self._tell()
        if request == "resume" and not refused:
            self.follow()

    # -- without scripts -------------------------------------------------------------------------------

    def _static_svg(self) -> str:
        self._update()  # the end may be newer than the thread's last look
        return super()._static_svg()

    def panels(self) -> list[Panel]:
        run, frame = self.run, self.frame
        if run is None or frame.step is None or frame.p is None or frame.selected is None:
            return []
        chosen = f"{int(frame.selected.sum()):,} gates chosen (outlined)"
        words = f"{self._name}: step {frame.step + 1:,}, {chosen}"
        return [Panel(words, of_run(run), np.asarray(frame.p, dtype=float), frame.selected)]


class StructureExplorer(LiveView):
    """The viewer of one run, to be read closely: another step, another budget, only some gates, one gate's history.

    Args:
        run: a `Run`, or the path of a run directory; of a running search new steps are taken up as they come.
        theme: ``auto``, ``light`` or ``dark``. state: as `watch`.

    Raises:
        RunError: no run, or one without steps.
        ConfigError, MissingExtraError: as `watch`.
    """

    def __init__(self, run: Source, *, theme: str = "auto", state: State | None = None) -> None:
        feed = Feed(run)
        if feed.run is None or not feed.run.n_steps:
            raise RunError(f"{feed.path}: no steps recorded yet; there is nothing to explore")
        super().__init__(feed, control=False, parts=EXPLORE_PARTS, theme=theme, state=state)

    def structure(self, budget: Any = None) -> Structure:
        """The structure that the run chose, or would choose at another budget."""
        assert self.run is not None
        return self.run.structure(budget=budget)


def _name_of(run: Run) -> str:
    """Of the search, without what differs from one start to the next (its folder has a date)."""
    config = run.config
    if "task" in config and "backbone" in config:
        return f"{config['task']} on {config['backbone']}"
    return run.name
