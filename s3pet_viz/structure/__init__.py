"""Gates, budgets and structures: the nouns of the package. NumPy and SciPy only."""

from s3pet_viz.structure.alphas import FinalAlphas, read_final_alphas
from s3pet_viz.structure.budget import (
    Selection,
    parse_budget,
    probabilities,
    ranks,
    select,
    select_with_fill,
    solve_shift,
)
from s3pet_viz.structure.gate import PET_TYPES, Gate, column_label, pet_type_order
from s3pet_viz.structure.published import from_s3delta, to_s3delta
from s3pet_viz.structure.structure import Structure
from s3pet_viz.structure.t5 import T5Shape

__all__ = [
    "PET_TYPES",
    "FinalAlphas",
    "Gate",
    "Selection",
    "Structure",
    "T5Shape",
    "column_label",
    "from_s3delta",
    "parse_budget",
    "pet_type_order",
    "probabilities",
    "ranks",
    "read_final_alphas",
    "select",
    "select_with_fill",
    "solve_shift",
    "to_s3delta",
]
