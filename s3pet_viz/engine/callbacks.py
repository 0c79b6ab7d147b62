"""Hooks into a running search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from s3pet_viz.engine.modes import StepResult

if TYPE_CHECKING:
    from s3pet_viz.engine.loop import Search


class Callback:
    """Subclass what you need. Each hook may call ``search.request_stop(reason)``."""

    def on_search_begin(self, search: Search) -> None:
        """After the run directory exists, before the first step."""

    def on_step_end(self, search: Search, step: int, result: StepResult) -> None:
        """After each step has been recorded."""

    def on_evaluation(self, search: Search, record: Mapping[str, Any]) -> None:
        """After each evaluation has been recorded (`record`), before its step's `on_step_end`."""

    def on_search_end(self, search: Search) -> None:
        """After the last step, however the search ended; its status is set."""
