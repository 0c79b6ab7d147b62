"""Loading backbones, and the positions that their modules are."""

from s3pet_viz.backbones.backbone import Backbone
from s3pet_viz.backbones.families import FAMILIES, family_of, positions
from s3pet_viz.backbones.load import load_backbone
from s3pet_viz.backbones.position import Position, is_conv1d
from s3pet_viz.backbones.wrap import wrap_backbone
from s3pet_viz.structure.tables import Family

__all__ = [
    "FAMILIES",
    "Backbone",
    "Family",
    "Position",
    "family_of",
    "is_conv1d",
    "load_backbone",
    "positions",
    "wrap_backbone",
]
