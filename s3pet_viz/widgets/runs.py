"""Many runs in a notebook: the table, and below it what is looked at."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import anywidget
import ipywidgets as w
import numpy as np
import traitlets as t

from s3pet_viz.analysis.consensus import mean_probabilities
from s3pet_viz.analysis.run_table import Row, RunTable, image_data, said
from s3pet_viz.config.checks import among, flag, number
from s3pet_viz.errors import ConfigError, S3PETError
from s3pet_viz.figures.consensus import consensus_structure
from s3pet_viz.runs import Run
from s3pet_viz.runs.listing import Runs
from s3pet_viz.viewer import page
from s3pet_viz.viewer.documents import THEMES, space_doc, text
from s3pet_viz.viewer.static import Panel, svg
from s3pet_viz.widgets.compare import CompareRuns
from s3pet_viz.widgets.live import LiveView

_CHANGES = ("mark", "delete")
_WORDS = ("run", "name", "task", "backbone", "budget", "mode", "seed", "status", "steps", "note", "archived", "path")


class _Table(anywidget.AnyWidget):
    """The table in the page. doc: what it shows, said: the last answer, both as JSON."""

    _esm = page.table_module()
    _css = page.style()
    doc = t.Unicode("{}").tag(sync=True)
    said = t.Unicode("{}").tag(sync=True)


class RunBrowser(w.VBox):
    """Many runs: a table that sorts and filters in the page, with a small heatmap of each; pick some, and open one,
    compare them, see them side by side or as their consensus; name, tag, archive and delete (asked twice).

    A thread looks at the runs every `every` seconds and tells the page what is new, until `close`.

    Args:
        runs: a folder that holds run directories, or runs, their folders or names.
        control: whether runs can be changed and searches asked to pause or stop. theme: ``auto``, ``light``, ``dark``.
        every: in seconds.

    Attributes:
        table: the `RunTable`, with those that are archived.
        view: what is shown below the table; None at first.

    Raises:
        ConfigError: no run at all, or a value that is none. RunError: a named run cannot be opened.
        MissingExtraError: ipywidgets or anywidget is not installed.
    """

    def __init__(self, runs: Runs, *, control: bool = True, theme: str = "auto", every: float = 2.0) -> None:
        self._control, self.theme = flag("control", control), among("theme", theme, THEMES)
        self._every = number("every", every, "seconds above 0", open_end=True)
        self.table = RunTable(runs, archived=True)
        self.view: w.Widget | None = None
        self._numbers, self._lock = 0, threading.RLock()
        self._images: dict[str, tuple[Row, str]] = {}
        self.page = _Table(doc=self._describe())
        self._below = w.VBox(layout=w.Layout(width="100%"))
        super().__init__([self.page, self._below], layout=w.Layout(width="100%", min_width="0"))
        self.page.on_msg(self._heard)
        self._halt = threading.Event()
        threading.Thread(target=self._follow, args=(self._halt,), name="s3pet-runs", daemon=True).start()

    def look_at(self, *runs: str | int) -> None:
        """Show one run in the viewer, or compare several, below the table. Raises ConfigError: no such run."""
        self._look("open" if len(runs) == 1 else "compare", [self.table.row(run) for run in runs])

    def close(self) -> None:
        """Take it off the screen, and stop looking."""
        halt = getattr(self, "_halt", None)  # ipywidgets closes what `__init__` refused, too
        if halt is not None:
            halt.set()
            self._show(None)
            self.page.close()
        super().close()

    def __repr__(self) -> str:
        return f"RunBrowser({len(self.table)} runs)"

    # -- inside ----------------------------------------------------------------------------------------

    def _describe(self) -> str:
        rows = []
        made = self.table.table()
        for row, values in zip(self.table.rows, made.to_dict("records"), strict=True):
            known = {name: values[name] for name in ("score", "agreement", "seed", "steps")}
            order = {name: None if said(value) == "" else float(value) for name, value in known.items()}
            shown = {name: said(values[name]) for name in (*_WORDS, "score", "agreement", "tags")}
            marks = {"name": row.marks.name, "note": row.marks.note, "tags": ", ".join(row.marks.tags)}
            rows.append(
                {**shown, "archived": row.marks.archived, "order": order, "marks": marks, "image": self._image(row)}
            )
        live = sum(row.status in ("running", "paused", "starting") for row in self.table.rows)
        about = {"control": self._control, "theme": self.theme, "problems": self.table.problems[:5], "live": live}
        return text({"rows": rows, **about})

    def _image(self, row: Row) -> str:
        known = self._images.get(row.run)
        if known is None or known[0] is not row:
            self._images[row.run] = known = (row, image_data(row))
        return known[1]

    def _follow(self, halt: threading.Event) -> None:
        while not halt.wait(self._every):
            try:
                with self._lock:
                    if self.table.refresh():
                        self.page.doc = self._describe()
            except (S3PETError, OSError) as error:
                self._say(str(error), problem=True)

    def _say(self, words: str, *, problem: bool = False) -> None:
        self._numbers += 1
        self.page.said = text({"number": self._numbers, "text": words, "problem": problem})

    def _heard(self, _: Any, message: Any, buffers: Any) -> None:
        """What the page asks; anything else is no request of ours."""
        kind, runs = (message.get("kind"), message.get("runs")) if isinstance(message, dict) else (None, None)
        if (
            kind not in (*_CHANGES, "open", "compare", "multiples", "consensus")
            or not isinstance(runs, list)
            or not runs
        ):
            return
        try:
            if kind in _CHANGES and not self._control:
                raise ConfigError(f"{kind}: this table only reads")
            with self._lock:
                rows = [self.table.row(run) for run in runs]
                if kind == "mark":
                    done = self._mark(rows, message.get("changes"))
                else:
                    done = self._delete(rows) if kind == "delete" else self._look(str(kind), rows)
                if kind in _CHANGES:
                    self.page.doc = self._describe()
            self._say(done)
        except (S3PETError, OSError) as error:
            self._say(str(error), problem=True)

    def _mark(self, rows: Sequence[Row], changes: Any) -> str:
        for row in rows:
            self.table.mark(row.run, **(changes if isinstance(changes, dict) else {}))
        return ""

    def _delete(self, rows: Sequence[Row]) -> str:
        self.table.delete(*(row.run for row in rows), sure=True)
        return f"deleted {len(rows)} runs"

    def _look(self, kind: str, rows: Sequence[Row]) -> str:
        runs = [Run(row.path) for row in rows]
        if kind == "open":
            self._show(LiveView(runs[0], control=self._control, theme=self.theme))
        elif kind == "compare":
            self._show(CompareRuns(runs, theme=self.theme))
        else:
            panels = [_panel(row.name, run) for row, run in zip(rows, runs, strict=True)]
            drawn = svg(_consensus(runs) if kind == "consensus" else panels, f"In Python: s3.figures.{kind}([...])")
            self._show(w.HTML(f"<div style='background:white;width:fit-content'>{drawn}</div>"))
        return ""

    def _show(self, view: w.Widget | None) -> None:
        before, self.view = self.view, view
        self._below.children = () if view is None else (view,)
        if before is not None:
            before.close()


def _panel(name: str, run: Run) -> Panel:
    keys = run.structure().keys
    chosen = np.array([gate.key in keys for gate in run.gates_list])
    return Panel(name, space_doc(run.gates_list, run.inert), run.p().astype(float), chosen)


def _consensus(runs: Sequence[Run]) -> list[Panel]:
    """Mean p over the runs, the structure that it selects outlined."""
    structure = consensus_structure(runs)
    gates, p = mean_probabilities([(run.name, run.gates_list, run.p().astype(float)) for run in runs])
    chosen = np.array([gate.key in structure.keys for gate in gates])
    words = f"consensus of {len(runs)} runs: mean p, {len(structure):,} gates chosen, {structure.n_params:,} parameters"
    return [Panel(words, space_doc(gates), p, chosen)]
