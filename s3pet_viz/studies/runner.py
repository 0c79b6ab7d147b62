"""Run a study's cells with an executor: what is done is kept, what fails is listed, and the rest goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loky import ProcessPoolExecutor
from tqdm.auto import tqdm

from s3pet_viz.analysis.study import KIND, SCHEMA_VERSION, Study, read_result
from s3pet_viz.errors import StudyError
from s3pet_viz.files import json_ready, located, write_json_atomic
from s3pet_viz.runs.lock import LockHeldError, WriterLock
from s3pet_viz.studies.cells import Cell
from s3pet_viz.studies.executors import as_executor
from s3pet_viz.studies.worker import die_with_parent, execute

OnCell = Callable[[Cell, Mapping[str, Any]], None]


def run_cells(
    cells: Sequence[Cell],
    out: str | Path,
    *,
    kind: str,
    settings: Mapping[str, Any],
    executor: Any = None,
    workers: int | None = None,
    retry: bool = False,
    progress: bool = True,
    on_cell: OnCell | None = None,
) -> Study:
    """Do every cell that is not done, and return the study.

    Args:
        out: the study's folder; if it holds a study already, that one goes on: its plan grows by the new cells.
        executor: any `concurrent.futures.Executor` (or an object whose ``submit`` returns jobs with ``done()`` and
            ``result()``, such as submitit's). Default: processes on this machine.
        workers: of the default executor (None: one a core, or one where there is a GPU).
        retry: do failed cells again.
        on_cell: called with each cell and its result as it ends.

    Raises:
        StudyError: the folder holds another plan of the same cells, is being run by another process, or cannot be
            written.
        KeyboardInterrupt: after Ctrl-C; the same call goes on from what is done.
    """
    root = located(out)
    with _one_runner(root):
        planned = _plan(root, cells, kind, settings)
        states = {c.key: (read_result(root, c.key) or {}).get("status") for c in planned}
        todo = [c for c in planned if states[c.key] is None or (states[c.key] == "failed" and retry)]
        done = list(states.values()).count("done")
        if todo:
            # A failed cell that is not tried again counts neither as done nor as to do.
            total = done + len(todo)
            bar = tqdm(desc=f"study {root.name}", unit="cell", disable=not progress, total=total, initial=done)
            with _pool(executor, workers, len(todo)) as (pool, threads), bar:
                _drive(root, todo, pool, threads, retry, bar, on_cell)
    return Study(root)


def _drive(
    root: Path,
    todo: Sequence[Cell],
    pool: Executor,
    threads: int | None,
    retry: bool,
    bar: tqdm[Any],
    on_cell: OnCell | None,
) -> None:
    """Submit cells as their needs are met, and wait."""
    waiting = {c.key: c for c in todo}
    running: dict[Future[dict[str, Any]], Cell] = {}
    failed = 0

    def ended(cell: Cell, result: Mapping[str, Any]) -> None:
        nonlocal failed
        bar.update()
        if result["status"] == "failed":
            failed += 1
            bar.set_postfix_str(f"{failed} failed")
        if on_cell is not None:
            on_cell(cell, result)

    try:
        while waiting or running:
            for cell in [c for c in waiting.values() if not any(n in waiting for n in c.needs)]:
                if any(c.key in cell.needs for c in running.values()):
                    continue
                del waiting[cell.key]
                lost = [n for n in cell.needs if (read_result(root, n) or {}).get("status") != "done"]
                if lost:
                    ended(cell, _write_failure(root, cell, StudyError(f"the search {lost[0]} that it needs failed")))
                else:
                    running[pool.submit(execute, str(root.resolve()), cell.to_dict(), retry, threads)] = cell
            if running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    cell = running.pop(future)
                    ended(cell, _outcome(root, cell, future))
    except BaseException as error:
        for future in running:
            future.cancel()
        if isinstance(error, BrokenProcessPool):
            raise StudyError(
                f"{root}: a worker process died (out of memory?); nothing that is done is lost: "
                "run the same study again, with fewer workers"
            ) from error
        raise


def _outcome(root: Path, cell: Cell, future: Future[dict[str, Any]]) -> Mapping[str, Any]:
    try:
        return future.result()
    except BrokenProcessPool:
        raise
    except (KeyboardInterrupt, CancelledError):
        raise KeyboardInterrupt from None
    except Exception as error:  # the executor's own: a lost worker, a result that could not travel
        found = read_result(root, cell.key)
        return found if found is not None else _write_failure(root, cell, error)


def _write_failure(root: Path, cell: Cell, error: Exception) -> dict[str, Any]:
    result = {
        **{"key": cell.key, "status": "failed", "started": time.time(), "seconds": 0.0},
        "attempts": 1 + (read_result(root, cell.key) or {}).get("attempts", 0),
        "error": {"kind": type(error).__name__, "message": str(error)[:2000], "traceback": ""},
    }
    write_json_atomic(root / "cells" / f"{cell.key}.json", result)
    return result


# -- the folder ----------------------------------------------------------------------------------------------


@contextmanager
def _one_runner(root: Path) -> Iterator[None]:
    try:
        (root / "cells").mkdir(parents=True, exist_ok=True)
        lock = WriterLock(root / "lock")
    except LockHeldError as error:
        holder = str(error).split("process ", 1)[-1].split(";")[0]
        raise StudyError(f"{root}: this study is being run by process {holder}; wait for it or stop it") from None
    except OSError as error:
        raise StudyError(f"{root}: cannot be written ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()


def _plan(root: Path, cells: Sequence[Cell], kind: str, settings: Mapping[str, Any]) -> list[Cell]:
    """Write the plan, or add to the one that is there; the cells of this call with what they need."""
    path = root / "study.json"
    known: dict[str, dict[str, Any]] = {}
    calls: list[dict[str, Any]] = []
    created = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    if path.exists():
        old = Study(root)
        known = {c["key"]: c for c in old.cells}
        created, calls = old.info.get("created", created), list(old.info["calls"])
    for cell in cells:
        mine = json_ready(cell.to_dict())
        theirs = known.setdefault(cell.key, mine)
        if mine != theirs:
            raise StudyError(
                f"{root}: cell {cell.key!r} was planned with other options ({_first_difference(theirs, mine)}); "
                "give another out="
            )
    call = json_ready({"study": kind, **settings})
    write_json_atomic(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "created": created,
            "calls": [*(c for c in calls if c != call), call],
            "versions": {name: version(name) for name in ("s3pet_viz", "torch", "transformers")},
            "cells": list(known.values()),
        },
    )
    return list(cells)


def _first_difference(old: Any, new: Any, where: str = "") -> str:
    """Where two plans of a cell differ first, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                return _first_difference(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    return f"{where}: {old!r}, now {new!r}"


# -- the default executor ------------------------------------------------------------------------------------


@contextmanager
def _pool(executor: Any, workers: int | None, n_cells: int) -> Iterator[tuple[Executor, int | None]]:
    """The executor, and the threads that each of its workers may use (None: as many as it likes)."""
    if executor is not None:
        yield as_executor(executor), None
        return
    count, threads = pool_size(workers, n_cells)
    # loky's, not the standard library's, which runs a script's top level again in each worker.
    pool = ProcessPoolExecutor(count, initializer=die_with_parent, initargs=(threads, os.getpid()))
    try:
        yield pool, threads
    except BaseException:
        # Ctrl-C reaches the workers too: a search writes its checkpoint, which takes a step at most.
        pool.shutdown(wait=False, kill_workers=True)
        raise
    pool.shutdown()


def pool_size(workers: int | None, n_cells: int) -> tuple[int, int]:
    """Workers of the default executor, and threads for each: a worker a core, or one where there is a GPU. No worker
    has more threads than this process (OMP_NUM_THREADS, ``torch.set_num_threads``).
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if workers is None:
        workers = 1 if torch.cuda.is_available() else cores
    workers = max(1, min(workers, n_cells))
    return workers, max(1, min(cores // workers, torch.get_num_threads()))
