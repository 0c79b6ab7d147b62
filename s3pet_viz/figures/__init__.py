"""Figures of runs and structures: pure functions that return a plotly Figure and never show it."""

from s3pet_viz.figures.agreement import agreement, agreement_table
from s3pet_viz.figures.budget_path import budget_path, budget_path_table
from s3pet_viz.figures.budgets import budgets, budgets_table
from s3pet_viz.figures.caption import caption
from s3pet_viz.figures.compare import compare, compare_table
from s3pet_viz.figures.consensus import consensus, consensus_structure, consensus_table
from s3pet_viz.figures.curves import curves, curves_table
from s3pet_viz.figures.cut import cut, cut_table
from s3pet_viz.figures.difference import difference, difference_table
from s3pet_viz.figures.forest import forest, forest_table
from s3pet_viz.figures.heatmap import heatmap, heatmap_table
from s3pet_viz.figures.importance import importance, importance_table
from s3pet_viz.figures.modules import modules, modules_table
from s3pet_viz.figures.multiples import multiples, multiples_table
from s3pet_viz.figures.overlap import overlap, overlap_table
from s3pet_viz.figures.save import save
from s3pet_viz.figures.sums import sums, sums_table
from s3pet_viz.figures.trace import trace, trace_table
from s3pet_viz.figures.transfer import transfer, transfer_table
from s3pet_viz.figures.ways import ways, ways_table

__all__ = [
    "agreement",
    "agreement_table",
    "budget_path",
    "budget_path_table",
    "budgets",
    "budgets_table",
    "caption",
    "compare",
    "compare_table",
    "consensus",
    "consensus_structure",
    "consensus_table",
    "curves",
    "curves_table",
    "cut",
    "cut_table",
    "difference",
    "difference_table",
    "forest",
    "forest_table",
    "heatmap",
    "heatmap_table",
    "importance",
    "importance_table",
    "modules",
    "modules_table",
    "multiples",
    "multiples_table",
    "overlap",
    "overlap_table",
    "save",
    "sums",
    "sums_table",
    "trace",
    "trace_table",
    "transfer",
    "transfer_table",
    "ways",
    "ways_table",
]
