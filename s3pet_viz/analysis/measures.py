"""Numbers that say what a search found and how far two searches agree."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from s3pet_viz.errors import StructureError
from s3pet_viz.structure import Gate, Structure

Key = tuple[str, str]


def entropy(p: ArrayLike) -> NDArray[np.float64]:
    """Entropy of each gate in bits, ``-p log2 p - (1 - p) log2(1 - p)``; shape of `p`.

    0 where a gate is surely open or closed, 1 where it is open half the time. NaN stays NaN.
    """
    q = np.asarray(p, dtype=np.float64)
    return np.asarray((entr(q) + entr(1 - q)) / np.log(2))


def jaccard(a: Structure | Iterable[Key], b: Structure | Iterable[Key]) -> float:
    """Gates in both over gates in either; two empty structures overlap by 1.

    Args:
        a, b: structures, or collections of gate keys (position, PET type). Of units, structures compare how many a
            position has (see `Structure.overlap`).
    """
    if isinstance(a, Structure) and isinstance(b, Structure):
        return a.overlap(b)
    left, right = (frozenset(s.rank_keys if isinstance(s, Structure) else s) for s in (a, b))
    union = len(left | right)
    return len(left & right) / union if union else 1.0


def spearman(p: ArrayLike, q: ArrayLike) -> float:
    """Rank correlation of two vectors, shape (n,); ties share their mean rank. NaN below two values, without spread,
    or where a value is not known. Raises ValueError: two lengths.
    """
    both = pd.DataFrame({"p": np.asarray(p, dtype=np.float64), "q": np.asarray(q, dtype=np.float64)})
    if not np.isfinite(both.to_numpy()).all():
        return float("nan")
    return float(both.corr("spearman").to_numpy()[0, 1])


class Chance(NamedTuple):
    """Overlap that random structures have: its mean, and the band that holds 95 % of the draws."""

    mean: float
    low: float
    high: float


def random_structures(counts: ArrayLike, budget: float, *, draws: int, seed: int) -> NDArray[np.bool_]:
    """Random structures of a budget: gates in a random order, each taken where it still fits.

    The same greedy rule as the selection's, with a random order in place of alpha's.

    Args:
        counts: shape (n_gates,), parameters of each gate.
        budget: in parameters.

    Returns:
        Shape (draws, n_gates), True where chosen.
    """
    n = np.asarray(counts, dtype=np.int64)
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.broadcast_to(np.arange(len(n)), (draws, len(n))), axis=1)
    left = np.full(draws, budget, dtype=np.float64)
    chosen = np.zeros((draws, len(n)), dtype=bool)
    rows = np.arange(draws)
    for place in order.T:
        fits = n[place] <= left
        chosen[rows, place] = fits
        left -= np.where(fits, n[place], 0)
    return chosen


def chance_overlap(a: NDArray[np.bool_], b: NDArray[np.bool_], weights: ArrayLike | None = None) -> Chance:
    """Jaccard of random structures, draw by draw.

    Args:
        a, b: shape (draws, n_gates), from `random_structures` with two seeds, over the same gates.
        weights: shape (n_gates,); None counts gates.
    """
    w = np.ones(a.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
    union = (a | b) @ w
    overlap = np.where(union > 0, ((a & b) @ w) / np.where(union > 0, union, 1), 1.0)
    low, high = np.quantile(overlap, [0.025, 0.975])
    return Chance(float(overlap.mean()), float(low), float(high))


def need_sizes(gates: Iterable[Gate], what: str) -> None:
    """Refuse gates whose size is not known. Raises StructureError: names the first such gate and how sizes become
    known.
    """
    for gate in gates:
        if gate.n_params < 1:
            raise StructureError(
                f"{what}: the size of gate {gate.position} {gate.pet_type} is not known; "
                "read the published file with its backbone: from_s3delta(path, backbone='t5-large')"
            )
