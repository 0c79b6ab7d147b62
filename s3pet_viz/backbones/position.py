"""What a position is, and what is read off a module for it."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from s3pet_viz.backbones.quantised import shape_of
from s3pet_viz.errors import BackboneError
from s3pet_viz.structure.tables import PARTS, Kind


@dataclass(frozen=True)
class Position:
    """A module of a live backbone that PET modules can be attached to.

    ``in_features`` and ``out_features`` are the widths of its input and output.
    """

    name: str
    target: nn.Module
    stack: str
    layer: int
    module: str
    kind: Kind
    in_features: int
    out_features: int

    @property
    def modules(self) -> tuple[str, ...]:
        """The canonical modules that this position stands for: its own, and those that it computes at once."""
        return (self.module, *PARTS.get(self.module, ()))


def base_of(model: nn.Module) -> nn.Module:
    """The backbone proper, without the task's head: what position names are relative to."""
    base = getattr(model, "base_model", model)
    return base if isinstance(base, nn.Module) else model


def understood(model: nn.Module, **options: Any) -> dict[str, Any]:
    """Those of these options that a model's forward takes: a class of a user's own may know few."""
    known = signature(type(model).forward).parameters
    if any(one.kind is one.VAR_KEYWORD for one in known.values()):
        return options
    return {name: value for name, value in options.items() if name in known}


def text_config(config: Any) -> Any:
    """Of a config of several parts (Gemma 3 reads images too), that of the text; else itself."""
    return getattr(config, "text_config", None) or config


def hidden_size(model: Any) -> int | None:
    """The width of the stream between the blocks; None: the model does not say."""
    own = getattr(model, "config", None)
    for config in (text_config(own), own):
        for field in ("d_model", "hidden_size"):
            if isinstance(found := getattr(config, field, None), int):
                return found
    embedded = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    weight = getattr(embedded, "weight", None)
    return None if weight is None else int(weight.shape[1])


def block_width(model: Any, target: nn.Module) -> int | None:
    """The width of what a block gives; None: nobody can tell.

    The model's own, where a weight of the block has it; a model of several towers has several, and then it is that of
    the last linear layer inside.
    """
    if is_linear(target):
        return widths(target)[1]
    hidden = hidden_size(model)
    if hidden is not None and any(hidden in shape_of(p) for p in target.parameters()):
        return hidden
    linears = [m for m in target.modules() if is_linear(m)]
    return widths(linears[-1])[1] if linears else hidden


def known_tokens(model: Any) -> int | None:
    """How many tokens a model has embeddings for, and outputs; None: it does not say (CANINE hashes characters)."""
    made = []
    for ask in (model.get_input_embeddings, model.get_output_embeddings):
        try:
            made.append(ask())
        except NotImplementedError:
            return None
    return min(shape_of(m.weight)[0] for m in made if m is not None)


def is_conv1d(target: nn.Module) -> bool:
    """Whether this is transformers' `Conv1D`, GPT-2's linear layer: a weight of shape (in, out), unlike nn.Linear's."""
    return type(target).__name__ == "Conv1D" and hasattr(target, "nf")


def is_linear(target: nn.Module) -> bool:
    """Whether PET modules for linear layers can go here: it is called (`nn.MultiheadAttention` only reads the weight of
    its ``out_proj``)."""
    return (isinstance(target, nn.Linear) and not isinstance(target, NonDynamicallyQuantizableLinear)) or is_conv1d(
        target
    )


def widths(target: nn.Module) -> tuple[int, int]:
    """Of the input and output of a linear layer or a norm. Raises BackboneError: it is neither."""
    if isinstance(target, nn.Linear):
        return target.in_features, target.out_features
    weight: Any = getattr(target, "weight", None)
    if weight is not None and is_conv1d(target):
        return weight.shape[0], weight.shape[1]
    if weight is None or weight.ndim != 1:
        raise BackboneError(
            f"backbone: expected a linear layer or a norm with weights of its own, found {type(target).__name__}"
        )
    return weight.shape[0], weight.shape[0]
