"""The runs that can be compared; see `runs.listing`."""

from s3pet_viz.runs.listing import ALL, FIELDS, Runs, _number, fact
from s3pet_viz.runs.listing import Listing as Shelf

__all__ = ["ALL", "FIELDS", "Runs", "Shelf", "_number", "fact"]
