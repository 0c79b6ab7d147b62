"""The bi-level problem of a real backbone: PET weights (and a head) on a task's two halves, or on own batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from s3pet_viz.backbones.backbone import Loss, model_loss
from s3pet_viz.engine.problem import Half
from s3pet_viz.pet import PETs
from s3pet_viz.threads import LOCK
from s3pet_viz.training.batch_contents import rows_of
from s3pet_viz.training.batches import answered


class BackboneProblem:
    """`Problem` over a model with PET modules attached.

    Args:
        model: a frozen backbone.
        pets: PET modules attached to it.
        batch: the batch of a half at a step, on the model's device.
        head: trainable parameters outside the gates, by name in `model`.
        head_lr_ratio: the head's learning rate over that of the PET weights.
        autocast: a context factory for mixed precision.
        constant_loss: see `Problem`.
        pinned: so many of the last PET modules are open all along and have no gate in z.
        loss: of the model and a batch. Default: what a transformers model says itself of a batch with ``labels``.
    """

    def __init__(
        self,
        model: nn.Module,
        pets: PETs,
        batch: Callable[[Half, int], Any],
        *,
        head: Mapping[str, nn.Parameter] | None = None,
        head_lr_ratio: float = 1.0,
        autocast: Callable[[], Any] = contextlib.nullcontext,
        constant_loss: Callable[[Half], float | None] = lambda half: None,
        loss: Loss = model_loss,
        pinned: int = 0,
    ) -> None:
        self.net = _GatedLoss(model, pets, loss, pinned)
        self.batch = batch
        self._autocast = autocast
        head = head or {}
        names = {f"pets.{n}": p for n, p in pets.named_parameters()} | {f"model.{n}": p for n, p in head.items()}
        self.names = list(names)
        self.weights: Sequence[Tensor] = list(names.values())
        self.gate_of: Sequence[int] = [int(n.split(".")[1]) if n.startswith("pets.") else -1 for n in self.names]
        self.constant_loss = constant_loss
        self.lr_scale: Sequence[float] = [head_lr_ratio if n.startswith("model.") else 1.0 for n in self.names]

    @contextlib.contextmanager
    def differentiable_twice(self) -> Iterator[None]:
        pets = self.net.pets
        was, pets.fused = pets.fused, False
        try:
            # The only attention with second derivatives. It is the process's choice, so no other thread computes
            # meanwhile; of transformers models `attached` asks for the eager one instead.
            with contextlib.ExitStack() as stack:
                if self.net.own:
                    stack.enter_context(LOCK)
                    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
                yield
        finally:
            pets.fused = was

    @property
    def closed(self) -> frozenset[int]:
        return self.net.pets.closed

    @closed.setter
    def closed(self, gates: frozenset[int]) -> None:
        self.net.pets.closed = gates

    def size(self, batch: Any) -> int:
        return (rows_of(batch) or 1) if self.net.own else answered(batch["labels"])

    def parts(self, batch: Any, n: int) -> Iterable[tuple[float, Any]]:
        if n == 1 or (rows := len(batch["labels"])) == 1:
            return [(1.0, batch)]
        cut = [{k: v[at : at + -(-rows // n)] for k, v in batch.items()} for at in range(0, rows, -(-rows // n))]
        sizes = [self.size(part) for part in cut]
        return [(size / sum(sizes), part) for size, part in zip(sizes, cut, strict=True)]

    def loss(self, batch: Any, z: Tensor, weights: Sequence[Tensor] | None = None) -> Tensor:
        with self._autocast():
            if weights is None:
                loss: Tensor = self.net(batch, z)
                return loss
            named = dict(zip(self.names, weights, strict=True))
            return torch.func.functional_call(self.net, named, (batch, z))


class _GatedLoss(nn.Module):
    """Backbone and PET modules under one roof, so that `functional_call` can stand in for their weights."""

    def __init__(self, model: nn.Module, pets: PETs, loss: Loss, pinned: int) -> None:
        super().__init__()
        self.pinned = pinned
        self.model, self.pets, self.loss_of = model, pets, loss
        self.own = loss is not model_loss

    def forward(self, batch: Any, z: Tensor) -> Tensor:
        # Not only while the loss is computed: checkpointed layers run again in the backward pass.
        self.pets.hold(torch.cat([z, z.new_ones(self.pinned)]) if self.pinned else z)
        return self.loss_of(self.model, batch)
