"""What opening a gate would give, to first order: from what a search recorded of its gradients, or from one pass."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from s3pet_viz.analysis.one_pass import OnePassScores
from s3pet_viz.errors import ConfigError, RunError, short
from s3pet_viz.runs import Run, layout

#: AdamW's decay of its first moment (`engine.optim.AdamW.beta1`).
_BETA = 0.9
#: p (1 - p) below this says nothing: the gradient through a gate that is all but open or shut is rounding and noise.
_SATURATED = 1e-3


class FirstOrder(NamedTuple):
    """Attributes:
    gain: the higher, the more the loss falls as the gate opens; shape (n_gates,), NaN where not known. Gains of one
        search can be compared with each other, and their differences are what a swap costs.
    words: where the numbers come from, and their unit.
    """

    gain: NDArray[np.float64]
    words: str


def first_order(run: Run, scores: Any = None) -> FirstOrder:
    """What a run's own files say, or one-pass scores of its gates.

    - Mode ``prune`` records it: alpha is the logarithm of the mean abs(dL/dz).
    - Other modes keep the mean gradient g of the validation loss with respect to alpha in their checkpoint (AdamW's
      first moment, about the last 10 steps). dL/dp = g tau / (p (1 - p)) plus a constant that all gates share, for they
      compete (docs/method.md); the gain is minus that. It is at the search's own weights, and unknown where p is all
      but 0 or 1.

    Args:
        scores: `s3.score` of the same space; then these, matched by position and PET type, of whatever method.

    Returns:
        NaN throughout, and what to do about it, where the run has neither: a recorded run keeps no checkpoint.

    Raises:
        ConfigError: `scores` are none, or have no gate of this run. RunError: the checkpoint is damaged.
    """
    n = len(run.gates_list)
    if scores is not None:
        if not isinstance(scores, OnePassScores):
            raise ConfigError(f"scores: expected what s3.score gives, found {short(scores)}")
        known = {gate.key: float(value) for gate, value in zip(scores.gates, scores.score, strict=True)}
        gain = np.array([known.get(gate.key, np.nan) for gate in run.gates_list])
        if np.isnan(gain).all():
            raise ConfigError(f"scores: expected scores of gates of {run.name}, found none of its {n:,} among them")
        return FirstOrder(gain, f"score {scores.kind} of one pass over {scores.rows:,} rows")
    if not run.n_steps:
        return FirstOrder(np.full(n, np.nan), "not known: no steps recorded yet")
    if run.config.get("mode") == "prune":
        return FirstOrder(np.exp(run.alpha().astype(np.float64)), "mean |dL/dz| of the search, nats")
    path = run.path / layout.CHECKPOINT / "state.safetensors"
    if not os.path.lexists(path):
        return FirstOrder(np.full(n, np.nan), "not known: the run keeps no checkpoint; pass scores=s3.score(...)")
    m, t = _moments(path, n)
    if not t or not m.any():
        return FirstOrder(np.full(n, np.nan), "not known: alpha has not moved")
    p = run.p().astype(np.float64)
    slope = p * (1 - p)
    with np.errstate(divide="ignore"):
        gain = -m / (1 - _BETA**t) * float(run.info["tau"]) / slope
    words = "-dL/dp of the search's last steps, nats, beside a constant that all gates share"
    return FirstOrder(np.where(slope > _SATURATED, gain, np.nan), words)


def _moments(path: Any, n_gates: int) -> tuple[NDArray[np.float64], int]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as f:
            m, t = np.asarray(f.get_tensor("alpha_opt.m"), dtype=np.float64), int(f.get_tensor("alpha_opt.t"))
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise RunError(f"{path}: the checkpoint is damaged ({error})") from None
    if m.shape != (n_gates,) or not np.isfinite(m).all() or t < 0:
        raise RunError(f"{path}: alpha_opt.m: expected {n_gates} finite numbers, found shape {m.shape}")
    return m, t
