"""The gates as the search sees them: probabilities, relaxed samples, and their gradients.

Everything here is float64 on the CPU, whatever the backbone's device and precision: there are a few
hundred numbers, and the budget is exact only in double precision. Source: arXiv 2206.07382, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s3pet_viz.structure.budget import solve_shift

#: p is kept this far below 1 before its logit is taken.
P_CEILING = 1 - 1e-7


def gate_probabilities(alpha: Tensor, zeta: float, tau: float = 1.0, *, competition: bool = True) -> Tensor:
    """``lambda = sigmoid((alpha - zeta) / tau)``, with the gradient that makes gates compete.

    Args:
        alpha: structure parameters, shape (n_gates,).
        competition: return ``lambda / sum(lambda) * stop_gradient(sum(lambda))``: the same value, but raising
            one gate lowers the others.

    Returns:
        p, shape (n_gates,).
    """
    lam = torch.sigmoid((alpha - zeta) / tau)
    if not competition:
        return lam
    total = lam.sum()
    return lam / total * total.detach()


def binary_concrete(p: Tensor, u: Tensor) -> Tensor:
    """``z = sigmoid(logit(u) + logit(p))``: a relaxed Bernoulli(p) at temperature 1.

    Args:
        p: probabilities, shape (n_gates,).
        u: uniform draws in (0, 1), shape (n_gates,).

    Returns:
        z, shape (n_gates,).
    """
    # Underflow only: p reaches 1e-22 in ordinary searches.
    p = p.clamp(min=torch.finfo(p.dtype).tiny, max=P_CEILING)
    return torch.sigmoid(torch.logit(u) + torch.logit(p))


@dataclass(frozen=True)
class GateModel:
    """The fixed side of the gates: their sizes, the budget and the ablation switches.

    Attributes:
        counts: parameters of each gate, length n_gates.
        budget: in parameters.
        tau: temperature of the sigmoid.
        competition: see `gate_probabilities`.
        skip_below: gates whose p is below this are exactly 0 in a sample, without a gradient of their own.
    """

    counts: Sequence[int]
    budget: float
    tau: float = 1.0
    competition: bool = True
    skip_below: float = 0.0

    def solve(self, alpha: Tensor) -> float:
        """The shift zeta at which the expected size is the budget."""
        return solve_shift(alpha.detach().numpy(), self.counts, self.budget, self.tau)

    def probabilities(self, alpha: Tensor) -> Tensor:  # (n_gates,) -> (n_gates,)
        """p at this alpha."""
        return torch.sigmoid((alpha - self.solve(alpha)) / self.tau)

    def sample(self, alpha: Tensor, u: Tensor) -> GateSample:
        """Solve the shift and draw gates at these uniforms."""
        zeta = self.solve(alpha)
        leaf = alpha.detach().requires_grad_()
        p = gate_probabilities(leaf, zeta, self.tau, competition=self.competition)
        z = binary_concrete(p, u)
        if self.skip_below:
            z = torch.where(p < self.skip_below, torch.zeros_like(z), z)
        return GateSample(leaf, zeta, p, z)


@dataclass(frozen=True)
class GateSample:
    """One draw of the gates: shift, p and z (shape (n_gates,), float64, differentiable in alpha)."""

    alpha: Tensor
    zeta: float
    p: Tensor
    z: Tensor

    def pull_back(self, dz: Tensor) -> Tensor:  # (n_gates,) -> (n_gates,)
        """dL/dalpha from dL/dz."""
        (grad,) = torch.autograd.grad(self.z, self.alpha, dz.to(self.z), retain_graph=True)
        return grad
