"""Scores of a backbone's own linear layers: GoRA's importance, PLoP's NFN, EVA's explained variance. No PET module is
inserted for them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from s3pet_viz.backbones.position import Position, is_conv1d
from s3pet_viz.backbones.quantised import is_packed
from s3pet_viz.errors import ConfigError
from s3pet_viz.pet import insert
from s3pet_viz.threads import LOCK
from s3pet_viz.training.batches import IGNORE, Features
from s3pet_viz.training.own_batches import OwnBatches
from s3pet_viz.tuning.explain import row_losses
from s3pet_viz.tuning.workbench import Workbench

#: Gaussian inputs of a layer: (position, shape (batch, tokens, in)) -> standard normal draws of that shape.
Draw: TypeAlias = Callable[[str, tuple[int, ...]], Tensor]


def gora_scores(
    bench: Workbench,
    layers: Sequence[Position],
    features: Features | OwnBatches,
    batch_size: int,
    tick: Callable[[], Any],
) -> NDArray[np.float64]:
    """The mean of ``|W * G|``, with ``G = dL/dW`` of the mean over rows of the loss, shape (n_layers,), float64.

    Source: GoRA (arXiv 2502.12171), as read from its authors' code; their initialisation of B is left out.
    """
    weights = [_weight(layer).requires_grad_() for layer in layers]
    none = torch.ones(0, device=bench.device.torch)
    totals = [torch.zeros_like(w, dtype=_precise(w)).detach() for w in weights]
    n_rows = 0
    for part in row_losses(bench, insert(bench.backbone.model, ()), features, batch_size):
        losses = part(none)
        # A layer that no row reaches has gradient zero.
        for total, gradient in zip(
            totals, torch.autograd.grad(losses.sum(), weights, materialize_grads=True), strict=True
        ):
            total += gradient
        n_rows += len(losses)
        tick()
    return np.array(
        [float((w.detach() * total).abs().mean()) / n_rows for w, total in zip(weights, totals, strict=True)]
    )


def plop_scores(
    bench: Workbench,
    layers: Sequence[Position],
    features: Features,
    batch_size: int,
    tick: Callable[[], Any],
    draw: Draw,
) -> NDArray[np.float64]:
    """1 / NFN of each layer, shape (n_layers,), float64.

    ``NFN = ||W z|| / ||W z'||`` with z' Gaussian of the norm of z, without the layer's bias; the mean over the tokens
    of a row (padding left out, and tokens whose input is zero), then over rows. Source: PLoP (arXiv 2506.20629), as
    read from a public port.
    """
    seen: dict[int, list[Tensor]] = {i: [] for i in range(len(layers))}

    def see(i: int, x: Tensor, mask: Tensor) -> None:
        seen[i].append(_nfn(layers[i], x.reshape(*mask.shape, -1).to(_precise(x)), mask, draw))

    _read_inputs(bench, layers, features, batch_size, tick, see)
    return np.array([1 / float(torch.cat(seen[i]).nanmean()) if seen[i] else np.nan for i in range(len(layers))])


def eva_ratios(
    bench: Workbench, layers: Sequence[Position], features: Features, batch_size: int, tick: Callable[[], Any]
) -> list[NDArray[np.float64]]:
    """The explained variance ratios of each layer's inputs, highest first, each of shape (in,), float64.

    Eigenvalues of the covariance over tokens (as of `plop_scores`), over their sum. Source: EVA (arXiv 2410.07170), as
    in PEFT, which comes to the highest of them by an incremental SVD that stops where the vectors no longer turn.
    """
    sums: dict[int, tuple[int, Tensor, Tensor]] = {}
    owner = list(range(len(layers)))  # queries, keys and values read one tensor
    last: list[Any] = [None, 0]

    def see(i: int, x: Tensor, mask: Tensor) -> None:
        if x is last[0]:
            owner[i] = last[1]
            return
        last[:] = [x, i]
        tokens = x.reshape(*mask.shape, -1)[mask].double()
        n, total, squares = sums.get(i, (0, torch.zeros(()), torch.zeros(())))
        sums[i] = (n + len(tokens), total.to(tokens) + tokens.sum(0), squares.to(tokens) + tokens.T @ tokens)

    _read_inputs(bench, layers, features, batch_size, tick, see)
    ratios: dict[int, NDArray[np.float64]] = {}
    for i, (n, total, squares) in sums.items():
        mean = total / max(1, n)
        found = torch.linalg.eigvalsh(squares / max(1, n) - mean[:, None] * mean).clamp(min=0).flip(0)
        ratios[i] = (found / found.sum().clamp(min=torch.finfo(found.dtype).tiny)).cpu().numpy()
    return [ratios.get(owner[i], np.zeros(layer.in_features)) for i, layer in enumerate(layers)]


def _read_inputs(
    bench: Workbench,
    layers: Sequence[Position],
    features: Features,
    batch_size: int,
    tick: Callable[[], Any],
    see: Callable[[int, Tensor, Tensor], None],
) -> None:
    """Forward passes over rows; `see` is told the number of each layer, its input, and which tokens of it count:
    mask (batch, tokens), input (batch, tokens, in) or (batch * tokens, in).
    """
    backbone: Any = bench.backbone
    options = {"use_cache": False} if backbone.form == "text" else {}
    masks: dict[str, Tensor] = {}

    def hook(i: int, module: Any, args: tuple[Any, ...], output: Any) -> None:
        layer, x = layers[i], args[0]
        mask = masks["decoder" if _reads_decoder(layer, backbone) else "input"]
        # DeBERTa's keys read its table of relative positions too, which is no token.
        if x.shape[:-1] in (mask.shape, (mask.numel(),)):
            see(i, x, mask)

    handles = [layer.target.register_forward_hook(partial(hook, i)) for i, layer in enumerate(layers)]
    try:
        for indices in features.by_length(batch_size):
            batch = features.batch(indices, bench.device.torch)
            masks["input"] = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
            if backbone.form == "text":
                masks["decoder"] = masks["input"] if backbone.causal else batch["labels"] != IGNORE
            with LOCK, bench.device.autocast(), torch.no_grad():
                backbone.model(**batch, **options)
            tick()
    finally:
        for handle in handles:
            handle.remove()


def gaussian(seed: int) -> Draw:
    """Draws that depend on the seed, the layer, and how often it was asked."""
    generators: dict[str, torch.Generator] = {}

    def draw(position: str, shape: tuple[int, ...]) -> Tensor:
        if position not in generators:
            generators[position] = torch.Generator().manual_seed(zlib.crc32(f"{seed}|{position}".encode()))
        return torch.randn(shape, generator=generators[position])

    return draw


def _nfn(layer: Position, x: Tensor, mask: Tensor, draw: Draw) -> Tensor:
    """Means over each row's tokens; x (batch, tokens, in), mask (batch, tokens) -> (batch,), NaN without tokens."""
    weight = _weight(layer).detach().to(x.dtype)
    weight = weight.T if is_conv1d(layer.target) else weight  # (out, in)
    drawn = draw(layer.name, tuple(x.shape))
    if not isinstance(drawn, Tensor) or drawn.shape != x.shape:
        found = tuple(drawn.shape) if isinstance(drawn, Tensor) else type(drawn).__name__
        raise ConfigError(f"draw: expected a tensor of shape {tuple(x.shape)} for {layer.name}, found {found}")
    noise = drawn.to(x)
    # Of unit norm each, which is the same ratio.
    ratio = F.linear(F.normalize(x, dim=-1, eps=0.0), weight).norm(dim=-1)
    ratio = ratio / F.linear(F.normalize(noise, dim=-1), weight).norm(dim=-1)
    counted = mask & (x.norm(dim=-1) > 0)
    made = torch.where(counted, ratio, torch.zeros_like(ratio)).double().cpu().sum(1)
    return made / counted.sum(1).cpu()


def _reads_decoder(layer: Position, backbone: Any) -> bool:
    """Whether a layer's input is the decoder's stream; cross-attention reads the encoder's for keys and values."""
    return layer.stack == "decoder" and backbone.form == "text" and layer.module not in ("CrossAttn.K", "CrossAttn.V")


def _weight(layer: Position) -> Tensor:
    target: Any = layer.target
    weight: Tensor = target.weight
    if is_packed(weight):
        raise ConfigError(
            f"score: expected unquantised weights for a score that reads them, found {type(target).__name__} at "
            f"{layer.name} (gradient is one that does not)"
        )
    if weight.is_meta:
        raise ConfigError(
            "device_map: expected weights in memory for a score that reads them (gradient is one that does not)"
        )
    return weight


def _precise(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
