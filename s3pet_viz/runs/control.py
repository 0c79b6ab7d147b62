"""What a reader asks of a running search: pause, resume, stop. One small file, replaced as a whole."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

from s3pet_viz.errors import RunError
from s3pet_viz.files import read_json, write_json_atomic
from s3pet_viz.runs import layout

Request = Literal["pause", "resume", "stop"]

KIND = "s3pet_viz.control"
_MOST = 64 * 1024  # bytes


def write_request(run: Path, request: Request, pid: int) -> None:
    """Ask the search that writes this run directory for something; it looks between two steps.

    Args:
        pid: the process that is asked. One that resumes the run later is not meant.

    Raises:
        RunError: the folder cannot be written.
    """
    layout.check_entries(run)
    path = run / layout.CONTROL
    try:
        write_json_atomic(
            path, {"kind": KIND, "schema_version": layout.SCHEMA_VERSION, "request": request, "pid": pid}, parents=False
        )
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from None


def drop_stale_request(run: Path, pid_before: object) -> None:
    """Forget what an earlier process of this run was asked, so that one with the same id does not do it.

    Called by the process that takes the run over, which may have been asked already while it was starting.

    Args:
        pid_before: of the process that wrote the run last.
    """
    path = run / layout.CONTROL
    data = _content(path)
    if data is None:
        return
    asked = data.get("pid") if isinstance(data, dict) else None
    if asked != os.getpid() or asked == pid_before:
        with suppress(OSError):
            path.unlink()


def _content(path: Path) -> Any:
    """What the file says; None where it says nothing that can be read."""
    try:
        return read_json(path, RunError, most=_MOST, links=False)
    except RunError:
        return None


class ControlReader:
    """The search's side. Looking costs one `stat`, so it may be done at every step."""

    def __init__(self, run: Path) -> None:
        self.path = run / layout.CONTROL
        self._stamp: tuple[int, int, int] | None = None
        self._request: Request | None = None

    def request(self) -> Request | None:
        """The latest request made of this process, or None. A file that is no request is ignored, with a warning."""
        try:
            stat = self.path.lstat()
        except OSError:
            self._stamp, self._request = None, None
            return None
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if stamp != self._stamp:
            self._stamp = stamp
            self._request = self._read()
        return self._request

    def _read(self) -> Request | None:
        data = _content(self.path)
        if isinstance(data, dict) and data.get("kind") == KIND and data.get("request") in get_args(Request):
            request: Request = data["request"]
            return request if data.get("pid") == os.getpid() else None
        warnings.warn(f"{self.path}: not a request (pause, resume or stop); ignored", stacklevel=2)
        return None
