"""The bi-level search."""

from s3pet_viz.search.api import search
from s3pet_viz.search.callbacks import Callback
from s3pet_viz.search.config import SearchConfig

__all__ = ["Callback", "SearchConfig", "search"]
