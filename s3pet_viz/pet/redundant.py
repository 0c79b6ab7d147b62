"""Pairs of biases of which one adds nothing beside the other, found by measuring: what the first does to the model's
output, the second does too.

Attention weights sum to 1, so a bias b on values moves an attention's output by W b, as a bias on its output
matrix does; a norm's bias in front of a single linear layer is a bias of that layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from s3pet_viz.backbones.families import position_at
from s3pet_viz.pet.inert import logits_of
from s3pet_viz.structure import Gate

#: Further inputs that a pair must hold on: attention that looks at one token alone hides what queries and keys do.
_INPUTS = 7
#: Tokens of one forward pass, about: each row of it has one bias moved.
_TOKENS = 2048
_BIAS = "BitFit"

Pair = tuple[Gate, Gate]


@torch.no_grad()
def redundant_pairs(
    model: nn.Module,
    gates: Sequence[Gate],
    batch: Mapping[str, Tensor],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Pair, ...]:
    """Pairs (a, b) of BitFit gates: whatever bias a adds, b alone can do the same to every output.

    One bias is moved in each row of a batch that repeats an input. Where that moves the output of another biased
    module by one and the same vector at every token, the reverse there is tried on up to seven other inputs: the pair
    counts if every output is what it was before. So a few forward passes are enough. Dropout is off, as in all
    measurements.

    Args:
        model: frozen, with nothing inserted; left as it was.
        batch: rows of tensors on the model's device, rows first, of which up to eight are used.
        autocast: a context factory for weights of mixed precision.

    Returns:
        In the order of the gates. What is not found may still be there: half precision hides some, and biases at layers
        whose output is not a list of tokens row by row (experts of a mixture) are not looked at.
    """
    biases = [gate for gate in gates if gate.pet_type == _BIAS]
    sites = [position_at(model, gate) for gate in biases]
    targets = [site.target for site in sites if site is not None]
    if len(targets) < max(2, len(biases)) or len(next(iter(batch.values()))) < 2:
        return ()
    most = max(2, _TOKENS // max(value[0].numel() for value in batch.values()))
    training = model.training
    model.eval()
    try:
        found: list[tuple[int, int]] = []
        for first in range(0, len(targets), most):
            with autocast():
                found += _followed(model, targets, range(first, min(first + most, len(targets))), batch)
    finally:
        model.train(training)
    return tuple((biases[i], biases[j]) for i, j in sorted(found))


def _followed(
    model: nn.Module, targets: Sequence[nn.Module], moved: Sequence[int], batch: Mapping[str, Tensor]
) -> list[tuple[int, int]]:
    """Places (i, j) in `targets`, i in `moved`, of the pairs that hold on every input of `batch` that is looked at."""
    steps: dict[int, Tensor] = {}
    shifts: dict[tuple[int, int], Tensor] = {}
    never: set[tuple[int, int]] = set()

    def look(j: int, out: Tensor) -> None:
        """What each row's bias has done to this output, and the bias of its own."""
        base = out[-1:]
        gap = out[:-1] - base
        mean = gap.mean(1, keepdim=True)
        size, tolerance = mean.abs().amax((1, 2)), _tolerance(out)
        same = ((gap - mean).abs().amax((1, 2)) <= tolerance * size) & (size > tolerance * base.abs().max())
        for row, i in enumerate(moved):
            known = shifts.get((i, j))
            if i == j or not same[row] or (known is not None and not torch.allclose(known, mean[row, 0], tolerance)):
                never.add((i, j))
            else:
                shifts[i, j] = mean[row, 0]
        if j in moved:
            if j not in steps:
                draw = torch.randn(out.shape[-1], generator=torch.Generator().manual_seed(j))
                steps[j] = draw.to(out) * base.square().mean().sqrt()
            out[moved.index(j)] += steps[j]

    rows = len(moved) + 1
    with _told(targets, rows, look):
        logits_of(model, _repeated(batch, 0, rows))
    tried = sorted(set(shifts) - never)
    half = max(1, len(moved) // 2)

    def held(some: Sequence[tuple[int, int]], row: int) -> list[tuple[int, int]]:
        """Of these pairs those that hold on this input."""

        def move(j: int, out: Tensor) -> None:
            """Two rows of each pair: in one the first bias alone, in the other also what shall undo it."""
            for k, (a, b) in enumerate(some):
                if j == a:
                    out[2 * k : 2 * k + 2] += steps[a]
                if j == b:
                    out[2 * k + 1] -= shifts[a, b]

        rows = 2 * len(some) + 1
        with _told(targets, rows, move):
            made = logits_of(model, _repeated(batch, row, rows)).flatten(1)
        size = (made[:-1] - made[-1:]).abs().amax(1)
        alone, both = size[::2], size[1::2]
        tolerance = _tolerance(made)
        kept = (both <= tolerance * alone) & (alone > tolerance * made[-1].abs().max())
        return [pair for pair, holds in zip(some, kept.tolist(), strict=True) if holds]

    found = []
    for first in range(0, len(tried), half):
        some = tried[first : first + half]
        for row in range(1, min(1 + _INPUTS, len(next(iter(batch.values()))))):
            some = held(some, row) if some else []
        found += some
    return found


@contextmanager
def _told(targets: Sequence[nn.Module], rows: int, tell: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Inside, `tell` gets a copy of what each of these modules gives, (rows, tokens, features), and may change it."""

    def hook(j: int) -> Any:
        def told(module: nn.Module, args: Any, output: Any) -> Any:
            if not isinstance(output, Tensor) or output.dim() < 2 or len(output) % rows:
                return None
            # Gemma 3's is not contiguous; OPT has the tokens of all rows in one list, row by row.
            made = output.clone(memory_format=torch.contiguous_format)
            tell(j, made.view(rows, -1, made.shape[-1]))
            return made

        return told

    with ExitStack() as hooks:
        for j, target in enumerate(targets):
            hooks.enter_context(target.register_forward_hook(hook(j)))
        yield


def _repeated(batch: Mapping[str, Tensor], row: int, times: int) -> dict[str, Tensor]:
    """One row of a batch, so many times."""
    return {name: value[row : row + 1].expand(times, *value.shape[1:]).contiguous() for name, value in batch.items()}


def _tolerance(like: Tensor) -> float:
    return float(torch.finfo(like.dtype).eps ** 0.5)
