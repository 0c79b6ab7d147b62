"""Waiting for a search to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from s3pet_viz.errors import printable
from s3pet_viz.runs.process import reap
from s3pet_viz.runs.status import RunStatus

POLL = 0.1  # seconds between two looks at a search that is waited for


def until_ended(run: RunStatus, steps: Callable[[], int], timeout: float | None, progress: bool) -> Iterator[None]:
    """Yields for as long as the search goes on: the caller sleeps. `steps`: how many it has made."""
    from tqdm.auto import tqdm

    deadline = None if timeout is None else time.monotonic() + timeout
    with tqdm(total=run.info["steps_total"], desc=str(run.info["name"]), unit="step", disable=not progress) as bar:
        while True:
            ended = run.ended  # first, so that the bar shows what came before the end
            if progress:
                bar.update(steps() - bar.n)
            if ended:
                if run.early_stop:
                    bar.set_postfix_str("finished early")
                reap()
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(printable(f"{run.path}: still {run.status} after {timeout:g} s"))
            yield
