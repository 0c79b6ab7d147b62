"""Train and evaluate a structure, and the baselines it is compared with; say what each of its gates is worth."""

from s3pet_viz.tuning.api import baselines, summary, tune
from s3pet_viz.tuning.one_pass import ONE_PASS, ONE_PASS_METHODS, OnePassScores, one_pass_scores, one_pass_structure
from s3pet_viz.tuning.scoring import score
from s3pet_viz.tuning.workbench import Workbench

__all__ = [
    "ONE_PASS",
    "ONE_PASS_METHODS",
    "OnePassScores",
    "Workbench",
    "baselines",
    "one_pass_scores",
    "one_pass_structure",
    "score",
    "summary",
    "tune",
]
