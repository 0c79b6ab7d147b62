"""What a disk or a killer may do to the n-th operation on the files of a folder."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch


class Faults:
    """Counts what a process does to the files below a folder, and at operation number `at` (from 1) does its harm.

    Actions: ``count``: none. ``kill``: SIGKILL before the operation. ``half``: SIGKILL in the middle of a write (before
    any other operation). ``full``: from then on the disk is full, and of the first write half is done. ``once``: one
    operation fails with ENOSPC, the next ones do not. ``read-only``: from then on nothing can be made or replaced.
    """

    def __init__(self, folder, action="count", at=0):
        self.folder, self.action, self.at = str(Path(folder).resolve()), action, at
        self.seen: list[str] = []

    def __enter__(self):
        self._stack = ExitStack()
        self._real = {name: getattr(os, name) for name in ("write", "pwrite", "fsync", "replace", "unlink", "ftruncate")}
        self._open = Path.open
        for name in self._real:
            self._stack.enter_context(patch.object(os, name, getattr(self, f"_{name}")))
        faults = self

        def opened(path, mode="r", *rest, **more):
            if set(mode) & set("wxa") and faults._inside(path):
                faults._operation("open", path)
                return _File(faults, faults._open(path, mode, *rest, **more), path)
            return faults._open(path, mode, *rest, **more)

        self._stack.enter_context(patch.object(Path, "open", opened))
        return self

    def __exit__(self, *exc):
        self._stack.close()

    # -- inside ------------------------------------------------------------------------------------------------

    def _inside(self, path):
        return str(Path(path).absolute()).startswith(self.folder)

    def _path(self, fd):
        return str(Path(f"/proc/self/fd/{fd}").readlink())

    def _operation(self, name, path, half=None):
        """`half` does the first half of the operation."""
        self.seen.append(f"{name} {Path(path).name}")
        number = len(self.seen)
        if self.action == "count" or number < self.at or not self.at:
            return
        first = number == self.at
        if first and self.action in ("kill", "half"):
            if self.action == "half" and half is not None:
                half()
            os.kill(os.getpid(), signal.SIGKILL)
        if name in ("unlink", "ftruncate") or (not first and (self.action == "once" or name == "replace")):
            return
        if self.action in ("full", "once"):
            if first and half is not None:
                half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if self.action == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def _write(self, fd, data):
        if self._inside(self._path(fd)):
            half = memoryview(data)[: len(data) // 2]
            self._operation("write", self._path(fd), lambda: self._real["write"](fd, half))
        return self._real["write"](fd, data)

    def _pwrite(self, fd, data, offset):
        if self._inside(self._path(fd)):
            self._operation("pwrite", self._path(fd))
        return self._real["pwrite"](fd, data, offset)

    def _fsync(self, fd):
        if self._inside(self._path(fd)):
            self._operation("fsync", self._path(fd))
        return self._real["fsync"](fd)

    def _replace(self, source, target, **more):
        if self._inside(target):
            self._operation("replace", target)
        return self._real["replace"](source, target, **more)

    def _unlink(self, path, **more):
        if not isinstance(path, int) and self._inside(path):
            self._operation("unlink", path)
        return self._real["unlink"](path, **more)

    def _ftruncate(self, fd, length):
        if self._inside(self._path(fd)):
            self._operation("ftruncate", self._path(fd))
        return self._real["ftruncate"](fd, length)


class _File:
    """A file whose writes are counted, too."""

    def __init__(self, faults, file, path):
        self._faults, self._file, self._path = faults, file, path

    def write(self, data):
        def half():
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._faults._operation("write", self._path, half)
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._file.close()
