"""Loading backbones, and the tables that name their modules."""

from s3pet_viz.backbones.families import FAMILIES, Family, Position, family_of, positions
from s3pet_viz.backbones.load import Backbone, load_backbone, wrap_backbone

__all__ = [
    "FAMILIES",
    "Backbone",
    "Family",
    "Position",
    "family_of",
    "load_backbone",
    "positions",
    "wrap_backbone",
]
