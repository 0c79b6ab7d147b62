"""What the figures share: opening what they are given."""

from __future__ import annotations

import os

from s3pet_viz.runs import Run, open_run
from s3pet_viz.structure import Structure

RunLike = Run | str | os.PathLike[str]


def as_run(run: RunLike) -> Run:
    """Open a path; a `Run` is returned as it is.

    Raises:
        RunError: not a run directory.
        TypeError: neither a run nor a path.
    """
    if not isinstance(run, (Run, str, os.PathLike)):
        raise TypeError(f"expected a Run or the path of a run directory, found {type(run).__name__}")
    return open_run(run)


def as_run_or_structure(source: RunLike | Structure) -> Run | Structure:
    """`as_run`, for figures that also draw a structure."""
    return source if isinstance(source, Structure) else as_run(source)
