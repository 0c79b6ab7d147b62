"""Dropout masks made quickly on the CPU.

torch draws them there one by one, in one thread: 15 % of a search step of t5-small (benchmarks/NOTES.md). Sixteen
random bits an element from NumPy's SFC64 take a fraction of that. Its seed comes from torch's generator, so equal
seeds give equal masks, a checkpointed layer draws its mask again, and a resumed search repeats itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

#: Random bits behind each element; p is met to half a step of 2^-16.
_LEVELS = 1 << 16
#: The modules whose attention draws quick masks now.
_QUICK: WeakSet[nn.Module] = WeakSet()
#: Where elements pass, by what it follows from: seed, number of elements, cut.
Masks = dict[tuple[int, int, int], Tensor]
_KEPT: ContextVar[Masks | None] = ContextVar("kept masks", default=None)


@contextmanager
def quick_dropout(model: nn.Module, *, attention: bool = True) -> Iterator[None]:
    """Inside, a model on the CPU draws quick masks in its `nn.Dropout` modules, and for its attention probabilities
    where transformers' ``sdpa`` computes them (not with ``attention=False``).
    """
    patched = [
        module
        for module in model.modules()
        if type(module) is nn.Dropout and not module.inplace and "forward" not in vars(module)
    ]
    for module in patched:
        module.forward = _forward(module)  # type: ignore[method-assign, assignment]
    attending = [module for module in model.modules() if module not in _QUICK] if attention else []
    _take_over_sdpa()
    _QUICK.update(attending)
    try:
        yield
    finally:
        for module in patched:
            del module.forward
        _QUICK.difference_update(attending)


@contextmanager
def kept_masks(masks: Masks | None) -> Iterator[None]:
    """Inside, quick masks are kept in `masks`, a byte an element, and one whose seed comes again is taken from there:
    passes that share their masks make them once.
    """
    token = _KEPT.set(masks)
    try:
        yield
    finally:
        _KEPT.reset(token)


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
    made = (int(torch.randint(2**62, ())), like.numel(), cut)
    masks = _KEPT.get()
    passed = None if masks is None else masks.get(made)
    if passed is None:
        passed = _passed(*made)
        if masks is not None:
            masks[made] = passed
    return passed.view(like.shape).to(like.dtype).mul_(_LEVELS / (_LEVELS - cut))


def _passed(seed: int, n: int, cut: int) -> Tensor:
    """1 where an element passes. torch turns bytes into floats many times as fast as truth values
    (benchmarks/speed/micro.py).
    """
    bits = np.random.SFC64(seed).random_raw(-(-n // 4)).view(np.uint16)[:n]
    return torch.from_numpy((bits >= cut).view(np.uint8))


@cache
def _take_over_sdpa() -> None:
    """transformers' ``sdpa`` asks `_QUICK` from now on; for any other module it is what it was."""
    from transformers import AttentionInterface

    plain = AttentionInterface()["sdpa"]

    def sdpa(module: nn.Module, *tensors: Any, **options: Any) -> Any:
        if options.get("dropout") and module in _QUICK:
            with _QuickAttention():
                return plain(module, *tensors, **options)
        return plain(module, *tensors, **options)

    AttentionInterface.register("sdpa", sdpa)


class _QuickAttention(TorchFunctionMode):
    """Inside, torch's scaled dot product attention with dropout on the CPU is `attend`."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if function is scaled_dot_product_attention and options.get("dropout_p") and args[0].device.type == "cpu":
            return attend(*args, **options)
        return function(*args, **options)


def attend(
    query: Tensor,  # (rows, heads, tokens, width), as the others
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` with a quick mask: on the CPU and with dropout torch computes
    it by the same operations and takes 1.5 times as long (benchmarks/speed/micro.py).

    A query that may look nowhere gets a mean of all values, where torch has zeros.
    """
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        # Not -inf: a query that may look nowhere would get NaN, and NaN times a share of 0 is NaN in the next layer.
        least = torch.finfo(scores.dtype).min / 2
        hidden = attn_mask.dtype == torch.bool
        scores += (~attn_mask).to(scores.dtype).mul_(least) if hidden else attn_mask.clamp(min=least)
    wide = torch.promote_types(scores.dtype, torch.float32)
    shares = torch.softmax(scores, -1, dtype=wide).to(query.dtype)
    return (shares * quick_mask(shares, dropout_p) if dropout_p else shares) @ value
