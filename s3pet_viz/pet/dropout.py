"""Dropout masks made quickly on the CPU.

torch draws them there one by one, in one thread: 15 % of a search step of t5-small (benchmarks/NOTES.md). Sixteen
random bits an element from NumPy's SFC64 take a fraction of that. Its seed comes from torch's generator, so equal
seeds give equal masks, a checkpointed layer draws its mask again, and a resumed search repeats itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

#: Random bits behind each element; p is met to half a step of 2^-16.
_LEVELS = 1 << 16


@contextmanager
def quick_dropout(model: nn.Module) -> Iterator[None]:
    """Inside, the `nn.Dropout` modules of a model on the CPU draw quick masks."""
    patched = [
        module
        for module in model.modules()
        if type(module) is nn.Dropout and not module.inplace and "forward" not in vars(module)
    ]
    for module in patched:
        module.forward = _forward(module)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for module in patched:
            del module.forward


def _forward(module: nn.Dropout) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if not module.training or not 0 < module.p < 1 or x.device.type != "cpu":
            return nn.Dropout.forward(module, x)
        return x * quick_mask(x, module.p)

    return forward


def quick_mask(like: Tensor, p: float) -> Tensor:
    """0 with probability p, else 1 / (1 - p), independently; of this shape and dtype.

    The probability is rounded to 2^-16, and the scale is that of the rounded one, so that the mean is 1 exactly.
    """
    cut = round(p * _LEVELS)
    seed = int(torch.randint(2**62, ()))
    n = like.numel()
    bits = np.random.SFC64(seed).random_raw(-(-n // 4)).view(np.uint16)[:n].reshape(like.shape)
    # torch turns bytes into floats many times as fast as truth values (benchmarks/speed/micro.py).
    kept = torch.from_numpy((bits >= cut).view(np.uint8))
    return kept.to(like.dtype).mul_(_LEVELS / (_LEVELS - cut))
