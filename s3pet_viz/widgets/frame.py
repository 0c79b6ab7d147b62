"""What a live view shows at one moment, computed apart from any widget."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from s3pet_viz.errors import RunError, S3PETError
from s3pet_viz.launch import Launched
from s3pet_viz.runs import Run, layout, open_run
from s3pet_viz.runs.health import Finding, health
from s3pet_viz.runs.life import ENDED, early_stop
from s3pet_viz.runs.tail import TailLog
from s3pet_viz.structure import Gate, Structure, select

Source = Run | Launched | str | os.PathLike[str]

#: Points of a curve at most; a screen is not wider.
MOST_POINTS = 512
#: Columns of `Frame.curves`.
CURVES = ("step", "train_loss", "val_loss", "entropy", "expected")

#: How often the process is asked for signs of life while its files rest, in seconds.
_PULSE = 0.5
#: How often a running search's health is judged, in seconds.
_JUDGE = 1.0
#: Steps that the time left is reckoned from.
_RECENT = 50


@dataclass(frozen=True)
class Frame:
    """One moment of a run.

    Attributes:
        status: as `Run.status`; ``starting`` before there is a run; ``failed`` where there never will be.
        early_stop: where and why it finished before the last of its steps, or None.
        error: why the search ended, or None. problem: why this view cannot read the run now, or None; what else is here
            is then from before.
        step, steps_total: number of the newest step (None before the first); how many there will be (None: unknown).
        seconds_left: None where that cannot be said.
        p, alpha: float32, shape (n_gates,); None before the first step. selected: bool, shape (n_gates,).
        chosen_params, expected, budget, backbone_params: in parameters; None where not known.
        curves: one row per drawn step, at most `MOST_POINTS`: columns `CURVES`.
        findings: search health in words.
    """

    status: str = "starting"
    early_stop: str | None = None
    error: str | None = None
    problem: str | None = None
    step: int | None = None
    steps_total: int | None = None
    seconds_left: float | None = None
    p: np.ndarray | None = None
    alpha: np.ndarray | None = None
    selected: np.ndarray | None = None
    chosen_params: int | None = None
    expected: float | None = None
    budget: int | None = None
    backbone_params: int | None = None
    curves: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({name: [] for name in CURVES}))

    findings: tuple[Finding, ...] = ()

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class LiveModel:
    """Follows a run directory and says what to show.

    Attributes:
        run: None until the search has made its run directory.
        path: the run directory.

    Raises:
        RunError: `source` is a path that is no run.
        TypeError: none of these.
    """

    def __init__(self, source: Source) -> None:
        if not isinstance(source, (Run, Launched, str, os.PathLike)):
            raise TypeError(f"expected a Run, or the path of a run directory, found {type(source).__name__}")
        self._launched = source if isinstance(source, Launched) else None
        self.run: Run | None = None if isinstance(source, Launched) else open_run(source)
        self.path: Path = source.path if isinstance(source, Launched) else self._the_run.path
        self._log: TailLog | None = None
        self._files: object = None
        self._status = ""
        self._looked = float("-inf")
        self._frame: Frame | None = None
        self._judged = float("-inf")
        self._findings: tuple[Finding, ...] = ()

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The search space; empty until there is a run."""
        return self.run.gates_list if self.run is not None else ()

    def poll(self) -> Frame | None:
        """What to show now; None where nothing has changed since the last call. Costs a few `stat`s then.

        Never raises for what is wrong with the files: that is in `Frame.problem`.
        """
        try:
            frame = self._look()
        except (S3PETError, OSError) as error:
            frame = replace(self._frame or Frame(), problem=str(error))
            self._files = None
        if frame is None or (frame.problem is not None and self._frame and frame.problem == self._frame.problem):
            return None
        self._frame = frame
        return frame

    # -- inside ----------------------------------------------------------------------------------------

    @property
    def _the_run(self) -> Run:
        assert self.run is not None
        return self.run

    def _look(self) -> Frame | None:
        if self.run is None and not self._begun():
            assert self._launched is not None
            error = self._launched.error
            if error is not None:
                return self._if_new(Frame(status="failed", error=str(error)))
            return self._if_new(Frame())
        run = self._the_run
        if self._log is None:
            self._log = TailLog(run.path, run.counts)
        files = (_stamp(run.path / layout.RUN_JSON), _stamp(run.path / layout.STRUCTURE), self._log.stamp)
        now = time.monotonic()
        if files == self._files and now - self._looked < _PULSE:
            return None
        self._looked = now
        # The status first: a run that has ended by now has all its steps on disk.
        status = run.status
        if (files, status) == (self._files, self._status):
            return None
        frame = self._read(run, self._log, status)
        self._files, self._status = files, status
        return frame

    def _begun(self) -> bool:
        assert self._launched is not None
        self.run = self._launched.run
        return self.run is not None

    def _if_new(self, frame: Frame) -> Frame | None:
        if self._status == frame.status:
            return None
        self._status = frame.status
        return frame

    def _read(self, run: Run, log: TailLog, status: str) -> Frame:
        log.refresh()
        info = run.info
        frame = Frame(
            status=status,
            early_stop=early_stop(info, status),
            error=run.error,
            steps_total=info["steps_total"],
            budget=info["budget"],
            backbone_params=info["backbone_params"],
        )
        if log.last is None:
            return frame
        chosen = _chosen(run, log.last.alpha, info["budget"])
        rows = thin(len(log), MOST_POINTS)
        now = time.monotonic()
        if now - self._judged >= _JUDGE or status != self._status:
            self._judged = now
            # health asks a Run for little, and of a Run it would read every alpha into memory.
            self._findings = tuple(health([cast(Run, _Watched(run, log, status, chosen))]))
        return replace(
            frame,
            step=log.last.step,
            seconds_left=_seconds_left(log, info["steps_total"], status),
            p=log.last.p,
            alpha=log.last.alpha,
            selected=chosen,
            chosen_params=int(run.counts[chosen].sum()),
            expected=float(log.column("expected")[-1]) if len(log) else None,
            curves=pd.DataFrame({name: log.column(name)[rows] for name in CURVES}),
            findings=self._findings,
        )


class _Watched:
    """What `health` asks of a run, answered from a `TailLog`."""

    def __init__(self, run: Run, log: TailLog, status: str, chosen: np.ndarray) -> None:
        self._log, self._chosen = log, chosen
        self.name, self.info, self.config, self.status = run.name, run.info, run.config, status
        self.error, self.ended = run.error, status in ENDED
        self.early_stop = early_stop(run.info, status)
        self.gates_list, self.counts, self.n_steps = run.gates_list, run.counts, len(log)

    def steps(self) -> pd.DataFrame:
        return pd.DataFrame({name: self._log.column(name) for name in layout.SCALARS})

    def p(self) -> np.ndarray:
        assert self._log.last is not None
        return self._log.last.p

    def alphas(self) -> np.ndarray:
        return self._log.samples()

    def structure(self) -> Structure:
        gates = tuple(gate for gate, taken in zip(self.gates_list, self._chosen, strict=True) if taken)
        return Structure(gates=gates)


def thin(n_rows: int, most: int) -> np.ndarray:
    """At most `most` row numbers of so many, the last one always among them.

    The stride is a power of two, so that the points of a growing curve stay where they are.
    """
    if n_rows <= most:
        return np.arange(n_rows)
    stride = 2 ** int(np.ceil(np.log2(n_rows / (most - 1))))
    rows = np.arange(0, n_rows, stride)
    return rows if rows[-1] == n_rows - 1 else np.append(rows, n_rows - 1)


def _chosen(run: Run, alpha: np.ndarray, budget: int | None) -> np.ndarray:
    """Which gates are chosen: as the run itself wrote at its end, else as it would choose now. bool, (n_gates,)."""
    mask = np.zeros(len(alpha), dtype=bool)
    own = run.path / layout.STRUCTURE
    if own.exists():
        keys = Structure.load(own).keys
        return np.array([gate.key in keys for gate in run.gates_list])
    if budget:
        mask[select(alpha, run.counts, budget)] = True
    return mask


def _seconds_left(log: TailLog, total: int | None, status: str) -> float | None:
    if status != "running" or not total or not len(log):
        return None
    left = max(0, total - int(log.column("step")[-1]) - 1)
    return float(left * log.column("seconds")[-_RECENT:].mean())


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)
