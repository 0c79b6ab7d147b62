"""An encoder's head and pooler, and leaving a model as it was found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.placed import stays
from s3pet_viz.backbones.position import base_of
from s3pet_viz.backbones.shared import alone, seeded
from s3pet_viz.training.device import Device


def pooler_of(backbone: Backbone) -> list[nn.Parameter]:
    pooler = getattr(base_of(backbone.model), "pooler", None)
    return list(pooler.parameters()) if isinstance(pooler, nn.Module) else []


def reset_head(backbone: Backbone, seed: int) -> None:
    """Draw an encoder's head anew, as transformers would, from this seed."""
    if not backbone.head or backbone.form == "own":  # which has the weights that its user gave it
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
def as_found(model: nn.Module) -> Iterator[None]:
    """Give a model back as it was, whatever happens inside: every tensor (its memory, so its device and dtype too), its
    ``requires_grad`` and gradient, the mode, hooks and attributes of every module, and its configs' fields.

    Values that were changed in place stay changed: see `left_as_found`. Another thread that comes with the same model
    waits.
    """
    with alone(model):
        parameters = [(p, p.data, p.requires_grad, p.grad) for p in model.parameters()]
        held = [vars(m) for m in model.modules()]
        # T5's stacks have configs of their own.
        configs = [fields.get(name) for fields in held for name in ("config", "generation_config")]
        held += [vars(c) for c in {id(c): c for c in configs if c is not None}.values()]
        # A module's parameters, buffers and hooks are in dictionaries of their own, to which hooks' handles refer.
        held += [inner for fields in held for inner in fields.values() if isinstance(inner, dict)]
        kept = [(fields, dict(fields)) for fields in held]
        try:
            yield
        finally:
            for fields, before in kept:
                for name in fields.keys() - before.keys():
                    del fields[name]
                fields.update(before)
            for p, data, flag, grad in parameters:
                p.grad = None
                p.data = data
                p.requires_grad_(flag)
                p.grad = grad


@contextmanager
def at_work(backbone: Backbone, device: Device) -> Iterator[None]:
    """Inside, a backbone is frozen, in evaluation mode, on the device, and under no settings of its own that hide its
    outputs or compute them twice. Afterwards it is as it was found."""
    model: Any = backbone.model
    own = backbone.form == "own"
    with as_found(model), left_as_found(list(model.buffers()) if own else []):
        model.requires_grad_(False)
        model.eval()
        if not stays(model):
            model.to(device.torch)
        for p in model.parameters():
            p.grad = None  # the first step would add to it
        if not own:
            model.config.return_dict = True
        for module in model.modules():
            if getattr(module, "gradient_checkpointing", False):
                module.gradient_checkpointing = False
        raise_precision(backbone.head.values())
        if any(p.dtype == torch.float16 for p in model.parameters()):
            _widen(model)
        yield


def _widen(model: Any) -> None:
    """Of a float16 model, the stream between its blocks in float32: float16 ends at 6e-8, and small gradients with it.

    Norms are float32 for that; linear layers stay, and compute in bfloat16 (`Device.suited`).
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.ndim == 1:
            raise_precision(module.parameters(recurse=False))
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: output.float())


def raise_precision(parameters: Iterable[nn.Parameter]) -> None:
    """Trained weights are float32 at least: in bfloat16 a small step is rounded away."""
    for p in parameters:
        if p.dtype.itemsize < 4:
            p.data = p.data.float()


def set_training(model: nn.Module, on: bool = True) -> None:
    """Training mode, but for norms whose statistics are of a batch: the backbone is frozen, and they with it."""
    model.train(on)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            module.eval()


@contextmanager
def left_as_found(parameters: Sequence[Tensor]) -> Iterator[None]:
    kept = [p.detach().clone() for p in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(parameters, kept, strict=True):
                p.copy_(value)
