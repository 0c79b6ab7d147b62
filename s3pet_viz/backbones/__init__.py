"""Loading backbones, and the tables that name their modules."""

from s3pet_viz.backbones.backbone import Backbone
from s3pet_viz.backbones.families import Position, family_of, is_conv1d, positions
from s3pet_viz.backbones.load import load_backbone, wrap_backbone
from s3pet_viz.backbones.tables import FAMILIES, Family

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
