"""Positions: the modules of a live backbone that PET modules can be attached to, by tables of names or read off it."""

from __future__ import annotations

from typing import Any

from torch import nn

from s3pet_viz.backbones.discovery import discover
from s3pet_viz.backbones.position import Position, base_of, hidden_size, widths
from s3pet_viz.errors import BackboneError
from s3pet_viz.structure.gate import EMBEDDING_LAYER
from s3pet_viz.structure.tables import Family, families

FAMILIES = families()


def family_of(model: nn.Module) -> Family:
    """The family of a transformers model: of its table, or made of the model itself. Raises BackboneError: it is none
    of transformers' models.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "model_type"):
        raise BackboneError(f"backbone: expected a model of transformers, found {type(model).__name__!r}")
    writes = getattr(model, "can_generate", None)
    return _table(config.model_type) or _made(config, type(model).__name__, bool(writes and writes()))


def family_of_config(config: Any) -> Family:
    """`family_of`, where there is only a config yet. Raises BackboneError: transformers has no text model of it."""
    found = _table(config.model_type)
    if found is None and not any(config.model_type in _auto(task) for task in _TASKS):
        raise BackboneError(
            "backbone: expected a model that transformers loads for sequence classification, causal or "
            f"sequence-to-sequence language modelling, found {config.model_type!r}"
        )
    return found or _made(config, config.model_type, False)


def _table(model_type: str) -> Family | None:
    return next((family for family in FAMILIES if model_type in family.model_types), None)


_TASKS = ("SEQUENCE_CLASSIFICATION", "CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM")


def _auto(task: str) -> dict[str, Any]:
    """Model types that transformers' auto class for this task knows."""
    from transformers.models.auto import modeling_auto

    names: dict[str, Any] = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")
    return names


def _made(config: Any, name: str, writes: bool) -> Family:
    """A family without a table. Of one stack, a decoder writes, or is known for that and not for filling in masks."""
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        stacks: tuple[str, ...] = ("encoder", "decoder")
    else:
        causal = kind in _auto("CAUSAL_LM") and kind not in _auto("MASKED_LM")
        stacks = ("decoder",) if writes or causal or getattr(config, "is_decoder", False) else ("encoder",)
    return Family(kind or name, (kind,), (), stacks)


def positions(model: nn.Module) -> list[Position]:
    """Every position of a model, in the order of its modules: by its family's table, or else read off the model.

    Raises:
        BackboneError: a table that matches nothing in this model, or a model in which no layers are found.
    """
    family = family_of(model)
    if not family.rules:
        discovered = discover(model, family.stacks).positions
        if not any(p.kind == "linear" for p in discovered):
            raise BackboneError(f"backbone: found no numbered layers with linear layers in {type(model).__name__}")
        return discovered
    hidden = hidden_size(model)
    found = []
    for name, target in base_of(model).named_modules():
        for rule in family.rules:
            match = rule.pattern.fullmatch(name)
            if not match:
                continue
            width = widths(target) if rule.kind != "block" else (hidden, hidden)
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
