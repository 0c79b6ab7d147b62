"""The bi-level search."""

from s3pet_viz.config.search import SearchConfig
from s3pet_viz.engine.api import search
from s3pet_viz.engine.callbacks import Callback

__all__ = ["Callback", "SearchConfig", "search"]
