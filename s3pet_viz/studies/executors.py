"""Executors that are almost `concurrent.futures`: a job with ``done()`` and ``result()`` becomes a Future."""

from __future__ import annotations

import threading
import time
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


class InlineExecutor(Executor):
    """Does each job at once, where it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class JobExecutor(Executor):
    """Futures of jobs that can only be asked; each has a thread, which sleeps.

    Args:
        inner: ``inner.submit(function, *args)`` returns a job with ``done()`` and ``result()``.
        poll: seconds between two looks at the jobs.
    """

    def __init__(self, inner: Any, poll: float = _POLL) -> None:
        self._inner, self._poll = inner, poll

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        job = self._inner.submit(fn, *args, **kwargs)
        future: Future[Any] = Future()
        threading.Thread(target=self._watch, args=(future, job), daemon=True, name="job-executor").start()
        return future

    def _watch(self, future: Future[Any], job: Any) -> None:
        while not (future.cancelled() or job.done()):
            time.sleep(self._poll)
        if not future.set_running_or_notify_cancel():
            cancel = getattr(job, "cancel", None)
            if callable(cancel):
                cancel()
            return
        try:
            future.set_result(job.result())
        except BaseException as error:
            future.set_exception(error)
