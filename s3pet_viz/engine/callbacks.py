"""Hooks into a running search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from s3pet_viz.config.search import SearchConfig
from s3pet_viz.engine.stability import Stability
from s3pet_viz.engine.state import State, StepResult
from s3pet_viz.runs.writer import RunWriter
from s3pet_viz.structure import Gate, Structure
from s3pet_viz.training.processes import SilentWriter


class RunningSearch(Protocol):
    """What a callback sees of a search.

    Attributes:
        config, gates, state: of the search; ``step`` is the next one.
        writer: the run directory's writer.
        stability: how long the selected structure has been the same.
        stop_reason: why the search is to stop early, or None.
        p: gate probabilities after the last step, float64, shape (n_gates,). step_seconds: that it took. lr: learning
            rate of the PET weights in it.
    """

    config: SearchConfig
    gates: tuple[Gate, ...]
    state: State
    step: int
    writer: RunWriter | SilentWriter
    stability: Stability
    stop_reason: str | None
    p: np.ndarray
    step_seconds: float
    lr: float

    def request_stop(self, reason: str) -> None:
        """End the search after the present step; it can be resumed."""

    def structure(self) -> Structure:
        """The structure at the present alpha."""


class Callback:
    """Subclass what you need. Each hook may call ``search.request_stop(reason)``."""

    def on_search_begin(self, search: RunningSearch) -> None:
        """After the run directory exists, before the first step."""

    def on_step_end(self, search: RunningSearch, step: int, result: StepResult) -> None:
        """After each step has been recorded."""

    def on_evaluation(self, search: RunningSearch, record: Mapping[str, Any]) -> None:
        """After each evaluation has been recorded (`record`), before its step's `on_step_end`."""

    def on_search_end(self, search: RunningSearch) -> None:
        """After the last step, however the search ended; its status is set."""
