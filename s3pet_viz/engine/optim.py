"""Flat weights and the optimisers of the search.

torch's own AdamW cannot say what its next step would be, nor the derivative of that step, and the search
needs both. `AdamW` here is torch's arithmetic on one flat buffer (tested equal).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

#: Below this share of its tensor's largest root second moment, a weight has no gradient history to speak of.
NO_HISTORY = 1e-3


class FlatWeights:
    """Parameters that live as views of one flat buffer: saving, restoring and shifting are one operation."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = list(parameters)
        kinds = {(p.dtype, p.device) for p in self.parameters}
        if len(kinds) > 1:
            raise TypeError(f"expected trainable weights of one dtype on one device, found {sorted(map(str, kinds))}")
        self.sizes = [p.numel() for p in self.parameters]
        with torch.no_grad():
            self.flat = (
                torch.cat([p.detach().reshape(-1) for p in self.parameters]) if self.parameters else torch.zeros(0)
            )
            for p, view in zip(self.parameters, self.split(self.flat), strict=True):
                p.data = view
        for p in self.parameters:
            p.requires_grad_()

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat tensor, one per parameter, in its shape."""
        return [v.view(p.shape) for v, p in zip(flat.split(self.sizes), self.parameters, strict=True)]

    def join(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """One flat tensor; None (a weight that the loss does not reach) counts as zero."""
        if not tensors:
            return self.flat.new_zeros(0)
        parts = [
            torch.zeros_like(p).reshape(-1) if t is None else t.detach().reshape(-1)
            for t, p in zip(tensors, self.parameters, strict=True)
        ]
        return torch.cat(parts)

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Inside, no gradient of the weights is prepared or kept."""
        for p in self.parameters:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in self.parameters:
                p.requires_grad_(True)

    def set(self, flat: Tensor) -> None:
        """Give the parameters new values."""
        self.flat.copy_(flat)


def clip_(grad: Tensor, max_norm: float) -> float:
    """Scale a flat gradient in place to an L2 norm of at most `max_norm`; return the factor."""
    norm = float(torch.linalg.vector_norm(grad))
    factor = min(1.0, max_norm / (norm + 1e-6)) if max_norm > 0 else 1.0
    if factor < 1:
        grad.mul_(factor)
    return factor


class AdamW:
    """torch.optim.AdamW (betas 0.9 / 0.999, eps 1e-8, no weight decay) on one flat tensor."""

    beta1, beta2, eps = 0.9, 0.999, 1e-8

    def __init__(self, like: Tensor, sizes: Sequence[int] | None = None) -> None:
        self.m = torch.zeros_like(like)
        self.v = torch.zeros_like(like)
        self.t = 0
        self.sizes = list(sizes) if sizes is not None else [like.numel()]

    def _next(self, g: Tensor) -> tuple[Tensor, Tensor]:
        return (self.m + (1 - self.beta1) * (g - self.m), self.beta2 * self.v + (1 - self.beta2) * g * g)

    def _step(self, w: Tensor, m: Tensor, v: Tensor, t: int, lr: Tensor | float) -> Tensor:
        denominator = v.sqrt() / math.sqrt(1 - self.beta2**t) + self.eps
        return w - lr * (m / (1 - self.beta1**t)) / denominator

    def peek(self, w: Tensor, g: Tensor, lr: Tensor | float) -> Tensor:
        """w after the step that `update` would take; the moments stay."""
        return self._step(w, *self._next(g), self.t + 1, lr)

    def update(self, w: Tensor, g: Tensor, lr: Tensor | float) -> Tensor:
        """Advance the moments and return w after the step."""
        self.m, self.v = self._next(g)
        self.t += 1
        return self._step(w, self.m, self.v, self.t, lr)

    def slope(self) -> Tensor:
        """-dw'/dg / lr of the last `update`, element by element, second moments held constant.

        ``D = (1 - beta1) / ((1 - beta1^t) (sqrt(v_hat) + eps))``. A weight without gradient history (LoRA's A
        while B is zero) would get 1 / eps and drown the rest: D = 0 where sqrt(v_hat) is negligible against the
        largest of its tensor.
        """
        root = self.v.sqrt() / math.sqrt(1 - self.beta2**self.t)
        d = (1 - self.beta1) / ((1 - self.beta1**self.t) * (root + self.eps))
        floor = torch.cat([(NO_HISTORY * r.max()).expand(r.numel()) for r in root.split(self.sizes) if r.numel()])
        return torch.where(root > floor, d, torch.zeros_like(d))

    def state(self) -> dict[str, Tensor]:
        return {"m": self.m, "v": self.v, "t": torch.tensor(self.t)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.m, self.v, self.t = state["m"].to(self.m), state["v"].to(self.v), int(state["t"])
