"""How many steps a run has, and single steps, without reading the others: what a list or a summary of runs needs."""

from __future__ import annotations

import os
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from s3pet_viz.errors import RunError
from s3pet_viz.runs import layout
from s3pet_viz.runs.steps import COLUMNS, Part, as_rows, opened, read_head, read_messages, stamp_of

Row = dict[str, np.ndarray]


@dataclass
class _Counted:
    part: Part
    stamp: tuple[int, int, int]
    rows: int  # whole ones in the file
    first: int  # of them, how many count: those below the first step of every later part
    limit: int | None = None  # that step


class StepHeads:
    """The step log by the heads and tails of its parts: all rows of a part take the same number of bytes.

    Damage in between is not seen here, but by who reads the rows (`StepLog`).
    """

    def __init__(self, run: Path, n_gates: int) -> None:
        self._run, self._n_gates = run, n_gates
        self._parts: list[_Counted] = []

    def __len__(self) -> int:
        return sum(counted.first for counted in self._parts)

    @property
    def first_steps(self) -> list[int]:
        """The first step of each part."""
        return [counted.part.from_step for counted in self._parts]

    def refresh(self) -> None:
        """Look at what the writer added. Raises RunError: a part is damaged or foreign; names the file."""
        known = {counted.part.path: counted for counted in self._parts}
        parts = []
        for path in layout.part_paths(self._run):
            try:
                stamp = stamp_of(path.lstat())
            except FileNotFoundError:  # the run is being deleted
                continue
            before = known.get(path)
            parts.append(before if before is not None and before.stamp == stamp else self._count(path))
        least: int | None = None
        for counted in reversed(parts):
            if counted.limit != least:
                counted.first = counted.rows if least is None else self._below(counted, least)
                counted.limit = least
            least = counted.part.from_step if least is None else min(least, counted.part.from_step)
        self._parts = parts

    def row(self, number: int) -> Row:
        """One row (negative numbers count from the last): alpha and p of shape (1, n_gates), all else (1,). Raises
        IndexError: no such row. RunError: it is damaged.
        """
        at = number + len(self) if number < 0 else number
        for counted in self._parts:
            if 0 <= at < counted.first:
                return self._read(counted, at)
            at -= counted.first
        raise IndexError(number)

    def last(self, n: int) -> Row:
        """So many rows from the end, or all: alpha and p of shape (n, n_gates), all else (n,)."""
        rows = [self.row(at) for at in range(max(0, len(self) - n), len(self))]
        if not rows:
            return {name: np.empty(0, np.int64 if name == "step" else np.float64) for name in COLUMNS}
        return {name: np.concatenate([row[name] for row in rows]) for name in COLUMNS}

    def find(self, step: int) -> int | None:
        """The row of a recorded step; None where it is not recorded."""
        base = 0
        for counted in self._parts:
            low = self._below(counted, step)
            if low < counted.first:
                return base + low if self._step(counted, low) == step else None
            base += counted.first
        return None

    # -- inside ----------------------------------------------------------------------------------------

    def _count(self, path: Path) -> _Counted:
        with opened(path) as f:
            found = os.fstat(f.fileno())
            part = read_head(path, f, self._n_gates)
            f.seek(part.start)
            batches, _ = read_messages(part, f.read(2 * part.row_bytes(self._n_gates)), self._n_gates)
            size = part.message_bytes
            rows = (found.st_size - part.start) // size if batches else 0
            if rows:
                f.seek(part.start)
                mark = f.read(8)
                rows = self._whole(part, f, mark, rows, found.st_size)
        return _Counted(part, stamp_of(found), rows, rows)

    def _whole(self, part: Part, f: BinaryIO, mark: bytes, rows: int, size: int) -> int:
        """Rows up to a tail of zeros, which is what a power cut may leave."""

        def begins(row: int) -> bool:
            f.seek(part.start + row * part.message_bytes)
            return f.read(8) == mark

        if begins(rows - 1):
            return rows
        low = bisect_left(range(rows), True, 1, rows - 1, key=lambda row: not begins(row))
        at = part.start + low * part.message_bytes
        f.seek(at)
        tail = f.read(min(size - at, 1 << 20))
        if tail.count(0) != len(tail):
            raise RunError(f"{part.path}: damaged at byte {at}: no message starts here")
        return low

    def _below(self, counted: _Counted, step: int) -> int:
        """How many rows of a part come before a step."""
        rows = counted.rows
        if not rows or self._step(counted, rows - 1) < step:
            return rows
        return bisect_left(range(rows), step, key=lambda row: self._step(counted, row))

    def _step(self, counted: _Counted, row: int) -> int:
        return int(self._read(counted, row, check=False)["step"][0])

    def _read(self, counted: _Counted, row: int, *, check: bool = True) -> Row:
        part = counted.part
        with opened(part.path) as f:
            f.seek(part.start + row * part.message_bytes)
            batches, _ = read_messages(part, f.read(part.message_bytes), self._n_gates)
        if not batches:
            raise RunError(f"{part.path}: damaged, or changed while it was read")
        rows = as_rows(part, batches, self._n_gates, check=check)
        for values in rows.values():
            values.flags.writeable = False
        return rows
