"""Train and evaluate one structure, and the baselines and cheap rivals it is compared with; say what each of its gates
is worth.
"""

from s3pet_viz.tuning.api import baselines, summary, tune
from s3pet_viz.tuning.rivals import RIVAL_METHODS, RIVALS, RivalScores, rival_scores, rival_structure
from s3pet_viz.tuning.train import TuneConfig
from s3pet_viz.tuning.workbench import Scores, Workbench

__all__ = [
    "RIVALS",
    "RIVAL_METHODS",
    "RivalScores",
    "Scores",
    "TuneConfig",
    "Workbench",
    "baselines",
    "rival_scores",
    "rival_structure",
    "summary",
    "tune",
]
