"""Gates, budgets and structures: the nouns of the package. NumPy and SciPy only."""

from s3pet_viz.structure.budget import parse_budget, probabilities, select, solve_shift
from s3pet_viz.structure.gate import PET_TYPES, Gate, column_label
from s3pet_viz.structure.structure import Structure

__all__ = [
    "PET_TYPES",
    "Gate",
    "Structure",
    "column_label",
    "parse_budget",
    "probabilities",
    "select",
    "solve_shift",
]
