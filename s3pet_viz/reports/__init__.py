"""A run, or several, as one static HTML file that needs no network."""

from s3pet_viz.reports.build import report

__all__ = ["report"]
