"""An encoder's head and pooler, and leaving a model as it was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.families import base_of
from s3pet_viz.backbones.shared import alone, seeded


def pooler_of(backbone: Backbone) -> list[nn.Parameter]:
    pooler = getattr(base_of(backbone.model), "pooler", None)
    return list(pooler.parameters()) if isinstance(pooler, nn.Module) else []


def reset_head(backbone: Backbone, seed: int) -> None:
    """Draw an encoder's head anew, as transformers would, from this seed."""
    if not backbone.head:
        return
    inside = {id(m) for m in base_of(backbone.model).modules()}
    with seeded(seed), torch.no_grad():
        for module in backbone.model.modules():
            if id(module) in inside or not isinstance(module, nn.Linear):
                continue
            width = getattr(backbone.model.config, "initializer_range", 0.02)
            module.weight.copy_(torch.empty(module.weight.shape).normal_(std=width))
            if module.bias is not None:
                module.bias.zero_()


@contextmanager
def flags_kept(model: nn.Module | None) -> Iterator[None]:
    """Give a model of the caller's its training modes, its trainable parameters and its device back.

    Another thread that comes with the same model waits.
    """
    with alone(model), _flags_kept(model):
        yield


@contextmanager
def _flags_kept(model: nn.Module | None) -> Iterator[None]:
    modes = [(m, m.training) for m in model.modules()] if model is not None else []
    trainable = [(p, p.requires_grad) for p in model.parameters()] if model is not None else []
    home = _device_of(model)
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode
        for p, flag in trainable:
            p.requires_grad_(flag)
        if model is not None and home is not None and _device_of(model) != home:
            model.to(home)


def _device_of(model: nn.Module | None) -> torch.device | None:
    """Where a model is; None where there is none, or its parameters are spread over several devices."""
    places = {p.device for p in model.parameters()} if model is not None else set()
    return places.pop() if len(places) == 1 else None


@contextmanager
def left_as_found(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    kept = [p.detach().clone() for p in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(parameters, kept, strict=True):
                p.copy_(value)
