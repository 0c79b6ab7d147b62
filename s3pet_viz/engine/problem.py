"""What a search needs to know of the thing it searches: weights, batches and a loss under gates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from torch import Tensor

Half = Literal["train", "val"]


class Problem(Protocol):
    """A bi-level problem: PET weights below, gates above.

    ``weights`` are leaf tensors of one dtype on one device; ``lr_scale`` gives each its learning rate as a
    multiple of the search's (an encoder's head may move at another rate).
    """

    weights: Sequence[Tensor]
    lr_scale: Sequence[float]
    #: Of each weight, the gate that it belongs to; -1: a head's. Mode ``prune`` alone asks for it, and for
    #: `constant_loss`.
    gate_of: Sequence[int]
    #: Gates that are exactly 0 in the present pass and need not be computed.
    closed: frozenset[int]

    def constant_loss(self, half: Half) -> float | None:
        """Of one answer to every row of the train half, or of the val half's first `prune.BATCHES` batches; None
        where it is not known."""

    def differentiable_twice(self) -> AbstractContextManager[None]:
        """Inside, gradients of `loss` can be differentiated again."""

    def batch(self, half: Half, step: int) -> Any:
        """The batch of this half at this step: a pure function of both, so that a search can resume."""

    def size(self, batch: Any) -> int:
        """What the batch's loss is a mean over: rows, or label tokens."""

    def parts(self, batch: Any, n: int) -> Iterable[tuple[float, Any]]:
        """A batch cut into at most n parts, each with its share of the whole batch's loss (shares add up to 1)."""

    def loss(self, batch: Any, z: Tensor, weights: Sequence[Tensor] | None = None) -> Tensor:
        """Scalar loss at gates z, shape (n_gates,); `weights` stand in for the problem's own."""
