"""Follows a run directory and says what a page is to be told, apart from any widget."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd

from s3pet_viz.analysis.health import Finding, judged
from s3pet_viz.errors import RunError, S3PETError
from s3pet_viz.launcher import Launched
from s3pet_viz.runs import Run, layout
from s3pet_viz.runs.status import ENDED, early_stop, seconds_left
from s3pet_viz.runs.steps import stamp_of
from s3pet_viz.runs.tail import LastStep, TailLog
from s3pet_viz.sources import RUN, open_source
from s3pet_viz.structure import Gate, Structure, select
from s3pet_viz.viewer.pack import SCALARS, History, shift_of

Source = Run | Launched | str | os.PathLike[str]

#: How often the process is asked for signs of life while its files rest, in seconds.
_PULSE = 0.5
#: How often a running search's health is judged, in seconds.
_JUDGE = 1.0


@dataclass(frozen=True)
class Frame:
    """One moment of a run.

    Attributes:
        status: as `Run.status`; ``starting`` before there is a run; ``failed`` where there never will be.
        early_stop: where and why it finished before the last of its steps, or None.
        error: why the search ended, or None. problem: why the run cannot be read now, or None; what else is here is
            then from before.
        step, steps_total: number of the newest step (None before the first); how many there will be (None: unknown).
        seconds_left: None where that cannot be said.
        budget, backbone_params, chosen_params: in parameters; None where not known.
        p, alpha: float32, shape (n_gates,); None before the first step. selected: bool, shape (n_gates,), or None.
        scalars: of the newest row, by name (`pack.SCALARS`); empty before the first step.
        own: indices of the gates that the run itself has written down as chosen; None before its end.
        findings: search health in words.
    """

    status: str = "starting"
    early_stop: str | None = None
    error: str | None = None
    problem: str | None = None
    step: int | None = None
    steps_total: int | None = None
    seconds_left: float | None = None
    budget: int | None = None
    backbone_params: int | None = None
    chosen_params: int | None = None
    p: np.ndarray | None = None
    alpha: np.ndarray | None = None
    selected: np.ndarray | None = None
    scalars: Mapping[str, float] = field(default_factory=dict)
    own: tuple[int, ...] | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class PackedLog(TailLog):
    """A `TailLog` that keeps a `History` of what it reads."""

    def __init__(self, run: Path, counts: np.ndarray, tau: float, pinned: int = 0) -> None:
        self.history, self._tau = History(len(counts), tau), tau
        super().__init__(run, counts, pinned)

    def _clear(self) -> None:
        super()._clear()
        self.history.clear()

    def _supersede(self, from_step: int) -> None:
        super()._supersede(from_step)
        self.history.cut(len(self))

    def _store(self, rows: dict[str, np.ndarray]) -> None:
        before = len(self)
        rows = rows | {"zeta": shift_of(rows["alpha"], rows["p"], rows["zeta"], self._tau)}
        super()._store(rows)
        scalars = np.column_stack([self.column(name)[before:].astype(np.float64) for name in SCALARS[:-2]])
        self.history.add(scalars, rows["alpha"])

    def refresh(self) -> None:
        super().refresh()
        if self.history.coarse:  # codes would say p wrongly: read it all again, and keep it as it is
            self.history.packs = False
            self._clear()
            super().refresh()

    def newest(self) -> dict[str, float]:
        """Scalars of the last row, by name."""
        return {name: float(self.column(name)[-1]) for name in SCALARS[:-2]}


class Feed:
    """Follows a run directory.

    Attributes:
        run: None until the search has made its run directory. path: the run directory.
        frame: the latest moment. log: None before the run.

    Raises:
        SourceError, RunError: none of these, or damaged.
    """

    def __init__(self, source: Source) -> None:
        opened: Any = source if isinstance(source, Launched) else open_source(source, allow=RUN, what="run")
        self._launched = opened if isinstance(opened, Launched) else None
        self.run: Run | None = opened if self._launched is None else None
        self.path: Path = opened.path
        self.log: PackedLog | None = None
        self.frame = Frame()
        self._files: object = None
        self._status = ""
        self._looked = self._judged = float("-inf")
        self._findings: tuple[Finding, ...] = ()

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The search space; empty until there is a run."""
        return self.run.gates_list if self.run is not None else ()

    def poll(self) -> Frame | None:
        """What there is now; None where nothing has changed since the last call. Costs a few `stat`s then.

        Never raises for what is wrong with the files: that is in `Frame.problem`.
        """
        try:
            frame = self._look()
        except (S3PETError, OSError) as error:
            frame = replace(self.frame, problem=str(error))
            self._files = None
        if frame is None or (frame.problem is not None and frame.problem == self.frame.problem):
            return None
        self.frame = frame
        return frame

    # -- inside ----------------------------------------------------------------------------------------

    def _look(self) -> Frame | None:
        if self.run is None and self._launched is not None:
            self.run = self._launched.run
        if self.run is None:
            error = self._launched.error if self._launched is not None else None
            frame = Frame(status="failed", error=str(error)) if error is not None else Frame()
            known, self._status = self._status, frame.status
            return None if known == frame.status else frame
        run = self.run
        if self.log is None:
            self.log = PackedLog(run.path, run.counts, float(run.info["tau"]), run.pinned_params)
        files = (_stamp(run.path / layout.RUN_JSON), _stamp(run.path / layout.STRUCTURE), self.log.stamp)
        now = time.monotonic()
        if files == self._files and now - self._looked < _PULSE:
            return None
        self._looked = now
        # The status first: a run that has ended by now has all its steps on disk.
        status = run.status
        if (files, status) == (self._files, self._status):
            return None
        frame = self._read(run, self.log, status)
        self._files, self._status = files, status
        return frame

    def _read(self, run: Run, log: PackedLog, status: str) -> Frame:
        log.refresh()
        info = run.info
        frame = Frame(
            status,
            early_stop(info, status),
            run.error,
            steps_total=info["steps_total"],
            budget=info["budget"],
            backbone_params=info["backbone_params"],
        )
        if log.last is None:
            return frame
        own = own_choice(run)
        chosen = np.zeros(len(run.gates_list), dtype=bool)
        if own is not None:
            chosen[list(own)] = True
        elif info["budget"]:
            chosen[select(log.last.alpha, run.counts, run.searched_budget())] = True
        now = time.monotonic()
        if now - self._judged >= _JUDGE or status != self._status:
            self._judged = now
            self._findings = tuple(judged([_watched(run, log, log.last, status, chosen)]))
        return replace(
            frame,
            step=log.last.step,
            p=log.last.p,
            seconds_left=seconds_left(log.last.step, log.column("seconds"), info["steps_total"], status),
            alpha=log.last.alpha,
            selected=chosen,
            chosen_params=int(run.counts[chosen].sum()) + run.pinned_params,
            own=own,
            scalars=log.newest(),
            findings=self._findings,
        )


def _watched(run: Run, log: TailLog, last: LastStep, status: str, chosen: np.ndarray) -> Run:
    """What `health` asks of a run, answered from a `TailLog`: of a `Run` it would read every alpha into memory."""
    names = ("name", "info", "config", "error", "gates_list", "counts", "pinned_in", "pinned_params", "searched_budget")
    facts = {name: getattr(run, name) for name in names}
    made = SimpleNamespace(
        **facts,
        status=status,
        ended=status in ENDED,
        early_stop=early_stop(run.info, status),
        n_steps=len(log),
        steps=lambda: pd.DataFrame({name: log.column(name) for name in layout.SCALARS}),
        p=lambda: last.p,
        alphas=log.samples,
        structure=lambda pinned=True: Structure(tuple(itertools.compress(run.gates_list, chosen))),
    )
    return cast(Run, made)


def own_choice(run: Run) -> tuple[int, ...] | None:
    """Indices of the gates in the run's own structure.json; None where there is none yet."""
    if not (run.path / layout.STRUCTURE).exists():
        return None
    keys = run.structure().keys
    return tuple(i for i, gate in enumerate(run.gates_list) if gate.key in keys)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        return stamp_of(path.lstat())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
