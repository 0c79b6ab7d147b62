"""Train and evaluate one structure, and the baselines it is compared with."""

from s3pet_viz.tuning.api import Scores, Workbench, baselines, summary, tune
from s3pet_viz.tuning.train import TuneConfig

__all__ = ["Scores", "TuneConfig", "Workbench", "baselines", "summary", "tune"]
