"""What studies found: their folders opened, tidy tables, statistics. No torch, no plotly."""

from s3pet_viz.analysis.study import Study, open_study
from s3pet_viz.analysis.transfer import Transfer

__all__ = ["Study", "Transfer", "open_study"]
