"""Any model with a loss of the user's own, as a backbone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s3pet_viz.backbones import check
from s3pet_viz.backbones.backbone import Backbone
from s3pet_viz.backbones.families import family_of, read
from s3pet_viz.backbones.position import base_of
from s3pet_viz.backbones.quantised import check_trained, count, refuse_quantised
from s3pet_viz.errors import BackboneError, ConfigError
from s3pet_viz.structure.tables import read_family


class OwnLoss:
    """A user's ``loss(model, batch)``, held to what it promises.

    Raises:
        ConfigError: what it returns is no scalar tensor of real numbers.
    """

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, model: Any, batch: Any) -> Tensor:
        # A loss may take entries out of what it is given, and is asked again of the same batch.
        made = self.function(model, copy.copy(batch) if isinstance(batch, Mapping) else batch)
        if not isinstance(made, Tensor) or made.numel() != 1 or not made.is_floating_point():
            raise ConfigError(f"loss: expected a scalar tensor of loss(model, batch), found {_described(made)}")
        return made.reshape(())


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"a tensor of {' x '.join(map(str, value.shape)) or 'one number'} ({kind})"
    found = type(value).__name__
    if isinstance(getattr(value, "loss", None), Tensor):
        return f"{found}; return its .loss"
    return f"{found}, through which no gradient flows" if isinstance(value, (int, float)) else found


def wrap_own(
    model: Any, loss: Any, *, head: str | Sequence[str] = "auto", family: Mapping[str, Any] | str | Path | None = None
) -> Backbone:
    """A `Backbone` around any model in memory, with a loss of the user's. Its weights are frozen.

    Args:
        head: names of modules or parameters that are trained whole beside the gates, from the weights that they have.
            ``auto``: what a transformers model has beside its base model, but what writes tokens; of another none.
        family: as of `load_backbone`.

    Raises:
        BackboneError: no model, a wrapped one, PET modules in it already, quantised weights or float16 ones, weights
            without numbers, NaN or infinite; no positions for gates; a table that does not fit it.
        ConfigError: a head that it has not.
    """
    if not isinstance(model, nn.Module):
        raise BackboneError(f"model: expected a torch module that loss= is of, found {type(model).__name__}")
    kind = type(model).__name__
    inner = next((name for name in ("_orig_mod", "module") if isinstance(getattr(model, name, None), nn.Module)), None)
    if inner is not None and (inner == "_orig_mod" or "Parallel" in kind):
        raise BackboneError(f"model: expected a plain module, found {kind}; give the one that is inside (.{inner})")
    check.check_bare(model)
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or kind
    refuse_quantised(getattr(model, "config", None), model, name)
    check.check_in_memory(model, name)
    check.check_finite(model)
    if any(p.dtype == torch.float16 for p in model.parameters()):
        raise BackboneError("model: expected weights in float32 or bfloat16, found float16")
    known = family_of(model, None if family is None else read_family(family))
    read(model, known)
    made = Backbone(model, None, str(name), "own", known, n_params=0, head=_head(model, head), loss_of=OwnLoss(loss))
    check_trained(made.head, str(name))
    made.n_params = count(made.body)
    if not made.positions():
        raise BackboneError(f"head: expected a part of {kind} that leaves layers to the gates, found all of them in it")
    model.requires_grad_(False)
    model.eval()
    return made


def _head(model: nn.Module, head: str | Sequence[str]) -> dict[str, nn.Parameter]:
    named = dict(model.named_parameters())
    if isinstance(head, str):
        if head != "auto":
            raise ConfigError(f"head: expected auto or names of modules of the model with loss=, found {head!r}")
        inside = {id(p) for p in base_of(model).parameters()}
        writes = getattr(model, "get_output_embeddings", lambda: None)()
        generates = getattr(model, "can_generate", lambda: False)()
        return {} if writes is not None or generates else {n: p for n, p in named.items() if id(p) not in inside}
    made: dict[str, nn.Parameter] = {}
    for part in head:
        found = {n: p for n, p in named.items() if n == part or n.startswith(f"{part}.")}
        if not found:
            near = get_close_matches(part, [n for n, _ in model.named_modules() if n], 3, 0.3)
            hint = f"; near it are {', '.join(near)}" if near else ""
            raise ConfigError(f"head: expected modules or parameters of {type(model).__name__}, found {part!r}{hint}")
        made |= found
    return made
