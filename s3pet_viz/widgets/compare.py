"""Compare runs: side by side, their difference, and how much all of them overlap."""

from __future__ import annotations

import os
import uuid
from typing import Any

import numpy as np

from s3pet_viz.errors import S3PETError
from s3pet_viz.files import is_folder
from s3pet_viz.runs import Run
from s3pet_viz.runs.listing import Listing, Runs
from s3pet_viz.sources import RUN, names_source, open_sources
from s3pet_viz.viewer.documents import Compared, text
from s3pet_viz.viewer.state import State, opened
from s3pet_viz.viewer.static import Panel
from s3pet_viz.widgets.viewer import Viewer


class CompareRuns(Viewer):
    """Pick runs by task, budget and seed; see two of them side by side on one scale, their difference, and the overlap
    of all. A gate that is picked is picked in both.

    Args:
        runs: runs, their paths, or a folder that holds run directories.
        theme: ``auto``, ``light`` or ``dark``.
        state: open as another view of these runs was: what its `share` gave.

    Attributes:
        listing: the runs, by label.

    Raises:
        ConfigError: no run with steps, another theme, or a wrong state (names the field).
        RunError: a named run cannot be opened.
        MissingExtraError: ipywidgets or anywidget is not installed.
    """

    def __init__(self, runs: Runs, *, theme: str = "auto", state: State | None = None) -> None:
        folder = isinstance(runs, (str, os.PathLike)) and os.fspath(runs) and is_folder(runs) and not names_source(runs)
        self.listing = Listing(runs if folder else open_sources(runs, allow=RUN, what="runs"))
        found = self.listing
        self._compared = Compared(
            found.runs, found.facts, key=uuid.uuid4().hex, left_out=found.problems[:20], theme=theme
        )
        picked = [] if state is None else opened(state, self._compared.doc)
        super().__init__(theme=theme, selection=picked, **self._state())
        self._show_static()

    def _state(self) -> dict[str, Any]:
        return {"doc": text(self._compared.doc), "values": self._compared.values}

    def _heard(self, _: Any, message: Any, buffers: Any) -> None:
        """A run that was too much to send at once is opened when it is looked at."""
        if isinstance(message, dict) and message.get("kind") == "open":
            try:
                new = self._compared.open(int(message["run"]))
            except (S3PETError, OSError, LookupError, TypeError, ValueError) as error:
                self.page.tell(live=text({"problem": str(error)}))
                return
            if new or self._due():
                self.page.tell(**self._state(), live="{}")

    def _trusted(self, runs: Any) -> list[Run]:
        return [self._compared.run(int(index)) for index in runs]

    def panels(self) -> list[Panel]:
        made = []
        values = np.frombuffer(self._compared.values, np.float32)
        space = self._compared.doc["space"]
        for letter, entry in zip("AB", self._compared.doc["runs"][:2], strict=False):
            p, marked = np.full(len(space["n"]), np.nan), np.zeros(len(space["n"]), dtype=bool)
            at = np.array(entry["at"] or range(entry["size"]))
            alpha = values[entry["offset"] : entry["offset"] + entry["size"]].astype(float)
            with np.errstate(over="ignore"):
                p[at] = 1 / (1 + np.exp((entry["zeta"] - alpha) / entry["tau"]))
            marked[at[entry["own"]]] = True
            made.append(Panel(f"{letter}: {entry['label']}", space, p, marked))
        return made

    def __repr__(self) -> str:
        return f"CompareRuns({len(self.listing.runs)} runs)"
