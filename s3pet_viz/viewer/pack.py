"""Rows of the step log as a page gets them: as float32 while they are few, then as 16-bit codes, then thinned."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Numbers of a row beside its gates, in the order in which they travel (js/store.js names them, too).
SCALARS = ("step", "seconds", "zeta", "train_loss", "val_loss", "entropy", "expected", "low", "scale")
#: Bytes of gates that travel as float32 where codes can be used; and at all: beyond, every other row is left out.
MOST_WIDE, MOST = 8 << 20, 24 << 20
#: A level of a code is at most so much alpha, in parts of tau: p is then right to 5e-4 at every budget, for its slope
#: is at most 1 / (4 tau), half a level is lost, and the shift moves no further than alpha does.
_LEVEL = 2e-3
_CODES = 65536
#: Numbers that are packed at once: what that takes for a moment should not show in the kernel's memory.
_AT_ONCE = 1 << 16
#: Bytes of gates from which on room is made at once.
_MANY = 1 << 20


def encode(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """16-bit codes that keep the order of the gates exactly and their values to half a level.

    code = place from the lowest + level of the value. Both rise with alpha, so that the codes of a row rise strictly in
    the order that `structure.select` goes through (backwards; ties: lower index first), and the level is code - place.

    Args:
        alpha: float32, shape (n_rows, n_gates); fewer than 65,536 gates.

    Returns:
        codes, uint16, of the same shape; low and scale (alpha of level 0, and of a level's height), shape (n_rows,).
    """
    n = alpha.shape[1]
    levels = _CODES - 1 - n
    values = alpha.astype(np.float64)
    low = values.min(axis=1)
    scale = (values.max(axis=1) - low) / levels
    codes = np.rint((values - low[:, None]) / np.where(scale > 0, scale, 1)[:, None]).astype(np.uint16)
    # One sort of (alpha, index) as whole numbers: quicker than a stable sort of floats.
    bits = (alpha + np.float32(0)).view(np.int32).astype(np.int64)  # adding 0 makes -0.0 and 0.0 equal
    rising = np.where(bits < 0, ~bits & 0xFFFFFFFF, bits | 0x80000000)
    keys = np.sort((rising << 20) | (n - 1 - np.arange(n)), axis=1)
    order = n - 1 - (keys & 0xFFFFF)
    places = np.empty((len(alpha), n), dtype=np.uint16)
    np.put_along_axis(places, order, np.arange(n, dtype=np.uint16)[None, :], axis=1)
    return codes + places, low, scale


def shift_of(alpha: np.ndarray, p: np.ndarray, zeta: np.ndarray, tau: float) -> np.ndarray:
    """The shift that gives the recorded p, of the gate whose p says it best; the log's own zeta is that of the alpha
    before the step, p that of the alpha after it. `alpha`, `p`: float32, shape (n_rows, n_gates). zeta: of the log,
    shape (n_rows,): kept where p is damaged.
    """
    at = np.array([np.abs(row - np.float32(0.5)).argmin() for row in p], dtype=np.intp)
    rows = np.arange(len(p))
    best = p[rows, at].astype(np.float64)
    with np.errstate(all="ignore"):
        shift = alpha[rows, at] - tau * np.log(best / (1 - best))
    return np.where((best > 0) & (best <= 1), shift, zeta)


class History:
    """The rows that a page may ask for.

    Attributes:
        stride: every so many steps are kept. wide: float32 alpha, else codes. era: changes when kept rows do.
        n: rows kept. packs: whether codes may be used. coarse: whether they are not fine enough for a row that was
        added: alpha has moved too far apart. The log is then to be read again, with `packs` off.
    """

    def __init__(self, n_gates: int, tau: float = 1.0) -> None:
        self.n_gates, self._tau = n_gates, tau
        self.packs = n_gates <= _CODES // 2
        self._step = max(1, _AT_ONCE // n_gates)
        self._eras = 0
        self.clear()

    def clear(self) -> None:
        self.stride, self.wide, self.n, self._seen, self.coarse = 1, True, 0, 0, False
        self._new_era()
        self._scalars = np.empty((0, len(SCALARS)))
        self._values = np.empty((0, self.n_gates), np.float32)

    def _new_era(self) -> None:
        self._eras += 1
        self.era = f"e{self._eras}"

    def add(self, scalars: np.ndarray, alpha: np.ndarray) -> None:
        """Rows that come next. `scalars`: float64, shape (n_rows, 7): `SCALARS` but the last two. alpha: float32, shape
        (n_rows, n_gates).
        """
        for rows in self._chunks(len(alpha)):
            self._add(scalars[rows], alpha[rows])

    def cut(self, n_rows: int) -> None:
        """Forget all but the first rows of the log: a resumed search takes those steps again."""
        if n_rows < self._seen:
            self._seen, self.n = n_rows, min(self.n, -(-n_rows // self.stride))
            self._values = self._grown(self._values, self._room(self.n))  # what was sent may be on its way: not changed
            self._new_era()

    def part(self, start: int) -> tuple[dict[str, object], bytes, memoryview]:
        """Rows from `start` on: what they are, and their scalars and values as bytes; the values are not copied."""
        start = min(start, self.n)
        about = {"era": self.era, "from": start, "count": self.n - start, "wide": self.wide, "stride": self.stride}
        values = self._values[start : self.n].reshape(-1).view(np.uint8).data
        return about, self._scalars[start : self.n].tobytes(), values

    @property
    def size(self) -> int:
        """Bytes of the gates' rows."""
        return self.n * self.n_gates * self._values.itemsize

    def halve(self) -> None:
        """Leave every other row out."""
        values, self._scalars = self._values[: self.n : 2], self._scalars[: self.n : 2].copy()
        self.n, self.stride = len(values), self.stride * 2
        self._values = self._grown(values, self._room(self.n))
        self._new_era()

    # -- inside ----------------------------------------------------------------------------------------

    def _chunks(self, n_rows: int) -> Iterator[slice]:
        return (slice(at, min(at + self._step, n_rows)) for at in range(0, n_rows, self._step))

    def _add(self, scalars: np.ndarray, alpha: np.ndarray) -> None:
        rows = np.arange(self._seen, self._seen + len(alpha))
        self._seen += len(alpha)
        kept = rows % self.stride == 0
        if not kept.any():
            return
        values, ends = self._packed(alpha[kept])
        need = self.n + len(values)
        if need > len(self._values):
            self._values = self._grown(self._values, self._room(need))
        if need > len(self._scalars):
            self._scalars = self._grown(self._scalars, 2 * need)
        self._values[self.n : need] = values
        self._scalars[self.n : need] = np.column_stack([scalars[kept], ends])
        self.n = need
        self._fit()

    def _grown(self, held: np.ndarray, rows: int) -> np.ndarray:
        made = np.empty((rows, held.shape[1]), held.dtype)
        made[: self.n] = held[: self.n]
        return made

    def _room(self, need: int) -> int:
        """Rows to make room for: all that may ever be kept, once they are many. Memory is used as it is written to."""
        row = self.n_gates * (4 if self.wide else 2)
        return max(need, MOST // row + self._step if need * row > _MANY else 2 * need)

    def _packed(self, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.wide:
            return alpha, np.zeros((len(alpha), 2))
        codes, low, scale = encode(alpha)
        self.coarse |= bool(scale.max() > _LEVEL * self._tau)
        return codes, np.column_stack([low, scale])

    def _fit(self) -> None:
        """Keep within the limits."""
        if self.wide and self.packs and self.size > MOST_WIDE:
            self._pack()
        if self.size > MOST:
            self.halve()

    def _pack(self) -> None:
        wide, self.wide = self._values, False
        self._values = np.empty((self._room(self.n), self.n_gates), np.uint16)
        for rows in self._chunks(self.n):
            self._values[rows], self._scalars[rows, -2:] = self._packed(wide[rows])
        if self.coarse:
            self._values, self.wide, self.packs, self.coarse = wide, True, False, False
        else:
            self._new_era()
