"""T5's position names and widths, so that a published file can be read where no model (and no torch) is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from s3pet_viz.structure.gate import Gate
from s3pet_viz.structure.tables import Kind, Rule, families


class Place(NamedTuple):
    """What a position's name says: stack, block number (None for the stack's final norm), module, kind."""

    stack: str
    layer: int | None
    module: str
    kind: Kind

    def gate(self, index: int, name: str, depth: Mapping[str, int], pet_type: str, size: int, options: Any) -> Gate:
        """A gate here, `name` being the position's; the final norm stands behind the blocks, `depth` of its stack."""
        layer = depth[self.stack] if self.layer is None else self.layer
        return Gate(index, name, self.stack, layer, self.module, pet_type, size, dict(options))


@dataclass(frozen=True)
class T5Shape:
    """The widths that sizes follow from.

    Attributes:
        d_model, d_ff: width of the residual stream and of the feed-forward block.
        inner: heads times the width of a head.
        n_encoder, n_decoder: blocks of each stack.
        backbone_params: parameters of the whole backbone; 0 = not known.
        gated: whether the feed-forward block has wi_0 and wi_1 in place of wi.
    """

    d_model: int
    d_ff: int
    inner: int
    n_encoder: int
    n_decoder: int
    backbone_params: int = 0
    gated: bool = False

    def depth(self, stack: str) -> int:
        return self.n_encoder if stack == "encoder" else self.n_decoder

    def widths(self, place: Place) -> tuple[int, int]:
        """Input and output width of a position."""
        part = place.module.rpartition(".")[2]
        if place.module.startswith("FFN.W"):
            return (self.d_ff, self.d_model) if part == "W2" else (self.d_model, self.d_ff)
        if place.kind == "linear":
            return (self.inner, self.d_model) if part == "O" else (self.d_model, self.inner)
        return self.d_model, self.d_model

    def positions(self) -> list[str]:
        """Every position of the backbone, in the order of its modules."""
        absent = ("wi",) if self.gated else ("wi_0", "wi_1")
        names: list[str] = []
        for stack in ("encoder", "decoder"):
            own = [rule.name for rule in _rules() if rule.stack == stack and not rule.name.endswith(absent)]
            names += [name.format(n=n) for n in range(self.depth(stack)) for name in own if "{n}" in name]
            names += [name for name in own if "{n}" not in name]
        return names


#: The published T5 models (Raffel et al. 2020) and this project's own; other names need a `T5Shape`.
SHAPES: Mapping[str, T5Shape] = {
    "t5-small": T5Shape(512, 2048, 512, 6, 6, 60_506_624),
    "t5-base": T5Shape(768, 3072, 768, 12, 12, 222_903_552),
    "t5-large": T5Shape(1024, 4096, 1024, 24, 24, 737_668_096),
    "t5-3b": T5Shape(1024, 16384, 4096, 24, 24, 2_851_598_336),
    "t5-11b": T5Shape(1024, 65536, 16384, 24, 24, 11_307_321_344),
    "tiny-t5": T5Shape(128, 512, 128, 4, 4, 2_053_376),
}


def shape_of(backbone: str) -> T5Shape | None:
    """The shape of a known backbone; a path or an owner in front (``google-t5/t5-large``) does not matter."""
    return SHAPES.get(re.split(r"[/\\]", backbone.rstrip("/\\"))[-1].lower())


def parse_position(name: str) -> Place | None:
    """What a T5 position's name says; None where it is no such name."""
    for rule in _rules():
        if match := rule.pattern.fullmatch(name):
            layer = match.groupdict().get("layer")
            return Place(rule.stack, None if layer is None else int(layer), rule.module, rule.kind)
    return None


def _rules() -> tuple[Rule, ...]:
    return next(family.rules for family in families() if family.name == "t5")
