"""The budget equation: a shifted global sigmoid whose expected size is exactly the budget.

Source: Hu et al., arXiv 2206.07382, section 3.3; see also docs/method.md of this project.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from s3pet_viz.errors import BudgetError

#: The search aims just below the budget so that a rounding error cannot exceed it.
SLACK = 1e-7

#: Of the total; below it, sums of the gates' probabilities are not exact any more.
_LEAST_SHARE = 1e-300

#: More parameters than any backbone has.
_MOST = 2**53

_FORMS = "a percentage of the backbone ('0.0139%'), a fraction ('1.39e-4') or a whole number of parameters ('8404')"


@dataclass(frozen=True)
class Budget:
    """A budget as the user writes it: a fraction of the backbone, or a number of parameters.

    Attributes:
        given: what the user wrote. fraction: None where it is a number of `params`.
    """

    given: Any = field(compare=False)
    fraction: float | None
    params: int

    @classmethod
    def parse(cls, budget: str | int | float | Budget) -> Budget:
        """See `parse_budget`.

        Raises:
            BudgetError: not one of the forms, zero, negative, not finite, or over 100 % of any backbone.
        """
        if isinstance(budget, Budget):
            return budget
        if isinstance(budget, bool):
            raise BudgetError(f"budget: expected {_FORMS}, found {budget!r}")
        fraction, params = None, 0
        number = isinstance(budget, (int, float, np.integer, np.floating))
        text = "" if number else str(budget).strip().replace(" ", "")
        try:
            if isinstance(budget, (int, np.integer)) or re.fullmatch(r"[+-]?[0-9]+(_[0-9]{3})*", text):
                params = int(text or budget)
            elif text.endswith("%"):
                fraction = float(text[:-1]) / 100
            else:
                fraction = float(budget if number else text)
        except ValueError:
            raise BudgetError(f"budget: expected {_FORMS}, found {budget!r}") from None
        if params > _MOST:  # its digits may be too many to be written
            raise BudgetError(
                "budget: expected at most 2^53 parameters, "
                f"found a number of {params.bit_length():,} bits, which is over 100 % of any backbone"
            )
        if not (params > 0 if fraction is None else math.isfinite(fraction) and fraction > 0):
            raise BudgetError(f"budget: expected something above zero: {_FORMS}, found {budget!r}")
        if fraction is not None and fraction > 1:
            raise BudgetError(
                f"budget: {budget!r} is {fraction:.6g} of the backbone, over 100 %; "
                "write a whole number ('8404') if you mean parameters"
            )
        return cls(budget, fraction, params)

    def parameters(self, backbone_params: int | None) -> int:
        """In parameters, rounded down; of a backbone of unknown size (None), only a number of parameters is one.

        Raises:
            BudgetError: less than one parameter, or over 100 % of the backbone.
        """
        params = self.params
        if backbone_params is None:
            if self.fraction is not None:
                raise BudgetError(
                    f"budget: expected a whole number of parameters ('8404'), found {self.given!r}: "
                    "the size of the backbone is not known"
                )
            return params
        if self.fraction is not None:
            # Decimal text such as 0.07 % is not exact in binary: 700 must not become 699.
            params = min(math.floor(self.fraction * backbone_params * (1 + 1e-12)), backbone_params)
        if params == 0:
            raise BudgetError(
                f"budget: {self.given!r} of {backbone_params:,} backbone parameters is less than one parameter"
            )
        if params > backbone_params:
            raise BudgetError(
                f"budget: {params:,} parameters is over 100 % of the backbone ({backbone_params:,} parameters)"
            )
        return params

    def __str__(self) -> str:
        return str(self.given)


def parse_budget(budget: str | int | float | Budget, backbone_params: int | None) -> int:
    """Turn a budget as the user writes it into a whole number of parameters.

    Args:
        budget: ``"0.0139%"``, ``"1.39e-4"`` (a fraction; anything with a point or an exponent),
            ``"8404"`` (parameters). Python ints are parameters, floats are fractions.
        backbone_params: parameters of the whole backbone, which fractions refer to; None where it is not known.

    Returns:
        The budget in parameters, rounded down.

    Raises:
        BudgetError: not one of these forms, zero, negative, not finite, or over 100 %; or a fraction of what is not
            known.
    """
    return Budget.parse(budget).parameters(backbone_params)


def check_budget(counts: ArrayLike, budget: float) -> bool:
    """Check a budget against a search space before work starts.

    Args:
        counts: shape (n_gates,), parameters of each gate.
        budget: in parameters.

    Returns:
        True where the budget binds; False where it holds the whole space (a warning says so).

    Raises:
        BudgetError: not positive, or below the smallest module.
    """
    n = _check_counts(counts)
    if not (math.isfinite(budget) and budget > 0):
        raise BudgetError(f"budget: expected a positive number of parameters, found {budget!r}")
    if budget < n.min():
        raise BudgetError(
            f"budget: {budget:,.6g} parameters is below the smallest module of the search space, "
            f"which has {int(n.min()):,} parameters; nothing could be selected"
        )
    if budget > n.sum():
        warnings.warn(
            f"budget: {budget:,.6g} parameters holds the whole search space ({int(n.sum()):,} parameters): "
            "every gate is open and there is nothing to search for",
            stacklevel=2,
        )
        return False
    return True


def budget_at(step: int, budget: float, total: float, open_steps: int = 0, shrink_steps: int = 0) -> float:
    """The budget that a search holds at a step when it starts with every gate open.

    Args:
        step: from 0.
        budget, total: in parameters: where it ends, and the whole search space.
        open_steps: steps at `total`.
        shrink_steps: steps after them in which it falls geometrically.

    Returns:
        In parameters; `budget` throughout where it is `total` or more, or where both numbers of steps are 0.
    """
    left = open_steps + shrink_steps - step
    if left <= 0 or budget >= total:
        return budget
    if step < open_steps:
        return total
    return min(budget * (total / budget) ** (left / shrink_steps), total)  # rounding may lie above


def solve_shift(alpha: ArrayLike, counts: ArrayLike, budget: float, tau: float = 1.0) -> float:
    """Solve ``sum_i sigmoid((alpha_i - zeta) / tau) * n_i = budget * (1 - 1e-7)`` for the shift zeta.

    The sum falls strictly with zeta, so a bracket is known in closed form: with t = target / total,
    every term is at least t at ``min(alpha) - tau * logit(t)`` and at most t at
    ``max(alpha) - tau * logit(t)``.

    Args:
        alpha: shape (n_gates,), structure parameters.
        counts: shape (n_gates,), parameters of each gate.
        budget: in parameters.
        tau: temperature.

    Returns:
        zeta; ``-inf`` where the budget exceeds the total (no root: every gate is open).

    Raises:
        BudgetError: alpha is not finite, shapes differ, or budget or tau is not positive (or all but 0).
    """
    a, n = _check_gates(alpha, counts)
    if not (math.isfinite(tau) and tau > 0):
        raise BudgetError(f"tau: expected a positive temperature, found {tau!r}")
    if not (math.isfinite(budget) and budget > 0):
        raise BudgetError(f"budget: expected a positive number of parameters, found {budget!r}")
    total = n.sum()
    if budget > total:
        return -math.inf
    share = budget / total * (1 - SLACK)
    if share < _LEAST_SHARE:
        raise BudgetError(f"budget: expected at least {_LEAST_SHARE:g} of {total:,.0f} parameters, found {budget!r}")

    from scipy.optimize import brentq  # a fifth of the import of what only shows runs

    # Scaled by the total, so that xtol is the only tolerance that matters at any size.
    weight = n / total
    with np.errstate(over="ignore"):
        scaled = a / tau
    if not np.abs(scaled).max() <= 1e300:  # sums of a few such still hold
        raise BudgetError(f"tau: expected a temperature that alpha can be divided by, found {tau!r}")

    def excess(shift: float) -> float:
        return float(expit(scaled - shift) @ weight) - share

    centre = float(logit(share))
    low, high = scaled.min() - centre, scaled.max() - centre
    pad = 1e-9 * (1 + abs(low) + abs(high))
    root = brentq(excess, low - pad, high + pad, xtol=1e-13, rtol=4 * np.finfo(float).eps, maxiter=5000)
    return float(root) * tau


def probabilities(alpha: ArrayLike, zeta: float, tau: float = 1.0) -> NDArray[np.float64]:
    """Gate probabilities ``p_i = sigmoid((alpha_i - zeta) / tau)``, shape (n_gates,)."""
    a = np.asarray(alpha, dtype=np.float64)
    return expit((a - zeta) / tau)


class Selection(NamedTuple):
    """What a budget chooses among gates.

    Attributes:
        chosen: indices of the chosen gates, ascending, shape (n_selected,).
        fill: those of them that only fill what is left of the budget: they come, in the order of alpha, after the first
            gate that did not fit; ascending, shape (n_fill,).
        cut: alpha of that first gate that did not fit; NaN where every gate fits.
    """

    chosen: NDArray[np.int64]
    fill: NDArray[np.int64]
    cut: float


def select(alpha: ArrayLike, counts: ArrayLike, budget: float) -> NDArray[np.int64]:
    """Choose gates greedily by alpha: take each that still fits the budget, skip those that do not.

    alpha has the order of p and does not saturate. Ties: lower index first.

    Returns:
        Indices of the chosen gates, ascending, shape (n_selected,); their sizes never sum to more than
        the budget.

    Raises:
        BudgetError: alpha is not finite (it has no order), or shapes differ.
    """
    return select_with_fill(alpha, counts, budget).chosen


def select_with_fill(alpha: ArrayLike, counts: ArrayLike, budget: float) -> Selection:
    """`select`, and which of the chosen gates are there only because a likelier one did not fit.

    Raises:
        BudgetError: as `select`.
    """
    a, n = _check_gates(alpha, counts)
    chosen: list[int] = []
    fill: list[int] = []
    cut = math.nan
    left = budget
    for i in np.argsort(-a, kind="stable"):
        if n[i] <= left:
            chosen.append(int(i))
            if not math.isnan(cut):
                fill.append(int(i))
            left -= n[i]
        elif math.isnan(cut):
            cut = float(a[i])
    return Selection(np.array(sorted(chosen), dtype=np.int64), np.array(sorted(fill), dtype=np.int64), cut)


def _check_counts(counts: ArrayLike) -> NDArray[np.float64]:
    n: NDArray[Any] = np.asarray(counts, dtype=np.float64)
    if n.ndim != 1 or n.size == 0:
        raise BudgetError(f"counts: expected one size per gate, found shape {n.shape}")
    if not (np.isfinite(n).all() and (n > 0).all()):
        raise BudgetError("counts: expected every gate to have at least one parameter")
    return n


def _check_gates(alpha: ArrayLike, counts: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a: NDArray[Any] = np.asarray(alpha, dtype=np.float64)
    n = _check_counts(counts)
    if a.shape != n.shape:
        raise BudgetError(f"alpha has shape {a.shape} but counts has shape {n.shape}")
    wrong = np.flatnonzero(~np.isfinite(a))
    if wrong.size:
        raise BudgetError(f"alpha: expected finite values, found {a[wrong[0]]} at gate {wrong[0]}")
    return a, n


def expected_params(p: ArrayLike, counts: ArrayLike) -> NDArray[np.float64]:
    """Parameters expected in use, ``sum_i p_i n_i``.

    Args:
        p: shape (..., n_gates).
        counts: shape (n_gates,), parameters of each gate.

    Returns:
        Shape (...,).
    """
    return np.asarray(np.asarray(p, dtype=np.float64) @ np.asarray(counts, dtype=np.float64))


def ranks(alpha: NDArray[Any]) -> NDArray[np.int64]:
    """Rank of each gate by alpha, 1 = highest; ties: lower index first. Shape (n_gates,)."""
    rank = np.empty(len(alpha), dtype=np.int64)
    rank[np.argsort(-np.asarray(alpha, dtype=np.float64), kind="stable")] = np.arange(1, len(alpha) + 1)
    return rank
