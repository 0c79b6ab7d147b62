"""Live and interactive views for notebooks. They read run directories and write control requests; nothing else."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from s3pet_viz.errors import MissingExtraError

if TYPE_CHECKING:
    from s3pet_viz.widgets.compare import CompareRuns as CompareRuns
    from s3pet_viz.widgets.live import LiveView as LiveView
    from s3pet_viz.widgets.live import StructureExplorer as StructureExplorer
    from s3pet_viz.widgets.live import watch as watch
    from s3pet_viz.widgets.runs import RunBrowser as RunBrowser
    from s3pet_viz.widgets.search import LiveSearch as LiveSearch
    from s3pet_viz.widgets.transfer import TransferExplorer as TransferExplorer

_HOME = {
    "LiveSearch": "search",
    "LiveView": "live",
    "watch": "live",
    "StructureExplorer": "live",
    "CompareRuns": "compare",
    "TransferExplorer": "transfer",
    "RunBrowser": "runs",
}

__all__ = ["CompareRuns", "LiveSearch", "LiveView", "RunBrowser", "StructureExplorer", "TransferExplorer", "watch"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for needed in ("ipywidgets", "anywidget"):
        try:
            importlib.import_module(needed)
        except ImportError:
            raise MissingExtraError(
                f"the interactive views need {needed}, which is not installed: pip install 's3pet_viz[notebook]'"
            ) from None
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
