"""The status of a run, from its directory: is it running, how long will it take, what is it asked."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s3pet_viz.errors import RunError
from s3pet_viz.files import located
from s3pet_viz.runs import layout
from s3pet_viz.runs.control import Request, write_request
from s3pet_viz.runs.lock import lock_is_held, process_lives, process_mark, wrote
from s3pet_viz.runs.process import log_tail, spawn

#: Steps that the time left is reckoned from.
RECENT = 50
#: Statuses in which no process writes the run.
ENDED = ("finished", "stopped", "failed", "dead")


def seconds_left(step: int, seconds: NDArray[np.float64], total: int | None, status: str) -> float | None:
    """Seconds to the last step of a running search, from the mean of the latest; None where that cannot be said.

    Args:
        step: the newest. seconds: that the latest steps took, shape (n,). total: steps in all.
    """
    if status != "running" or not total or not len(seconds):
        return None
    return float(max(0, total - step - 1) * seconds[-RECENT:].mean())


def duration(seconds: float) -> str:
    """As a person says it: ``40 s``, ``3 min``, ``2 h 05 min``."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class RunStatus:
    """What `runs.Run` knows of its search's process, from its directory `path`."""

    def __init__(self, path: Path) -> None:
        self.path = located(path)
        self._stamp: tuple[int, int, int] | None = None
        self._info: dict[str, Any] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._child_mark: str | None = None

    @property
    def info(self) -> dict[str, Any]:
        """run.json, read again when it has changed."""
        try:
            stat = (self.path / layout.RUN_JSON).lstat()
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except (OSError, ValueError):  # gone, or a name that no file can have
            stamp = None
        if stamp is None or stamp != self._stamp:
            info = layout.read_run_json(self.path)
            if self._info and info.get("started") != self._info.get("started"):
                self._renewed(info)
            self._info, self._stamp = info, stamp
        return self._info

    def _renewed(self, info: Mapping[str, Any]) -> None:
        """Called when another run has taken the place of the one that was opened; `info` is its run.json."""

    @property
    def status(self) -> str:
        """As run.json says: ``running``, ``paused``, ``finished``, ``stopped``, ``failed``; ``dead`` where it
        says running or paused but its process is gone; ``starting`` where `resume` has started another process that has
        not yet taken over. Of another host's process only run.json is known.
        """
        status = self._recorded_status()
        if status in ENDED and self._child is not None and not self._taken_over(self._child):
            return "starting" if self._child.poll() is None else status
        return status

    def _recorded_status(self) -> str:
        info = self.info
        status = str(info["status"])
        if status not in ("running", "paused") or info.get("host") != socket.gethostname():
            return status
        if info.get("locked", True):
            alive = lock_is_held(self.path / layout.LOCK)
        else:
            alive = process_lives(info.get("pid"), info.get("pid_mark"))
        if alive:
            return status
        # The writer may have finished between the two looks.
        now = str(self.info["status"])
        return "dead" if now in ("running", "paused") else now

    @property
    def ended(self) -> bool:
        """Whether no process writes this run any more, as far as can be known from here."""
        return self.status in ENDED

    @property
    def early_stop(self) -> str | None:
        """Where and why a finished search ended before the last of its steps; None for every other."""
        return early_stop(self.info, self.status)

    @property
    def pruning(self) -> dict[str, Any]:
        """What a search in mode ``prune`` last said of its phases; empty for every other."""
        return pruning(self.info)

    @property
    def error(self) -> str | None:
        """Why a failed or dead search ended, as far as it could say; None for every other."""
        status = self.status
        if self._child is not None and not self._taken_over(self._child) and self._child.poll():
            return f"it could not be resumed:\n{log_tail(self.path / layout.LOG)}"
        if status == "failed":
            return str(self.info.get("error") or "it left no message")
        if status == "dead":
            last = log_tail(self.path / layout.LOG)
            gone = f"process {self.info.get('pid')} is gone without having ended the run (killed?)"
            return f"{gone}\n{last}" if last else gone
        return None

    # -- what it is asked ------------------------------------------------------------------------------

    def pause(self) -> None:
        """Ask the search to hold after the present step; returns at once. Its memory stays in use. Raises
        RunError: the search has ended, or the folder cannot be written.
        """
        self._ask("pause")

    def stop(self) -> None:
        """Ask the search to end after the present step, saved and resumable; returns at once. Raises RunError: as
        `pause`.
        """
        self._ask("stop")

    def resume(self) -> None:
        """Let a paused search go on; continue a stopped, failed or dead one in a process of its own. Returns at once.
        Raises RunError: the search is finished, or the folder cannot be written.
        """
        status = self.status
        if status == "finished":
            how = "stopped early" if self.early_stop else "is finished"
            raise RunError(f"{self.path}: the search {said_status(how, self.early_stop)}; there is nothing to resume")
        if status in ENDED:
            layout.check_entries(self.path)
            self._child = spawn(["search", "--resume", str(self.path), "--quiet"], self.path / layout.LOG)
            self._child_mark = process_mark(self._child.pid)
        else:
            self._write("resume")

    # -- inside ----------------------------------------------------------------------------------------

    def _taken_over(self, child: subprocess.Popen[bytes]) -> bool:
        return wrote(self.info, child.pid, self._child_mark)

    def _ask(self, request: Request) -> None:
        status = self.status
        if status in ENDED:
            raise RunError(f"{self.path}: the search is {status}; it cannot be asked to {request}")
        self._write(request)

    def _write(self, request: Request) -> None:
        starting = self._child is not None and self._child.poll() is None
        write_request(self.path, request, self._child.pid if self._child and starting else self.info.get("pid", 0))


def early_stop(info: Mapping[str, Any], status: str) -> str | None:
    """``at step 120 of 400: REASON`` for a finished search that did not need all of its steps; else None."""
    taken, total = info.get("steps_taken"), info.get("steps_total")
    if status != "finished" or not isinstance(taken, int) or not isinstance(total, int) or taken >= total:
        return None
    return f"at step {taken:,} of {total:,}: {info.get('stop_reason') or 'no reason is recorded'}"


def pruning(info: Mapping[str, Any]) -> dict[str, Any]:
    """See `RunStatus.pruning`."""
    told = info.get("pruning")
    return told if isinstance(told, dict) else {}


def said_status(status: str, early: str | None) -> str:
    """A status in words: ``finished at step 120 of 400: REASON`` where it ended early."""
    return f"{status} {early}" if early else status
