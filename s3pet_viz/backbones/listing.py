"""``s3.positions``: what a search can choose from in a backbone, and what it leaves out."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from s3pet_viz.analysis._table import html_table
from s3pet_viz.backbones.backbone import Backbone
from s3pet_viz.backbones.discovery import discover
from s3pet_viz.backbones.families import family_of
from s3pet_viz.backbones.families import positions as positions_of
from s3pet_viz.backbones.load import without_weights
from s3pet_viz.backbones.position import Position, base_of

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("position", "stack", "layer", "module", "kind", "in", "out")


@dataclass(frozen=True, repr=False)
class Positions:
    """The positions of a backbone.

    Attributes:
        backbone: its name, or its class's.
        positions: in the order of its modules.
        left_out: linear layers, norms and other modules with weights that are no position: name -> reason.
        source: the table that names them, or that they are read off the model.
    """

    backbone: str
    positions: tuple[Position, ...]
    left_out: dict[str, str]
    source: str

    def table(self) -> pd.DataFrame:
        """One row per position: position (the module's name), stack, layer, module (its canonical name), kind, in, out
        (widths). Layer -1 is in front of the layers; a final norm has the number of layers.
        """
        import pandas as pd

        return pd.DataFrame(self._rows(), columns=pd.Index(_COLUMNS))

    def _rows(self) -> list[tuple[str, str, int, str, str, int, int]]:
        return [(p.name, p.stack, p.layer, p.module, p.kind, p.in_features, p.out_features) for p in self.positions]

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        return f"Positions({self.backbone}: {len(self):,}, {self.source}; {len(self.left_out):,} modules left out)"

    def _repr_html_(self) -> str:
        made = f"<p>{html.escape(repr(self))}</p>{html_table(_COLUMNS, [tuple(map(str, r)) for r in self._rows()])}"
        return made + (html_table(("left out", "because"), list(self.left_out.items())) if self.left_out else "")


@dataclass(frozen=True)
class Sized:
    """What is known of a backbone without its weights: `n_params` as of `Backbone`, and its positions."""

    name: str
    n_params: int
    positions: tuple[Position, ...]


def sized(backbone: Backbone | nn.Module | str | Path, *, revision: str | None = None) -> Sized:
    """Size and positions of a backbone that is loaded, of a model in memory, or of a name (no weights are read).

    Raises:
        BackboneError, ConfigError, MissingExtraError: as `positions`.
    """
    if isinstance(backbone, Backbone):
        return Sized(backbone.name, backbone.n_params, tuple(positions_of(backbone.model)))
    if isinstance(backbone, nn.Module):
        model, name = backbone, getattr(getattr(backbone, "config", None), "_name_or_path", "")
    else:
        model, name = without_weights(backbone, revision=revision), str(backbone)
    family = family_of(model)
    text = not family.encoder_only and bool(model.can_generate())  # type: ignore[operator]
    size = sum(p.numel() for p in (model if text else base_of(model)).parameters())
    return Sized(name or type(model).__name__, size, tuple(positions_of(model)))


def positions(backbone: str | Path | nn.Module, *, revision: str | None = None) -> Positions:
    """Where PET modules can go in a backbone, and what is left out and why.

    Args:
        backbone: a name as of `load_backbone`, of which no weights are read, or a transformers model in memory.
        revision: branch, tag or commit for a Hugging Face name.

    Raises:
        BackboneError: no such backbone, not a model of transformers, or no layers found in it.
        ConfigError: a revision for a folder.
        MissingExtraError: ``minilm`` without its extra.
    """
    if isinstance(backbone, nn.Module):
        model, name = backbone, type(backbone).__name__
    else:
        model, name = without_weights(backbone, revision=revision), str(backbone)
    family, found = family_of(model), positions_of(model)
    read = discover(model, family.stacks)
    left = dict(read.left_out)
    if family.rules:
        ours = {p.name for p in found}
        left |= {p.name: f"not in the table of {family.name}" for p in read.positions if p.name not in ours}
    source = f"named by the table of {family.name}" if family.rules else "read off the model"
    return Positions(name, tuple(found), left, source)
