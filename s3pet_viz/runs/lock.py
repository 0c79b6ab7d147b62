"""One writer per run directory: an advisory lock that the system releases when its holder dies."""

from __future__ import annotations

import errno
import os
import sys
import time
import weakref
from pathlib import Path

from s3pet_viz.errors import RunError

#: A reader's test holds the lock for an instant; a writer must not mistake that for another writer.
_PATIENCE = 0.3

_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


class LockHeldError(RunError):
    """Another writer holds the lock."""


class WriterLock:
    """Held from construction to `release`, or to the end of the process.

    Attributes:
        effective: False where the file system knows no locks; readers then go by the process id.

    Raises:
        LockHeldError: another writer, in this process or another, holds it. RunError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._fd: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror})") from None
        self.effective = False
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.effective = _flock(self._fd, exclusive=True)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                holder = os.pread(self._fd, 40, 0).decode("ascii", "replace").strip()
                self.release()
                raise LockHeldError(
                    f"{path.parent}: this run is being written by process {holder or '(unknown)'}; "
                    "stop that one first, or use another --out"
                ) from None
            except BaseException:
                self.release()
                raise
        _held.add(self)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back; doing so twice is harmless."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _forget_in_child() -> None:
    """A forked worker shares the lock and would keep it after its parent's death."""
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def lock_is_held(path: Path) -> bool:
    """Whether some process holds the lock now; False where there is no lock file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        _flock(fd, exclusive=False)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _flock(fd: int, *, exclusive: bool) -> bool:
    """flock, not POSIX record locks: those vanish when the process closes any handle on the file."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL):
            return False
        raise
    return True
