"""Figures of runs and structures: pure functions that return a plotly Figure and never show it."""

from s3pet_viz.figures.heatmap import heatmap, heatmap_table
from s3pet_viz.figures.trace import trace, trace_table

__all__ = ["heatmap", "heatmap_table", "trace", "trace_table"]
