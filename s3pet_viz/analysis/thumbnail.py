"""A heatmap as a small PNG: what a list of many runs shows of each."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from s3pet_viz.analysis.grid import Grid

#: Colours of p from 0 to 1, of a chosen cell, and of a place without a gate.
_PALE, _DEEP, _CHOSEN, _NONE = (230, 238, 247), (8, 48, 107), (242, 107, 29), (255, 255, 255)


def thumbnail(grid: Grid, p: NDArray[np.float64], chosen: NDArray[np.bool_]) -> bytes:
    """A pixel a cell: chosen ones orange, others paler the less likely they are. p, chosen: shape (n_gates,)."""
    level = np.clip(np.nan_to_num(grid.spread(p)), 0, 1)[..., None]
    pixels = np.array(_PALE) + level * (np.array(_DEEP) - np.array(_PALE))
    pixels[~grid.spread(True, False, bool)] = _NONE
    pixels[grid.row[chosen], grid.col[chosen]] = _CHOSEN
    return _png(pixels.round().astype(np.uint8))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """RGB, shape (rows, columns, 3), as a PNG: three chunks, each with its length and checksum."""
    height, width, _ = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    parts = [
        (b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    chunks = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
