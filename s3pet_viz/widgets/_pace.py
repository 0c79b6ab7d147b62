"""Draw no faster than the browser can: what it is sent while it draws only queues up, until the page stands still."""

from __future__ import annotations

import asyncio
import time

import plotly.graph_objects as go

#: How long the browser may take over a drawing before it is sent another all the same (its answer may be lost: a closed
#: page), in seconds.
PATIENCE = 5.0
#: The same while the kernel runs a cell, in seconds: the answer then cannot be heard before the cell has ended.
PATIENCE_BUSY = 1.0
#: A kernel that has not answered itself for this long, in seconds, runs a cell.
_BUSY = 0.5


class Pace:
    """Whether the browser has drawn what these figures were last sent.

    plotly's script answers every change with the number of the edit that it has drawn.

    Args:
        figures: drawn together.
    """

    def __init__(self, *figures: go.FigureWidget) -> None:
        self._figures = figures
        self._since: float | None = None
        self._asked: float | None = None
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:  # no kernel
            self._loop = None

    def free(self) -> bool:
        """Whether to draw now. Figures that no page shows wait for nothing."""
        now = time.monotonic()
        if not any(_drawing(figure) for figure in self._figures):
            self._since = None
            return True
        if self._since is None:
            self._since = now
        if now - self._since < (PATIENCE_BUSY if self._kernel_busy(now) else PATIENCE):
            return False
        self._since = now
        return True

    def _kernel_busy(self, now: float) -> bool:
        if self._asked is None:
            if self._loop is None or self._loop.is_closed():
                return True
            self._asked = now
            self._loop.call_soon_threadsafe(self._answer)
        return self._asked is not None and now - self._asked > _BUSY

    def _answer(self) -> None:
        self._asked = None


def _drawing(figure: go.FigureWidget) -> bool:
    # Not `_layout_edit_in_process`: no page answers what an update said of the layout.
    return bool(figure._view_count) and figure._trace_edit_in_process
