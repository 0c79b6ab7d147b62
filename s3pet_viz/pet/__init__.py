"""PET modules, search spaces, and their insertion into a backbone."""

from s3pet_viz.pet.insertion import PETs, insert
from s3pet_viz.pet.modules import PET_CLASSES
from s3pet_viz.pet.space import PRESETS, Space, SpaceEntry, candidate_gates, load_space

__all__ = ["PETs", "PET_CLASSES", "PRESETS", "Space", "SpaceEntry", "candidate_gates", "insert", "load_space"]
