"""``s3.positions``: what a search can choose from in a backbone, and what it leaves out."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from s3pet_viz.analysis._table import html_table
from s3pet_viz.backbones.backbone import Backbone
from s3pet_viz.backbones.discovery import discover
from s3pet_viz.backbones.families import family_of, read, reads_text
from s3pet_viz.backbones.load import without_weights
from s3pet_viz.backbones.position import Position, base_of
from s3pet_viz.backbones.quantised import count
from s3pet_viz.errors import BackboneError
from s3pet_viz.structure.tables import read_family

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


def sized(backbone: Backbone | nn.Module | str | Path, *, revision: str | None = None, family: Any = None) -> Sized:
    """Size and positions of a backbone that is loaded, of a model in memory, or of a name (no weights are read).
    `family`: as of `positions`; a loaded backbone has its own.

    Raises:
        BackboneError, ConfigError, MissingExtraError: as `positions`.
    """
    if isinstance(backbone, Backbone):
        return Sized(backbone.name, backbone.n_params, tuple(backbone.positions()))
    if isinstance(backbone, nn.Module):
        model, name = backbone, getattr(getattr(backbone, "config", None), "_name_or_path", "")
    else:
        if not isinstance(backbone, str | Path):
            raise BackboneError(f"backbone: expected a name, a folder or a model, found {type(backbone).__name__}")
        model, name = without_weights(backbone, revision=revision), str(backbone)
    known = family_of(model, None if family is None else read_family(family))
    writes = getattr(model, "can_generate", None)
    text = not known.encoder_only and bool(writes and writes())
    size = count((model if text else base_of(model)).parameters())
    return Sized(name or type(model).__name__, size, tuple(read(model, known).positions))


def positions(backbone: str | Path | nn.Module, *, revision: str | None = None, family: Any = None) -> Positions:
    """Where PET modules can go in a backbone, and what is left out and why.

    Args:
        backbone: a name as of `load_backbone`, of which no weights are read, or any model in memory.
        revision: branch, tag or commit for a Hugging Face name.
        family: a table for it, a mapping or a YAML or JSON file (`structure.tables.read_family`).

    Raises:
        BackboneError: no such backbone, no layers found in it, or a table that does not fit it.
        ConfigError: a revision for a folder, or a table that cannot be used.
        MissingExtraError: ``minilm`` without its extra.
    """
    table = None if family is None else read_family(family)
    if isinstance(backbone, nn.Module):
        model, name = backbone, type(backbone).__name__
    else:
        model, name = without_weights(backbone, revision=revision), str(backbone)
    known = family_of(model, table)
    found = read(model, known)
    left = found.left_out
    if known.whole:
        everything, ours = discover(model, known.stacks, text=reads_text(model)), {p.name for p in found.positions}
        outside = {p.name: f"not in {known.where}" for p in everything.positions if p.name not in ours}
        left = everything.left_out | outside | left
    source = f"named by {known.where}" if known.rules else "read off the model"
    if known.rules and not known.whole:
        source += ", the rest read off the model"
    return Positions(name, tuple(found.positions), left, source)
