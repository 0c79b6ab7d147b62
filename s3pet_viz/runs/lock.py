"""One writer per run directory: an advisory lock that the system releases when its holder dies."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s3pet_viz.errors import FileError, RunError
from s3pet_viz.files import open_plain

#: A reader's test holds the lock for an instant; a writer must not mistake that for another writer.
_PATIENCE = 0.3

_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


class LockHeldError(RunError):
    """Another writer holds the lock."""


class WriterLock:
    """Held from construction to `release`, or to the end of the process.

    Where the file system knows no locks, the file's text is the lock: it names its holder until that one releases it
    or is seen to be dead. Two that begin in the same instant are then not kept apart.

    Attributes:
        effective: False where the file system knows no locks; readers then go by the process id.

    Raises:
        LockHeldError: another writer, in this process or another, holds it. RunError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._owner: int | None = None
        self._fd: int | None = _open(path)
        self.effective = False
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.effective = _flock(self._fd, exclusive=True)
                if self._fd is not None and not same_file(self._fd, path):  # removed since it was opened
                    os.close(self._fd)
                    self._fd = _open(path)
                    continue
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                self.release()
                raise _held_by(path) from None
            except BaseException:
                self.release()
                raise
        if not self.effective and _named_holder_lives(path):
            self.release()
            raise _held_by(path, effective=False)
        _held.add(self)
        self._owner = os.getpid()
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{self._owner} {socket.gethostname()} {process_mark(self._owner)}\n".encode(), 0)
        except OSError as error:  # a full disk: the name is a courtesy where the lock works
            if not self.effective:
                self.release()
                raise RunError(f"{path}: cannot be written ({error.strerror})") from None

    def release(self) -> None:
        """Give the lock back; doing so twice is harmless."""
        if self._fd is not None:
            if self._owner == os.getpid() and not self.effective:
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None


def _open(path: Path) -> int:
    try:
        return open_plain(path, os.O_RDWR | os.O_CREAT, links=False, in_place=True)
    except FileError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from None


def same_file(fd: int, path: Path) -> bool:
    """Whether an open file or folder is still the one at this path."""
    try:
        there, held = path.stat(), os.fstat(fd)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)


def _forget_in_child() -> None:
    """A forked worker shares the lock and would keep it after its parent's death."""
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def shared(fd: int) -> bool:
    """Hold an open file together with others, until each has closed it or died; False where somebody holds it alone.
    Nothing is held where the file system knows no locks.
    """
    try:
        _flock(fd, exclusive=False)
    except BlockingIOError:
        return False
    return True


def taken_alone(fd: int) -> bool:
    """Hold an open file alone; False where anybody else does, or nobody can say."""
    try:
        return _flock(fd, exclusive=True)
    except BlockingIOError:
        return False


def lock_is_held(path: Path) -> bool:
    """Whether some process holds the lock now; False where there is no lock file. Raises RunError: something else is in
    its place.
    """
    try:
        fd = open_plain(path, links=False)
    except FileError as error:
        if error.errno in (errno.EINVAL, errno.EISDIR):
            raise RunError(str(error)) from None
        return False
    try:
        _flock(fd, exclusive=False)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def refuse_held(path: Path) -> None:
    """Raises LockHeldError where another writer holds the lock: before long work. Only taking the lock makes sure."""
    if lock_is_held(path):
        raise _held_by(path)


def process_mark(pid: int) -> str | None:
    """What tells a process from a later one with the same id: the boot, and its start in clock ticks since then.

    None where there is no such process (a zombie is none), or the system does not say (it is not Linux).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def wrote(info: Mapping[str, Any], pid: int, mark: str | None) -> bool:
    """Whether run.json names this process as its writer; by the id alone where its `process_mark` is not known."""
    return info.get("pid") == pid and mark in (None, info.get("pid_mark"))


def process_lives(pid: object, mark: object = None) -> bool:
    """Whether a process of this host lives; with its `process_mark` not another one that got the same id since."""
    if isinstance(pid, bool) or not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it lives and belongs to someone else
        pass
    return not isinstance(mark, str) or process_mark(pid) == mark


def _holder(path: Path) -> tuple[str, str, str]:
    """Process id, host and mark as the holder wrote them; "" for what is not there."""
    try:
        with os.fdopen(open_plain(path, links=False), "rb") as f:
            words = f.read(200).decode("utf-8", "replace").split()
    except OSError:
        words = []
    pid, host, mark = (*words, "", "", "")[:3]
    return pid, host, mark


def is_holder(path: Path, pid: int) -> bool:
    """Whether a process of this host was the last to hold the lock."""
    word, host, _ = _holder(path)
    return word == str(pid) and host == socket.gethostname()


def _held_by(path: Path, *, effective: bool = True) -> LockHeldError:
    pid, host, _ = _holder(path)
    who = f"process {pid or '(unknown)'}{f' on {host}' if host else ''}"
    gone = "" if effective else f"; if that process is gone, remove {path}"
    return LockHeldError(
        f"{path.parent}: this run is being written by {who}; stop that one first, or use another --out{gone}"
    )


def _named_holder_lives(path: Path) -> bool:
    """By the file's text alone. Of another host's process nothing is known, so it counts as living."""
    if sys.platform == "win32":
        return False
    pid, host, mark = _holder(path)
    if not pid.isdigit():
        return False
    if host and host != socket.gethostname():
        return True
    return process_lives(int(pid), mark if ":" in mark else None)


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
