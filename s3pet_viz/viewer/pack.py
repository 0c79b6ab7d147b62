"""Rows of the step log as a page gets them: as float32 while they are few, then as 16-bit codes, then thinned."""

from __future__ import annotations

import numpy as np

#: Numbers of a row beside its gates, in the order in which they travel (js/store.js names them, too).
SCALARS = ("step", "seconds", "zeta", "train_loss", "val_loss", "entropy", "expected", "low", "scale")
#: Bytes of gates that travel as float32, and as codes, at most; beyond, every other row is left out.
MOST_WIDE, MOST = 8 << 20, 24 << 20
#: A level of a code is at most so much alpha, in parts of tau: p is then right to 5e-4 at every budget, for its slope
#: is at most 1 / (4 tau), half a level is lost, and the shift moves no further than alpha does.
_LEVEL = 2e-3
_CODES = 65536
_CHUNK = 64


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


class History:
    """The rows that a page may ask for.

    Attributes:
        stride: every so many steps are kept. wide: float32 alpha, else codes. era: changes when kept rows do.
        n: rows kept.
    """

    def __init__(self, n_gates: int, tau: float = 1.0) -> None:
        self.n_gates, self._tau = n_gates, tau
        self._eras = 0
        self.clear()

    def clear(self) -> None:
        self.stride, self.wide, self.n, self._seen = 1, True, 0, 0
        self._new_era()
        self._scalars = np.empty((0, len(SCALARS)))
        self._values = np.empty((0, self.n_gates), np.float32)

    def _new_era(self) -> None:
        self._eras += 1
        self.era = f"e{self._eras}"

    def add(self, scalars: np.ndarray, alpha: np.ndarray) -> None:
        """Rows that come next.

        Args:
            scalars: float64, shape (n_rows, 7): `SCALARS` but the last two. alpha: float32, shape (n_rows, n_gates).
        """
        for at in range(0, len(alpha), _CHUNK):
            self._add(scalars[at : at + _CHUNK], alpha[at : at + _CHUNK])

    def cut(self, n_rows: int) -> None:
        """Forget all but the first rows of the log: a resumed search takes those steps again."""
        if n_rows < self._seen:
            self._seen, self.n = n_rows, min(self.n, -(-n_rows // self.stride))
            self._new_era()

    def part(self, start: int) -> tuple[dict[str, object], bytes, bytes]:
        """Rows from `start` on: what they are, and their scalars and values as bytes."""
        start = min(start, self.n)
        about = {
            "era": self.era, "from": start, "count": self.n - start, "wide": self.wide, "stride": self.stride,
        }  # fmt: skip
        return about, self._scalars[start : self.n].tobytes(), self._values[start : self.n].tobytes()

    @property
    def size(self) -> int:
        """Bytes of the gates' rows."""
        return self.n * self.n_gates * self._values.itemsize

    def halve(self) -> None:
        """Leave every other row out."""
        self._values, self._scalars = self._values[: self.n : 2].copy(), self._scalars[: self.n : 2].copy()
        self.n, self.stride = len(self._values), self.stride * 2
        self._new_era()

    # -- inside ----------------------------------------------------------------------------------------

    def _add(self, scalars: np.ndarray, alpha: np.ndarray) -> None:
        rows = np.arange(self._seen, self._seen + len(alpha))
        self._seen += len(alpha)
        kept = rows % self.stride == 0
        if not kept.any():
            return
        values, ends = self._packed(alpha[kept])
        need = self.n + len(values)
        if need > len(self._values):
            self._values = self._grown(self._values, need, values.dtype)
            self._scalars = self._grown(self._scalars, need, np.dtype(np.float64))
        self._values[self.n : need] = values
        self._scalars[self.n : need] = np.column_stack([scalars[kept], ends])
        self.n = need
        self._fit()

    def _grown(self, held: np.ndarray, need: int, dtype: np.dtype) -> np.ndarray:
        made = np.empty((max(need, min(2 * len(held), need + 256)), held.shape[1]), dtype)
        made[: self.n] = held[: self.n]
        return made

    def _packed(self, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.wide:
            return alpha, np.zeros((len(alpha), 2))
        codes, low, scale = encode(alpha)
        return codes, np.column_stack([low, scale])

    def _fit(self) -> None:
        """Keep within the limits."""
        size = self.size
        if self.wide and size > MOST_WIDE and self._can_pack():
            packed = [self._pack_rows(at) for at in range(0, self.n, _CHUNK)]
            self._values = np.concatenate(packed)
            self.wide = False
            self._new_era()
        elif size > (MOST_WIDE if self.wide else MOST):
            self.halve()

    def _can_pack(self) -> bool:
        """Whether codes are fine enough; searches whose alpha lies further apart are only thinned."""
        if self.n_gates > _CODES // 2:
            return False
        rows = self._values[: self.n]
        return (
            float((rows.max(axis=1) - rows.min(axis=1)).max()) / (_CODES - 1 - self.n_gates) <= _LEVEL / 2 * self._tau
        )

    def _pack_rows(self, at: int) -> np.ndarray:
        rows = slice(at, min(at + _CHUNK, self.n))
        codes, low, scale = encode(self._values[rows])
        self._scalars[rows, -2:] = np.column_stack([low, scale])
        return codes
