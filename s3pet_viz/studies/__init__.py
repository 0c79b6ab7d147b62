"""Studies: many searches and trainings planned as cells, run by any executor, each exactly once."""

from s3pet_viz.studies.cells import Cell
from s3pet_viz.studies.runner import run_cells

__all__ = ["Cell", "run_cells"]
