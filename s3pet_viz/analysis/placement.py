"""How published scores of linear layers become ranks, or an order of gates, under an exact budget. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s3pet_viz.errors import BudgetError, ConfigError


class Ranks(NamedTuple):
    """What `gora_ranks` gives each layer.

    Attributes:
        ranks: int64, shape (n_layers,).
        formula: the ranks that the formula alone gives at `r0`, at most `ranks`; int64, shape (n_layers,).
        r0: the largest reference rank whose ranks fit the budget; inf where every layer with a score is at its bound.
    """

    ranks: NDArray[np.int64]
    formula: NDArray[np.int64]
    r0: float


def gora_ranks(
    scores: ArrayLike,
    n_in: ArrayLike,
    n_out: ArrayLike,
    budget: int,
    *,
    least: ArrayLike = 0,
    most: ArrayLike | None = None,
) -> Ranks:
    """Ranks of GoRA (arXiv 2502.12171, as in its authors' code) under an exact budget.

    ``rank_i = floor(round(share_i * sum_j r0 * sqrt(in_j + out_j)) / sqrt(in_i + out_i))`` within the bounds, with
    ``share_i = score_i / sum``. A LoRA of rank r has ``r * (in + out)`` parameters. Theirs has no budget: here r0 is
    the largest number whose ranks fit, and what is left goes, a rank at a time and where it still fits, to the layers
    of the largest fractional part ``share_i * sum / sqrt(in_i + out_i) - rank_i``, round by round until no layer fits.

    Args:
        scores: shape (n_layers,), at least 0. n_in, n_out: widths of the layers, shape (n_layers,).
        budget: in parameters.
        least, most: bounds of a rank, or of each layer's, shape (n_layers,); `most` None: no bound.

    Raises:
        ConfigError: a score is negative or not finite, or all are 0. BudgetError: `least` alone exceeds the budget.
    """
    s = np.asarray(scores, dtype=np.float64)
    size = np.asarray(n_in, dtype=np.float64) + np.asarray(n_out, dtype=np.float64)
    if s.ndim != 1 or s.shape != size.shape or not (np.isfinite(s).all() and (s >= 0).all() and s.any()):
        raise ConfigError("scores: expected one of at least 0 for each layer, and one above 0")
    top = np.broadcast_to(np.asarray(np.inf if most is None else most, dtype=np.float64), s.shape)
    bottom = np.broadcast_to(np.asarray(least, dtype=np.float64), s.shape)
    if (needed := bottom @ size) > budget:
        raise BudgetError(f"budget: {budget:,} parameters is below the least ranks of all layers ({needed:,.0f})")
    largest = s / s.max()  # sums of these neither overflow nor vanish
    share, root = largest / largest.sum(), np.sqrt(size)

    def ranks_at(r0: float) -> NDArray[np.float64]:
        return np.clip(np.floor(np.round(share * (r0 * root.sum())) / root), bottom, np.maximum(top, bottom))

    def fits(ranks: NDArray[np.float64]) -> bool:
        return bool(ranks @ size <= budget)

    full = np.where(share > 0, np.maximum(top, bottom), bottom)
    if np.isfinite(full).all() and fits(full):
        r0, ranks, part = np.inf, full, share
    else:
        low, high = 0.0, 1.0
        while fits(ranks_at(high)):
            low, high = high, 2 * high
        while low < (middle := (low + high) / 2) < high:  # until no number lies between
            low, high = (middle, high) if fits(ranks_at(middle)) else (low, middle)
        r0, ranks = low, ranks_at(low)
        part = share * (r0 * root.sum()) / root - ranks
    formula, left, order = ranks.astype(np.int64), budget - ranks @ size, np.argsort(-part, kind="stable")
    ranks = ranks.copy()
    while able := [i for i in order if ranks[i] < top[i] and size[i] <= left]:
        for i in able:
            if size[i] <= left:
                ranks[i] += 1
                left -= size[i]
    return Ranks(ranks.astype(np.int64), formula, float(r0))


def plop_order(nfn: ArrayLike, types: Sequence[str]) -> NDArray[np.float64]:
    """alpha of PLoP (arXiv 2506.20629): whole types in the order of their NFN, lowest first, inside a type by each own.

    The mean of the NFN over the layers of a type is the type's, as in the paper; the order inside a type is ours, for
    budgets that end within one. ``alpha = -log(type's NFN) - c * log(own / type's)``, with the largest c up to 1 that
    keeps the types apart, so that `structure.select` takes gates by that order.

    Args:
        nfn: feature norm over that of Gaussian inputs, shape (n_gates,), above 0. types: of the gates.

    Returns:
        float64, shape (n_gates,); higher is taken first.
    """
    own = np.asarray(nfn, dtype=np.float64)
    _, place = np.unique(np.asarray(types), return_inverse=True)
    mean = np.bincount(place, own) / np.bincount(place)
    level = -np.log(mean)
    inside = -np.log(own) - level[place]
    gap = np.diff(np.unique(level)).min(initial=np.inf)
    furthest = np.abs(inside).max(initial=0.0)
    c = min(1.0, 0.49 * gap / furthest) if furthest > 0 else 1.0
    return np.asarray(level[place] + c * inside)
