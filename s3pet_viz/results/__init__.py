"""What studies found: their folders opened, tidy tables, statistics. No torch, no plotly."""

from s3pet_viz.results.study import Study, open_study
from s3pet_viz.results.transfer import Transfer

__all__ = ["Study", "Transfer", "open_study"]
