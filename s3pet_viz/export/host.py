"""The backbone that an export works on: the caller's own is copied and left as it was, one that is named is loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from s3pet_viz.backbones import Backbone, positions
from s3pet_viz.backbones.check import check_bare
from s3pet_viz.backbones.families import Position, base_of
from s3pet_viz.errors import BackboneError, ExportError
from s3pet_viz.export.adapter import Adapter
from s3pet_viz.files import is_folder, is_there
from s3pet_viz.structure import Gate, Structure


class Host(NamedTuple):
    """A model, its tokenizer (None where only a model was given), and whether it is the caller's own."""

    model: Any
    tokenizer: Any
    borrowed: bool

    def copy(self) -> nn.Module:
        """A model that may be changed."""
        made: nn.Module = copy.deepcopy(self.model) if self.borrowed else self.model
        return made

    def precise(self) -> Host:
        """The same in float32 where it is of half precision: there, a check could not tell an error from rounding."""
        if all(p.dtype.itemsize >= 4 for p in self.model.parameters()):
            return self
        return Host(self.copy().float(), self.tokenizer, False)

    @property
    def prefix(self) -> str:
        """What stands before a position's name in the names of this model's modules."""
        base = base_of(self.model)
        name = next(n for n, m in self.model.named_modules() if m is base)
        return f"{name}." if name else ""

    def sites(self, structure: Structure) -> dict[Gate, Position]:
        """The position of each gate; `insert` has found them all."""
        found = {(p.name, p.module): p for p in positions(self.model)}
        return {gate: found[gate.position, gate.module] for gate in structure.gates}


def host_of(source: Adapter | Structure, backbone: Any) -> Host:
    """The backbone to export from. `backbone`: loaded, a transformers model, a name or folder, or None: the one that
    `source` names. Raises BackboneError: it cannot be loaded. ExportError: nobody says which, or PET modules are
    attached to it.
    """
    if isinstance(backbone, (Backbone, nn.Module)):
        model = backbone.model if isinstance(backbone, Backbone) else backbone
        try:
            check_bare(model)
        except BackboneError as error:
            raise ExportError(str(error)) from None
        return Host(model, backbone.tokenizer if isinstance(backbone, Backbone) else None, True)
    if isinstance(source, Adapter):
        made = source.load_backbone(backbone, dtype="auto")
    else:
        from s3pet_viz.backbones import load_backbone

        if not (backbone or source.backbone):
            raise ExportError("structure: field 'backbone': expected a name, found none; give backbone=")
        made = load_backbone(backbone or source.backbone, dtype="auto")
    return Host(made.model, made.tokenizer, False)


def read_source(source: Any) -> Adapter | Structure:
    """An adapter or a structure, read from a folder, a file or the hub where it is a name."""
    if isinstance(source, (Adapter, Structure)):
        return source
    if not isinstance(source, (str, Path)):
        raise ExportError(f"source: expected an Adapter, a Structure or a path, found {type(source).__name__}")
    return Structure.load(source) if is_there(source) and not is_folder(source) else Adapter.from_pretrained(source)


def named(gates: dict[Gate, str]) -> str:
    """Gates with what is wrong about each, a line per reason."""
    by_reason: dict[str, list[str]] = {}
    for gate, reason in gates.items():
        by_reason.setdefault(reason, []).append(f"{gate.position} {gate.pet_type}")
    return "\n".join(f"  {reason}: {', '.join(names)}" for reason, names in by_reason.items())
