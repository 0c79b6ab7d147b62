"""The backbone that an export works on: the caller's own is copied and left as it was, one that is named is loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from s3pet_viz.analysis.measures import need_sizes
from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.check import check_bare
from s3pet_viz.backbones.families import position_at
from s3pet_viz.backbones.position import Position, base_of
from s3pet_viz.backbones.quantised import is_quantised, plain_copy
from s3pet_viz.errors import BackboneError, ConfigError, ExportError
from s3pet_viz.export.adapter import Adapter
from s3pet_viz.export.folder import META, WEIGHTS
from s3pet_viz.files import expanded, is_there
from s3pet_viz.resources import find_resource
from s3pet_viz.sources import A_SOURCE, open_source, structure_of
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
        """The same in float32 where it is of half precision or quantised: there, a check could not tell an error from
        rounding."""
        if is_quantised(self.model):
            return Host(plain_copy(self.model), self.tokenizer, False)
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
        found = {gate: position_at(self.model, gate) for gate in structure.gates}
        return {gate: site for gate, site in found.items() if site is not None}


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
        ask = getattr(model, "get_input_embeddings", lambda: None)
        if not hasattr(ask(), "num_embeddings"):
            raise ExportError(
                "backbone: expected a model of transformers that reads tokens, on which an export is checked, found "
                f"{type(model).__name__}; its adapter can be attached: Adapter.attach(model)"
            )
        return Host(model, backbone.tokenizer if isinstance(backbone, Backbone) else None, True)
    if isinstance(source, Adapter):
        made = source.load_backbone(backbone, dtype="auto")
    else:
        from s3pet_viz.backbones import load_backbone

        if not (backbone or source.backbone):
            raise ExportError("structure: field 'backbone': expected a name, found none; give backbone=")
        made = load_backbone(backbone or source.backbone, dtype="auto")
    return Host(made.model, made.tokenizer, False)


def read_source(source: Any, *, budget: Any = None, backbone: Any = None) -> Adapter | Structure:
    """An adapter (or its folder, or its name on the hub), or the structure of what `open_source` opens.

    Args:
        budget: of a run: the structure that it gives at this budget. backbone: as of `open_source`.
    """
    if isinstance(source, Adapter) or _names_adapter(source):
        if budget is not None:
            raise ConfigError("budget: only a run can be solved again at another budget, for it keeps its alpha")
        return source if isinstance(source, Adapter) else Adapter.from_pretrained(source)
    opened = open_source(source, wanted=f"an adapter, {A_SOURCE}", backbone=backbone)
    structure = structure_of(opened, budget)
    need_sizes(structure.gates, "export")
    return structure


def read_adapter(source: Any, what: str) -> Adapter:
    """An adapter, its folder, or its name on the hub.

    Raises:
        SourceError: something else, such as a run. AdapterError: nothing is there, or it is damaged.
    """
    if _names_adapter(source, alone=True):
        return Adapter.from_pretrained(source)
    wanted, hint = "an adapter with trained weights", ": tune it with save="
    made: Adapter = open_source(source, allow=(Adapter,), what=what, wanted=wanted, hint=hint)
    return made


def _names_adapter(source: Any, *, alone: bool = False) -> bool:
    """Whether a path or a name means an adapter; `alone`: also where nothing is there, for nothing else is expected."""
    if not isinstance(source, (str, Path)) or not str(source):
        return False
    if is_there(source):
        return any(is_there(expanded(source) / name) for name in (META, WEIGHTS))
    if find_resource("runs", str(source)):
        return False
    return alone or (isinstance(source, str) and source.count("/") == 1 and source[0] not in "./~")


def named(gates: dict[Gate, str]) -> str:
    """Gates with what is wrong about each, a line per reason."""
    by_reason: dict[str, list[str]] = {}
    for gate, reason in gates.items():
        by_reason.setdefault(reason, []).append(gate.name)
    return "\n".join(f"  {reason}: {', '.join(names)}" for reason, names in by_reason.items())
