"""Runs to look at: small ones with known numbers, and the means to let one grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from widget_runs import Growing, space

from s3pet_viz.runs import Run
from s3pet_viz.structure import Gate


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[Callable[..., Growing]]:
    made: list[Growing] = []

    def make(folder: str = "run", /, *, gates: list[Gate] | None = None, **facts: Any) -> Growing:
        run = Growing(tmp_path / folder, gates or space(3, 2), **facts)
        made.append(run)
        return run

    yield make
    for run in made:
        run.writer.close()


@pytest.fixture
def finished(growing: Callable[..., Growing]) -> Callable[..., Run]:
    """A finished run of 8 steps."""

    def make(folder: str = "run", /, *, steps: int = 8, **facts: Any) -> Run:
        run = growing(folder, **facts)
        run.write(steps)
        return run.end()

    return make
