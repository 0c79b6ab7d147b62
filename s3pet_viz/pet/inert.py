"""Gates that cannot help, found by measuring: whatever their weights are, the model's output is the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from s3pet_viz.backbones.position import understood
from s3pet_viz.errors import BackboneError
from s3pet_viz.pet.insertion import insert
from s3pet_viz.structure import Gate

#: What is differentiated is scaled by these: a true gradient is scaled with it, one that is rounding alone changes.
_SCALES = (math.pi, math.e, 5 * math.sqrt(3))
#: Rounding is a smaller share of the largest gradient than this, and changes by more than this share of itself; true
#: gradients change by less, in bfloat16 too. tests/pet/test_inert.py holds both sides of it, family by family.
_SMALL, _CHANGE = 1e-2, 0.12


def inert_gates(
    model: nn.Module,
    gates: Sequence[Gate],
    batch: Any,
    autocast: Callable[[], Any] = nullcontext,
    output: Callable[[Any, Any], Tensor] | None = None,
) -> tuple[Gate, ...]:
    """The gates whose weights the output does not depend on: a bias on keys adds one number to every score of a query,
    which softmax drops, unless scores depend on the key otherwise (rotary positions).

    All gates are open, with random weights, in one forward and four backward passes without dropout. Half precision and
    rounding are no trouble: a gradient counts as none where it is rounding alone. The model is left as it was.

    Args:
        batch: rows on the model's device, a few are enough; what an attention reads must be longer than one token.
        autocast: a context factory for mixed precision.
        output: what counts, of the model and the batch; default: the logits.

    Raises:
        BackboneError: the output has no gradient: nothing could be learned.
    """
    training = model.training
    model.eval()
    pets = insert(model, gates)
    try:
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in pets.parameters():
                weight.add_(0.02 * torch.randn(weight.shape, generator=draw).to(weight))
        weights = list(pets.parameters())
        with torch.enable_grad():
            with autocast():
                made = (output or logits_of)(model, batch).float()
            value = (made * torch.randn(made.shape, generator=draw).to(made)).sum()
            if not value.requires_grad:
                raise BackboneError(
                    f"backbone: expected gradients of PET weights, found none: {type(model).__name__} computes those "
                    "of its own weights itself, as reversible layers do"
                )
            owners = [int(name.partition(".")[0]) for name, _ in pets.named_parameters()]
            once = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            size = _squares(len(gates), owners, once)
            small = size < _SMALL**2 * size.max()  # only these can be rounding alone: few, or none
            largest = int(size.argmax())  # rounding too where nothing of a space can help
            again = [k for k, owner in enumerate(owners) if (small[owner] or owner == largest) and once[k] is not None]
            change = torch.zeros_like(size)
            for by in _SCALES if again else ():
                scaled = torch.autograd.grad(value * by, [weights[k] for k in again], retain_graph=True)
                gap = [g.double() / by - once[k].double() for k, g in zip(again, scaled, strict=True)]
                change = change.maximum(_squares(len(gates), [owners[k] for k in again], gap))
    finally:
        pets.detach()
        model.train(training)
    rounding = change > _CHANGE**2 * size
    inert = ((size == 0) | (small & rounding) | rounding[largest]).tolist()
    return tuple(gate for gate, none in zip(gates, inert, strict=True) if none and size.max() > 0)


def _squares(n: int, owners: Sequence[int], parts: Sequence[Tensor | None]) -> Tensor:
    """The sum of squares of each gate's tensors, (n,), float64."""
    size = torch.zeros(n, dtype=torch.float64)
    for owner, part in zip(owners, parts, strict=True):
        if part is not None:
            size[owner] += part.double().square().sum().cpu()
    return size


def logits_of(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    options = understood(model, use_cache=False) if model.can_generate() else {}
    made: Tensor = model(**batch, **options).logits
    return made
