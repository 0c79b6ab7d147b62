"""Do two sets of seeds differ at a gate? Moderated t on log-odds, for a handful of seeds and many gates.

What is tested is the log-odds of each gate less the median of its run: ``x = (alpha - median(alpha)) / tau``. The shift
zeta, which all gates of a run share, drops out; with it every gate of a run would move together, and one draw of it
would look like a finding at each of them.

Two or three seeds say little about the spread of one gate, so spreads are pooled as in limma (Smyth, Stat. Appl. Genet.
Mol. Biol. 2004): the variances of the gates are taken as draws of ``s0^2 d0 / chi^2(d0)`` with s0^2 a smooth function
of the gates' level (likely gates vary more), both found by the moments of log s^2, and each gate's is drawn towards
s0^2. A prior counts at most as much as the seeds do (``d + min(d0, d)`` degrees of freedom), for what is common to the
gates of a layer is one draw, and the moments take it for many.

Many gates are looked at: q is that of Benjamini and Hochberg, and the intervals are those that fit it (Benjamini and
Yekutieli, JASA 2005): at level 1 - R q / n where R gates remain of n, so that an interval leaves 0 out exactly where
its gate remains.

Of 1,000 simulated pairs of sets of seeds from one setting, with the levels and spreads of recorded searches, some 3 %
show any gate; where half of the noise is common to a layer, too (tests/analysis/test_contrast.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import digamma, polygamma, stdtrit
from scipy.stats import false_discovery_control, rankdata, t

from s3pet_viz.errors import ConfigError

Floats = NDArray[np.float64]

#: Variances below so much of the median are taken as that: their logarithm would rule the fit (as limma does).
_LEAST = 1e-5
#: Gates from which the level's curve has so many terms, as limma's splines have.
_TERMS = (0, 3, 6, 30)


class Contrast(NamedTuple):
    """b less a, gate by gate; each array of shape (n_gates,).

    Attributes:
        difference: of the mean log-odds.
        low, high: its interval, of the level that leaves 0 out exactly where the gate remains; NaN where a side has one
            seed, or all seeds are alike.
        p, q: of the moderated t, and of Benjamini and Hochberg; NaN likewise.
        remains: whether q is at most `rate`.
        freedom: degrees of freedom of t; NaN likewise.
    """

    difference: Floats
    low: Floats
    high: Floats
    p: Floats
    q: Floats
    remains: NDArray[np.bool_]
    freedom: float


def contrast(a: ArrayLike, b: ArrayLike, *, tau: float = 1.0, rate: float = 0.05) -> Contrast:
    """See the first lines of this file.

    Args:
        a, b: alpha of the same gates in two sets of seeds, shapes (n_seeds_a, n_gates) and (n_seeds_b, n_gates).
        tau: temperature of the gates.
        rate: expected share of false ones among the gates that remain.

    Raises:
        ConfigError: another shape, a value that is not finite, or a wrong rate.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (a, b)]
    if any(x.ndim != 2 or not x.size for x in sides) or sides[0].shape[1] != sides[1].shape[1]:
        raise ConfigError(
            f"contrast: expected two of shape (seeds, gates), found {sides[0].shape} and {sides[1].shape}"
        )
    if not all(np.isfinite(x).all() for x in sides):
        raise ConfigError("contrast: expected finite alpha, found NaN or infinity")
    if not 0 < rate < 1:
        raise ConfigError(f"rate: expected a share between 0 and 1, found {rate!r}")
    sides = [(x - np.median(x, axis=1, keepdims=True)) / tau for x in sides]
    sizes, n_gates = [len(x) for x in sides], sides[0].shape[1]
    difference = sides[1].mean(axis=0) - sides[0].mean(axis=0)
    unknown = np.full(n_gates, np.nan)
    spread = [((x - x.mean(axis=0)) ** 2).sum(axis=0) for x in sides]
    d = sum(sizes) - 2
    if min(sizes) < 2 or not (spread[0] + spread[1] > 0).any():
        nothing = np.zeros(n_gates, dtype=bool)
        return Contrast(difference, unknown, unknown, unknown, unknown, nothing, math.nan)
    level = np.concatenate(sides).mean(axis=0)
    variance, freedom = _moderated((spread[0] + spread[1]) / d, d, level)
    error = np.sqrt(variance * (1 / sizes[0] + 1 / sizes[1]))
    p = np.asarray(2 * t.sf(np.abs(difference) / error, freedom), dtype=np.float64)
    q, remains, level_of_each = corrected(p, rate)
    reach = float(stdtrit(freedom, (1 + level_of_each) / 2)) * error
    return Contrast(difference, difference - reach, difference + reach, p, q, remains, freedom)


def corrected(p: ArrayLike, rate: float = 0.05) -> tuple[Floats, NDArray[np.bool_], float]:
    """q of Benjamini and Hochberg, which are at most `rate`, and the level of the intervals that leave 0 out exactly
    there (Benjamini and Yekutieli, JASA 2005): 1 - R rate / n, of R that remain (or 1) among n.

    Args:
        p: shape (n,); NaN where nothing was tested, which counts for nothing and has NaN for q.
    """
    values = np.asarray(p, dtype=np.float64)
    q, tested = np.full(values.shape, np.nan), np.isfinite(values)
    if not tested.any():
        return q, np.zeros(values.shape, dtype=bool), 1 - rate
    q[tested] = false_discovery_control(values[tested])
    remains = tested & (q <= rate)
    return q, remains, 1 - max(1, int(remains.sum())) * rate / int(tested.sum())


def _moderated(variance: Floats, d: int, level: Floats) -> tuple[Floats, float]:
    """Variances drawn towards the curve of their level, and the degrees of freedom that they count for.

    Args:
        variance: shape (n_gates,), of `d` degrees of freedom each; at least one above 0. level: shape (n_gates,).
    """
    # Gates that never moved say nothing of how others spread.
    moved = variance > 0
    n, seen = int(moved.sum()), variance[moved]
    e = np.log(np.maximum(seen, _LEAST * np.median(seen))) - digamma(d / 2) + np.log(d / 2)
    terms = sum(n >= least for least in _TERMS)
    # Ranks, for most gates lie close together at the lowest level.
    curve = np.polynomial.legendre.legvander(2 * rankdata(level) / (len(level) + 1) - 1, terms - 1)
    fit = curve @ np.linalg.lstsq(curve[moved], e, rcond=None)[0]
    # Of log s^2, what chi^2 with d degrees of freedom does not explain.
    more = ((e - fit[moved]) ** 2).sum() / max(1, n - terms) - polygamma(1, d / 2)
    if more <= 0:
        return np.exp(fit), 2 * d
    prior = 2 * brentq(lambda half: polygamma(1, half) - more, 1e-6, 1e12)
    expected = np.exp(fit + digamma(prior / 2) - np.log(prior / 2))
    return (prior * expected + d * variance) / (prior + d), d + min(prior, d)
