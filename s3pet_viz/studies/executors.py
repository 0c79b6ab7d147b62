"""Executors that are almost `concurrent.futures`: a job with ``done()`` and ``result()`` becomes a Future."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from s3pet_viz.errors import ConfigError

_POLL = 1.0


def as_executor(executor: Any) -> Executor:
    """A `concurrent.futures.Executor` as it is; another object with ``submit`` (submitit's) behind the same face.
    Raises ConfigError: it has no ``submit``.
    """
    if isinstance(executor, Executor):
        return executor
    if not callable(getattr(executor, "submit", None)):
        kind = type(executor).__name__
        raise ConfigError(f"executor: expected a concurrent.futures.Executor or an object with submit(), found {kind}")
    return JobExecutor(executor)


class JobExecutor(Executor):
    """Futures of jobs that can only be asked.

    Args:
        inner: ``inner.submit(function, *args)`` returns a job with ``done()`` and ``result()``.
        poll: seconds between two looks at the jobs.
    """

    def __init__(self, inner: Any, poll: float = _POLL) -> None:
        self._inner, self._poll = inner, poll
        self._jobs: dict[Future[Any], Any] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        job = self._inner.submit(fn, *args, **kwargs)
        future: Future[Any] = Future()
        with self._lock:
            self._jobs[future] = job
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, daemon=True, name="job-executor")
                self._thread.start()
        return future

    def _watch(self) -> None:
        pause = threading.Event()
        while True:
            with self._lock:
                jobs = dict(self._jobs)
                if not jobs:
                    self._thread = None
                    return
            for future, job in jobs.items():
                if future.cancelled() or job.done():
                    self._settle(future, job)
            pause.wait(self._poll)

    def _settle(self, future: Future[Any], job: Any) -> None:
        with self._lock:
            del self._jobs[future]
        if future.cancelled():
            cancel = getattr(job, "cancel", None)
            if callable(cancel):
                cancel()
            return
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(job.result())
        except BaseException as error:
            future.set_exception(error)
