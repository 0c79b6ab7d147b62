"""Positions: the modules of a live backbone that PET modules can be attached to, by the tables of names."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from s3pet_viz.errors import BackboneError
from s3pet_viz.structure.gate import EMBEDDING_LAYER
from s3pet_viz.structure.tables import PARTS, Family, Kind, families

FAMILIES = families()


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


def family_of(model: nn.Module) -> Family:
    """The family of a transformers model. Raises BackboneError: its ``model_type`` is in no table."""
    return family_of_type(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def family_of_type(model_type: str) -> Family:
    """`family_of`, where there is only a config yet."""
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(t for f in FAMILIES for t in f.model_types)
    raise BackboneError(
        f"backbone: expected a model of a known family ({known}), found {model_type!r}; "
        "a family is one table in s3pet_viz/structure/families.yaml"
    )


def base_of(model: nn.Module) -> nn.Module:
    """The backbone proper, without the task's head: what position names are relative to."""
    base = getattr(model, "base_model", model)
    return base if isinstance(base, nn.Module) else model


def positions(model: nn.Module) -> list[Position]:
    """Every position of a model, in the order of its modules. Raises BackboneError: unknown family, or a table that
    matches nothing in this model.
    """
    family = family_of(model)
    hidden = _hidden_size(model)
    found = []
    for name, target in base_of(model).named_modules():
        for rule in family.rules:
            match = rule.pattern.fullmatch(name)
            if not match:
                continue
            width = _widths(target) if rule.kind != "block" else (hidden, hidden)
            found.append((name, target, rule, match.groupdict().get("layer"), width))
    if not found:
        raise BackboneError(f"backbone: no module of this {type(model).__name__} matches the table of {family.name!r}")
    depth = {
        stack: 1 + max((int(layer) for _, _, r, layer, _ in found if layer and r.stack == stack), default=-1)
        for stack in ("encoder", "decoder")
    }
    made = []
    for name, target, rule, layer, (wide, slim) in found:
        last = EMBEDDING_LAYER if rule.module.startswith("Emb.") else depth[rule.stack]
        at = int(layer) if layer else last
        made.append(Position(name, target, rule.stack, at, rule.module, rule.kind, wide, slim))
    return made


def _hidden_size(model: nn.Module) -> int:
    config = model.config
    return int(getattr(config, "d_model", None) or config.hidden_size)  # type: ignore[union-attr, arg-type]


def is_conv1d(target: nn.Module) -> bool:
    """Whether this is transformers' `Conv1D`, GPT-2's linear layer: a weight of shape (in, out), unlike nn.Linear's."""
    return type(target).__name__ == "Conv1D" and hasattr(target, "nf")


def _widths(target: nn.Module) -> tuple[int, int]:
    if isinstance(target, nn.Linear):
        return target.in_features, target.out_features
    weight = getattr(target, "weight", None)
    if weight is not None and is_conv1d(target):
        return weight.shape[0], weight.shape[1]
    if weight is None or weight.ndim != 1:
        raise BackboneError(
            f"backbone: expected a linear layer or a norm with weights of its own, found {type(target).__name__}"
        )
    return weight.shape[0], weight.shape[0]
