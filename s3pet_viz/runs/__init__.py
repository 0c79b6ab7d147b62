"""The run directory: the only thing that a search and its views share."""

from s3pet_viz.runs.reader import Run, open_run
from s3pet_viz.runs.writer import RunWriter

__all__ = ["Run", "RunWriter", "open_run"]
