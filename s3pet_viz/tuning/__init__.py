"""Train and evaluate one structure, and the baselines it is compared with; say what each of its gates is worth."""

from s3pet_viz.tuning.api import baselines, summary, tune
from s3pet_viz.tuning.train import TuneConfig
from s3pet_viz.tuning.workbench import Scores, Workbench

__all__ = ["Scores", "TuneConfig", "Workbench", "baselines", "summary", "tune"]
