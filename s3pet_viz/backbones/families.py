"""One small table of names per backbone family: which module is what, in the canonical vocabulary.

To add a family, add one `Family` to `FAMILIES` and its tiny config to ``tests/backbones/test_families.py``.

Canonical modules: ``SelfAttn.Q/K/V/O``, ``CrossAttn.Q/K/V/O``, ``FFN.W1``, ``FFN.W2`` (and ``FFN.W1.gate`` where the
feed-forward block is gated), the blocks ``SelfAttn``, ``CrossAttn``, ``FFN`` (their output before the residual
addition), and the norms ``Emb.LN``, ``SelfAttn.LN``, ``CrossAttn.LN``, ``FFN.LN``, ``Final.LN``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from torch import nn

from s3pet_viz.errors import BackboneError
from s3pet_viz.structure.gate import EMBEDDING_LAYER

Kind = Literal["linear", "norm", "block"]


@dataclass(frozen=True)
class Rule:
    """`pattern` matches a whole module name relative to the base model; group ``layer`` is its block."""

    pattern: str
    module: str
    kind: Kind
    stack: str = "encoder"


@dataclass(frozen=True)
class Family:
    """A family of backbones: the ``model_type`` values of its configs and its table of names."""

    name: str
    model_types: tuple[str, ...]
    rules: tuple[Rule, ...]


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


def _t5() -> Family:
    rules: list[Rule] = []
    for stack, ffn in (("encoder", 1), ("decoder", 2)):
        block = rf"{stack}\.block\.(?P<layer>\d+)\.layer"
        attention = [("SelfAttn", rf"{block}\.0\.SelfAttention", 0)]
        if stack == "decoder":
            attention.append(("CrossAttn", rf"{block}\.1\.EncDecAttention", 1))
        for name, path, index in attention:
            rules += [Rule(rf"{path}\.{x}", f"{name}.{x.upper()}", "linear", stack) for x in "qkvo"]
            rules.append(Rule(path, name, "block", stack))
            rules.append(Rule(rf"{block}\.{index}\.layer_norm", f"{name}.LN", "norm", stack))
        dense = rf"{block}\.{ffn}\.DenseReluDense"
        rules += [
            Rule(rf"{dense}\.(wi|wi_1)", "FFN.W1", "linear", stack),
            Rule(rf"{dense}\.wi_0", "FFN.W1.gate", "linear", stack),
            Rule(rf"{dense}\.wo", "FFN.W2", "linear", stack),
            Rule(dense, "FFN", "block", stack),
            Rule(rf"{block}\.{ffn}\.layer_norm", "FFN.LN", "norm", stack),
            Rule(rf"{stack}\.final_layer_norm", "Final.LN", "norm", stack),
        ]
    return Family("t5", ("t5", "mt5"), tuple(rules))


def _bert() -> Family:
    layer = r"encoder\.layer\.(?P<layer>\d+)"
    return Family(
        "bert",
        ("bert", "roberta", "xlm-roberta", "camembert", "electra"),
        (
            Rule(rf"{layer}\.attention\.self\.query", "SelfAttn.Q", "linear"),
            Rule(rf"{layer}\.attention\.self\.key", "SelfAttn.K", "linear"),
            Rule(rf"{layer}\.attention\.self\.value", "SelfAttn.V", "linear"),
            Rule(rf"{layer}\.attention\.output\.dense", "SelfAttn.O", "linear"),
            # The residual is added inside attention.output, so the block's output is its dense layer's.
            Rule(rf"{layer}\.attention\.output\.dense", "SelfAttn", "block"),
            Rule(rf"{layer}\.attention\.output\.LayerNorm", "SelfAttn.LN", "norm"),
            Rule(rf"{layer}\.intermediate\.dense", "FFN.W1", "linear"),
            Rule(rf"{layer}\.output\.dense", "FFN.W2", "linear"),
            Rule(rf"{layer}\.output\.dense", "FFN", "block"),
            Rule(rf"{layer}\.output\.LayerNorm", "FFN.LN", "norm"),
            Rule(r"embeddings\.LayerNorm", "Emb.LN", "norm"),
        ),
    )


#: The one place to add a backbone family.
FAMILIES: tuple[Family, ...] = (_t5(), _bert())


def family_of(model: nn.Module) -> Family:
    """The family of a transformers model.

    Raises:
        BackboneError: its ``model_type`` is in no table.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(t for f in FAMILIES for t in f.model_types)
    raise BackboneError(
        f"backbone: expected a model of a known family ({known}), found {model_type!r}; "
        "a family is one table in s3pet_viz/backbones/families.py"
    )


def base_of(model: nn.Module) -> nn.Module:
    """The backbone proper, without the task's head: what position names are relative to."""
    base = getattr(model, "base_model", model)
    return base if isinstance(base, nn.Module) else model


def positions(model: nn.Module) -> list[Position]:
    """Every position of a model, in the order of its modules.

    Raises:
        BackboneError: unknown family, or a table that matches nothing in this model.
    """
    family = family_of(model)
    rules = [(re.compile(r.pattern), r) for r in family.rules]
    hidden = _hidden_size(model)
    found = []
    for name, target in base_of(model).named_modules():
        for pattern, rule in rules:
            match = pattern.fullmatch(name)
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
    return [
        Position(
            name=name,
            target=target,
            stack=rule.stack,
            layer=int(layer) if layer else (EMBEDDING_LAYER if rule.module.startswith("Emb.") else depth[rule.stack]),
            module=rule.module,
            kind=rule.kind,
            in_features=width[0],
            out_features=width[1],
        )
        for name, target, rule, layer, width in found
    ]


def _hidden_size(model: nn.Module) -> int:
    config = model.config
    return int(getattr(config, "d_model", None) or config.hidden_size)  # type: ignore[union-attr, arg-type]


def _widths(target: nn.Module) -> tuple[int, int]:
    if isinstance(target, nn.Linear):
        return target.in_features, target.out_features
    weight = getattr(target, "weight", None)
    if weight is None or weight.ndim != 1:
        raise BackboneError(f"backbone: expected a linear layer or a norm, found {type(target).__name__}")
    return weight.shape[0], weight.shape[0]
