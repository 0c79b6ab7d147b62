"""Where a run may be written, and what to say when the disk refuses."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from s3pet_viz import files
from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.files import located
from s3pet_viz.runs import layout

#: What an interrupted `RunWriter.create` may have left, and what a launcher may have put there before it.
_LEFTOVERS = frozenset({layout.LOCK, layout.LOG, layout.GATES})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class DiskError(RunError):
    """The disk refused a write: it is full, read-only, or failing. What was written before is whole."""


class LostRunError(DiskError):
    """The run's folder was removed, renamed or replaced while a search wrote it."""


@contextmanager
def disk_errors(path: Path, what: str = "cannot be written", *, begun: bool = True) -> Iterator[None]:
    """Inside, an OSError becomes a `DiskError` that names the file and what to do."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise disk_error(path, error, what, begun=begun) from error


def disk_error(path: Path, error: OSError, what: str = "cannot be written", *, begun: bool = True) -> DiskError:
    """The error to raise for this one; `begun`: there is a run that can be resumed."""
    if error.errno in _FULL:
        advice = "make room on that disk"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "make that folder writable"
    else:
        advice = "see to that disk"
    whole = "then go on with s3pet search --resume: what was written before is whole"
    then = whole if begun else "or use another --out"
    return DiskError(f"{path}: {what} ({error.strerror or error}); {advice}, {then}")


def check_place(run: Path) -> None:
    """Before long work: a new run can be made here. Raises RunError: the folder holds another run or unrelated files.
    DiskError: it, or the folder that it would be made in, cannot be written. Nothing is left there.
    """
    refuse_occupied(run)
    check_writable(run, begun=False)


def check_apart(save: str | os.PathLike[str], out: Path | None) -> None:
    """Before long work: neither a folder for what is trained nor a new run's stands in the other's way.

    Args:
        save: a folder that can be made. out: the run's; None: a new one under ``runs``.

    Raises:
        ConfigError: they are one, the run would lie in `save`, or `save` has the name of a run's own file or folder.
    """
    try:
        target, run = located(save).resolve(), (located("runs/new") if out is None else located(out)).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a null byte; a loop of links
        raise ConfigError(f"save: {save}: cannot be used as a folder ({error})") from None
    inside = target.relative_to(run).parts if target.is_relative_to(run) else ()
    if run.is_relative_to(target) or (inside and inside[0] in layout.NAMES):
        raise ConfigError(f"save: expected a folder apart from the run's ({out or 'runs/...'}), found {save}")


def check_writable(folder: Path, *, begun: bool = True) -> None:
    """Before long work: write a little where nobody sees it, in the folder or in the nearest one above that exists.

    Mode bits say nothing to root, nor of a full disk. Raises DiskError: it cannot be written, or its disk is full; a
    file is in the way.
    """
    place = folder = located(folder)
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place, prefix=".s3pet-") as f:
            f.write(bytes(4096))
    except OSError as error:
        made = "" if place == folder else f", so {folder} cannot be made"
        raise disk_error(place, error, f"cannot be written{made}", begun=begun) from None


def refuse_occupied(run: Path) -> None:
    """Raises RunError unless the folder is free for a new run: missing, empty, or what an interrupted begin left."""
    if not files.is_there(run):
        return
    if not run.is_dir():
        raise RunError(f"{run}: expected a folder, found a file; use another --out")
    if (run / layout.RUN_JSON).exists():
        raise RunError(f"{run}: already holds a run; continue it with --resume, or use another --out")
    # Hidden temporaries are what a killed writer leaves before its rename.
    foreign = sorted(
        entry.name
        for entry in run.iterdir()
        if entry.name not in _LEFTOVERS and not (entry.name.startswith(".") and entry.name.endswith(".tmp"))
    )
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise RunError(f"{run}: holds files that are not a run ({foreign[0]}{more}); use an empty folder as --out")


def sweep_temporaries(run: Path) -> None:
    """Remove what killed writers left before their renames; only for the one that holds the lock.

    A temporary of control.json may be a reader's, at work now.
    """
    for folder in (run, run / layout.STEPS, run / layout.CHECKPOINT):
        for path in folder.glob(".*.tmp"):
            if not path.name.startswith(f".{layout.CONTROL}."):
                with suppress(OSError):
                    path.unlink()


def append_whole(fd: int, data: bytes | memoryview) -> None:
    """Append all of it to an open file, or take back what was written of it: a row after a torn one is lost. Raises
    OSError: the disk refuses; the file is as it was.
    """
    before = os.fstat(fd).st_size
    try:
        done = 0
        while done < len(data):
            done += os.write(fd, data[done:])
    except BaseException:
        with suppress(OSError):
            os.ftruncate(fd, before)
        raise
