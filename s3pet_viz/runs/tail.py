"""The step log of a run that is watched: what a live view needs, in memory that hardly grows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from s3pet_viz.runs import layout
from s3pet_viz.runs.steps import StepLog
from s3pet_viz.structure.budget import expected_params

#: Rows of alpha that are kept of the way, at most.
_SAMPLES = 64
#: Numbers that are worked on at once, so that a large run takes no more memory for a moment than a small one.
_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class LastStep:
    """The newest row. alpha and p: float32, shape (n_gates,)."""

    step: int
    alpha: np.ndarray
    p: np.ndarray


class TailLog(StepLog):
    """As `StepLog`, but of alpha and p only the newest row stays, and of alpha some rows on the way; of every step the
    scalars, and in columns of their own what curves draw: ``entropy`` (mean over the gates, in bits) and ``expected``
    (parameters, ``p @ counts``, and those of gates pinned in).

    10,000 steps of 1,000 gates take about 1 MB.

    Args:
        run: the run directory.
        counts: parameters of each gate, shape (n_gates,). pinned: parameters of the gates pinned in.
    """

    def __init__(self, run: Path, counts: ArrayLike, pinned: int = 0) -> None:
        self._pinned = pinned
        self._counts = np.asarray(counts, dtype=np.float64)
        self.last: LastStep | None = None
        self._samples: dict[int, np.ndarray] = {}
        super().__init__(run, len(self._counts))

    @property
    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Changes when rows were added; costs one `stat` a part."""
        stamps = []
        for path in layout.part_paths(self._run):
            try:
                stat = path.stat()
            except FileNotFoundError:  # removed meanwhile; the next look sees it
                continue
            stamps.append((path.name, stat.st_ino, stat.st_size))
        return tuple(stamps)

    def samples(self) -> np.ndarray:
        """alpha at even distances from the first row on, and at the last: float32, shape (at most 65, n_gates)."""
        rows = [alpha for row, alpha in self._samples.items() if row < len(self) - 1]
        return np.array([*rows, self.last.alpha] if self.last is not None else rows).reshape(-1, self._n_gates)

    # -- inside ----------------------------------------------------------------------------------------

    def _clear(self) -> None:
        super()._clear()
        for name in ("alpha", "p"):
            del self._data[name]
        self._data |= {name: np.empty(0) for name in ("entropy", "expected")}
        self.last = None
        self._samples = {}
        self._stride = 1

    def _supersede(self, from_step: int) -> None:
        super()._supersede(from_step)
        self._samples = {row: alpha for row, alpha in self._samples.items() if row < len(self)}

    def _store(self, rows: dict[str, np.ndarray]) -> None:
        alpha, p = rows["alpha"], rows["p"]
        self.last = LastStep(int(rows["step"][-1]), alpha[-1].copy(), p[-1].copy())
        for row in range(len(alpha)):
            if (len(self) + row) % self._stride == 0:
                self._samples[len(self) + row] = alpha[row].copy()
            if len(self._samples) > _SAMPLES:
                self._stride *= 2
                self._samples = {at: kept for at, kept in self._samples.items() if at % self._stride == 0}
        kept = {name: values for name, values in rows.items() if name not in ("alpha", "p")}
        means = {"entropy": _mean_entropy(p), "expected": expected_params(p, self._counts) + self._pinned}
        super()._store({**kept, **means})


def _mean_entropy(p: np.ndarray) -> np.ndarray:
    """Mean of `measures.entropy` over the gates; p: float32, shape (n_rows, n_gates).

    In float32, which is five times as quick: a long run is to open at once.
    """
    least = np.float32(1e-30)  # p log p is 0 at 0
    mean = np.empty(len(p))
    with np.errstate(all="ignore"):  # a damaged log may hold any number as p
        few = max(1, _AT_ONCE // p.shape[1])
        for rows in (slice(at, at + few) for at in range(0, len(p), few)):
            bits = p[rows] * np.log2(np.maximum(p[rows], least))
            rest = 1 - p[rows]
            bits += rest * np.log2(np.maximum(rest, least))
            mean[rows] = -bits.mean(axis=1, dtype=np.float64)
    return mean
