"""A search in a process of its own: `python -m s3pet_viz search`."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from s3pet_viz.errors import FileError, RunError
from s3pet_viz.files import open_plain
from s3pet_viz.runs.lock import same_file, shared
from s3pet_viz.structure.tables import families_environment

#: Handles of living children. Dropping one would warn, and leave a zombie that nobody reaps.
_children: list[subprocess.Popen[bytes]] = []

#: Set in the environment of a search that was launched.
LAUNCHED = "S3PET_LAUNCHED"

#: How much of a log's end is shown as the error of a dead search.
_TAIL = 2000
#: Begins the line with which each process's part of a log starts.
_MARK = "--- s3pet "


def spawn(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start ``python -m s3pet_viz ARGUMENTS``; all that it prints is appended to `log`.

    It has a session of its own: neither Ctrl-C here, nor the end of this kernel or terminal, ends it. Raises RunError:
    the log cannot be written.
    """
    reap()
    output = _open_log(log)
    with output:
        output.write(f"{_MARK}{' '.join(arguments[:1])} {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        output.flush()
        child = subprocess.Popen(
            [sys.executable, "-m", "s3pet_viz", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # The log is to say at once what happens, and of which kind an error is.
            env={**os.environ, **families_environment(), "PYTHONUNBUFFERED": "1", LAUNCHED: "1"},
        )
    _children.append(child)
    return child


def _open_log(log: Path) -> BinaryIO:
    """The log, to append to; locked for as long as a process that writes to it lives, so that nobody takes it away
    (`launch`).
    """
    while True:
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            output = os.fdopen(open_plain(log, flags, links=False, in_place=True), "ab")
        except FileError as error:
            raise RunError(f"{log}: cannot be written ({error.strerror})") from None
        if shared(output.fileno()) and same_file(output.fileno(), log):
            return output
        output.close()  # a launch that failed is taking it away
        time.sleep(0.01)


def reap() -> None:
    """Let go of children that have ended."""
    _children[:] = [child for child in _children if child.poll() is None]


def log_tail(log: Path, *, all_of: bool = False) -> str:
    """The end of what the latest process logged, as a terminal would show it (a progress bar's last state); "" where
    there is nothing. `all_of`: of what all processes logged.
    """
    try:
        with os.fdopen(open_plain(log, links=False), "rb") as f:
            f.seek(0, os.SEEK_END)
            f.seek(max(0, f.tell() - 4 * _TAIL))
            text = f.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    for at in range(len(lines) - 1, -1, -1):
        if lines[at].startswith(_MARK) and not all_of:
            lines = lines[at + 1 :]
            break
    return "\n".join(line for line in lines if line)[-_TAIL if not all_of else 0 :]


@atexit.register
def _leave() -> None:
    """Children live on, on purpose: no warning that they do."""
    for child in _children:
        if child.poll() is None:
            child.returncode = 0
