"""A search in a process of its own: `python -m s3pet_viz search`."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from s3pet_viz.errors import RunError

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

    It has a session of its own: neither Ctrl-C here, nor the end of this kernel or terminal, ends it.

    Raises:
        RunError: the log cannot be written.
    """
    reap()
    try:
        output = log.open("ab")
    except OSError as error:
        raise RunError(f"{log}: cannot be written ({error.strerror})") from None
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
            env={**os.environ, "PYTHONUNBUFFERED": "1", LAUNCHED: "1"},
        )
    _children.append(child)
    return child


def reap() -> None:
    """Let go of children that have ended."""
    _children[:] = [child for child in _children if child.poll() is None]


def log_tail(log: Path) -> str:
    """The end of what the latest process logged, as a terminal would show it (a progress bar's last state); "" where
    there is nothing.
    """
    try:
        with log.open("rb") as f:
            f.seek(0, os.SEEK_END)
            f.seek(max(0, f.tell() - 4 * _TAIL))
            text = f.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    for at in range(len(lines) - 1, -1, -1):
        if lines[at].startswith(_MARK):
            lines = lines[at + 1 :]
            break
    return "\n".join(line for line in lines if line)[-_TAIL:]


@atexit.register
def _leave() -> None:
    """Children live on, on purpose: no warning that they do."""
    for child in _children:
        if child.poll() is None:
            child.returncode = 0
