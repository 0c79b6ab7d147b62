"""Work on the latest value only: what keeps a slider from lagging."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: A thread without work ends after this long, in seconds.
_IDLE = 2.0
#: How often `ready` is asked, in seconds.
_LOOK = 0.02


class Latest(Generic[T]):
    """Calls `work` with the latest of the values it was given, in a thread of its own; values in between are dropped.

    `submit` returns at once, so a widget's callback may call it. The thread lives only while there is work.

    Args:
        work: must deal with its own errors as far as it can; what it raises goes to `on_error`.
        on_error: called in the thread.
        interval: least time between two calls, in seconds.
        ready: a value waits, and may be replaced by a later one, until this says yes.
    """

    def __init__(
        self,
        work: Callable[[T], None],
        *,
        on_error: Callable[[Exception], None],
        interval: float = 0.03,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self._work, self._on_error, self._interval, self._ready = work, on_error, interval, ready
        self._condition = threading.Condition()
        self._pending: list[T] = []
        self._busy = False
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, value: T) -> None:
        """Have `work` called with this value, unless a later one comes first."""
        with self._condition:
            if self._closed:
                return
            self._pending = [value]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="s3pet-view", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def wait(self, timeout: float = 10) -> bool:
        """Whether everything submitted was done within `timeout` seconds."""
        with self._condition:
            return self._condition.wait_for(lambda: not (self._pending or self._busy), timeout)

    def close(self) -> None:
        """Drop what is pending; nothing more is accepted."""
        with self._condition:
            self._closed = True
            self._pending = []
            self._condition.notify_all()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._pending or self._closed, _IDLE)
                if not self._pending:
                    self._thread = None
                    return
            while not (self._ready() or self._closed):
                time.sleep(_LOOK)
            with self._condition:
                if not self._pending:
                    continue
                value = self._pending.pop()
                self._busy = True
            began = time.monotonic()
            try:
                self._work(value)
            except Exception as error:  # shown in the view: a thread has nobody to raise to
                self._on_error(error)
            finally:
                with self._condition:
                    self._busy = False
                    self._condition.notify_all()
            time.sleep(max(0.0, self._interval - (time.monotonic() - began)))
