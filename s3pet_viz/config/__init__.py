"""Every option of a search and a training: its name, default, help, bounds and choices. No torch."""

from s3pet_viz.config.search import SearchConfig
from s3pet_viz.config.tuning import TuneConfig

__all__ = ["SearchConfig", "TuneConfig"]
