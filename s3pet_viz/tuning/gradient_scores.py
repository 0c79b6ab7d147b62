"""Scores of inserted PET modules from the gradients of their weights and gates; `one_pass_scores` defines them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s3pet_viz.pet import PETs
from s3pet_viz.tuning.explain import RowLosses, gate_gradients


def _gradient(pets: PETs, parts: Sequence[RowLosses]) -> NDArray[np.float64]:
    """||mean over rows of the gradient||^2 of each gate."""
    total, n_rows = torch.zeros((), dtype=torch.float64), 0
    for part in parts:
        gradient, rows = _summed_gradient(pets, part)
        total, n_rows = total + gradient, n_rows + rows
    return _by_gate((total / n_rows) ** 2, pets)


def _fisher(pets: PETs, parts: Sequence[RowLosses]) -> NDArray[np.float64]:
    """Mean over the parts' mean gradients (one row each: over rows) of ||gradient||^2, weighted by their rows."""
    total, n_rows = torch.zeros((), dtype=torch.float64), 0
    for part in parts:
        gradient, rows = _summed_gradient(pets, part)
        total, n_rows = total + rows * (gradient / rows) ** 2, n_rows + rows
    return _by_gate(total / n_rows, pets)


def _sensitivity(pets: PETs, parts: Sequence[RowLosses]) -> NDArray[np.float64]:
    """|mean over rows of dL/dz| of each gate at z = 1."""
    first = next(pets.parameters())
    open_gates = torch.ones(len(pets.gates), dtype=first.dtype, device=first.device)
    return gate_gradients(parts, open_gates).abs().numpy()


MEASURES: dict[str, Callable[[PETs, Sequence[RowLosses]], NDArray[np.float64]]] = {
    "gradient": _gradient,
    "fisher": _fisher,
    "sensitivity": _sensitivity,
    "domlora": _gradient,
}


def _summed_gradient(pets: PETs, part: RowLosses) -> tuple[Tensor, int]:
    """Gradient of the sum of the rows' losses, all PET weights in a line (gate order), and the number of rows."""
    first = next(pets.parameters())
    losses = part(torch.ones(len(pets.gates), dtype=first.dtype, device=first.device))
    # A weight that no row reaches has gradient zero.
    gradients = torch.autograd.grad(losses.sum(), list(pets.parameters()), materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients]).cpu().double(), len(losses)


def _by_gate(values: Tensor, pets: PETs) -> NDArray[np.float64]:
    """Sums over the weights of each gate, shape (n_gates,)."""
    return np.array([float(v.sum()) for v in values.split([g.n_params for g in pets.gates])])
