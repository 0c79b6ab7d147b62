"""What a worker does with one cell. It may run in another process or on another machine that sees the study's folder.

A cell's result is written once, under a lock that dies with its process; a cell that is done already is not done again.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from s3pet_viz.analysis.consensus import consensus_of
from s3pet_viz.analysis.study import read_result, run_folder
from s3pet_viz.errors import RunError, S3PETError, StudyError
from s3pet_viz.files import open_plain, write_json_atomic
from s3pet_viz.runs import Run, open_run
from s3pet_viz.runs.lock import LockHeldError, WriterLock
from s3pet_viz.runs.place import DiskError
from s3pet_viz.structure import Structure, parse_budget

#: How often a worker looks whether another has finished the same cell, in seconds.
_POLL = 0.5

#: ``held``, the last workbench of this thread: most cells in a row share their task and backbone.
_bench = threading.local()


class Given(NamedTuple):
    """What the cells of a study in this process have from memory: a model, and an `Own`."""

    model: Any
    own: Any


def execute(
    folder: str, cell: Mapping[str, Any], retry: bool = False, threads: int | None = None, given: Given | None = None
) -> dict[str, Any]:
    """Do one cell, unless it is done, and return its result.

    A failure is written down like a success, so that it does not stop the others; with `retry` a failed cell is
    done again. KeyboardInterrupt writes nothing (a search keeps its checkpoint and goes on from it).
    """
    root = Path(folder)
    key = str(cell["key"])
    with _alone(root / "cells" / f"{key}.lock"):
        found = read_result(root, key)
        if found is not None and (found["status"] == "done" or not retry):
            return found
        attempts = 1 + (found or {}).get("attempts", 0)
        _journal(root, key, "begun")
        started, began = time.time(), time.monotonic()
        try:
            if threads is not None:
                import torch

                torch.set_num_threads(threads)
            result = {"status": "done", **(_search if cell["kind"] == "search" else _tune)(root, cell, given)}
        except Exception as error:
            kind = type(error).__name__
            # The package's own errors say all; of others the place is needed.
            trace = "" if isinstance(error, S3PETError) else traceback.format_exc(limit=-8)
            result = {"status": "failed", "error": {"kind": kind, "message": str(error)[:2000], "traceback": trace}}
        result |= {
            "key": key,
            "attempts": attempts,
            "started": started,
            "seconds": time.monotonic() - began,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        write_json_atomic(root / "cells" / f"{key}.json", result)
        _journal(root, key, result["status"])
        return result


def _search(root: Path, cell: Mapping[str, Any], given: Given | None) -> dict[str, Any]:
    from s3pet_viz.engine.api import search

    out = root / "runs" / cell["key"]
    memory = {} if given is None else {"model": given.model, **given.own.arguments()}
    run = _continued(out, memory)
    if run is None:
        run = search(**_without(cell["what"], given), **memory, out=out, progress=False)
    shutil.rmtree(out / "checkpoint", ignore_errors=True)  # of use only while it runs; a tenth of a study's size
    chosen = run.structure()
    return {"row": {"seconds": _seconds(run)}, "structure": chosen.to_dict()}


def _seconds(run: Run) -> float:
    return float(run.steps()["seconds"].sum())


def _without(what: Mapping[str, Any], given: Given | None) -> dict[str, Any]:
    """A cell's arguments but those that are only names of what is in memory."""
    names = () if given is None else ("task", "backbone", "own")
    return {name: value for name, value in what.items() if name not in names}


def _continued(out: Path, memory: Mapping[str, Any]) -> Run | None:
    """The search of an earlier worker, finished; None where there is nothing to go on from."""
    from s3pet_viz.engine.api import search

    if not out.exists():
        return None
    try:
        run = open_run(out)
        if run.status == "finished":
            return run
        return search(resume=out, **memory, progress=False)
    except (LockHeldError, DiskError):
        raise  # nothing is wrong with what is there
    except RunError:
        shutil.rmtree(out)  # killed before there was a run
        return None


def _tune(root: Path, cell: Mapping[str, Any], given: Given | None) -> dict[str, Any]:
    from s3pet_viz.config.options import config_of
    from s3pet_viz.config.tuning import TuneConfig
    from s3pet_viz.tuning.baselines import against_budget

    what = cell["what"]
    bench = _workbench(what["bench"], given)
    config = config_of(TuneConfig, what["options"])
    method, facts = _method(root, what["structure"], bench, config)
    scores = bench.run(method, config, label=cell["labels"]["method"], progress=False)
    row = {k: v for k, v in scores.row().items() if k not in ("method", "task", "seed")}
    row |= {"metric": bench.splits.data.task.metrics[0], **facts}
    if cell["labels"]["budget_params"]:
        stands = against_budget(scores.structure, cell["labels"]["budget_params"])
        row |= {name: stands[name] for name in ("meets_budget", "words")}
    made: dict[str, Any] = {"row": row, "history": scores.history}
    if scores.structure is not None:
        made["structure"] = scores.structure.to_dict()
    return made


def _workbench(wanted: Mapping[str, Any], given: Given | None) -> Any:
    from s3pet_viz.tuning.workbench import Workbench

    if given is not None:  # the model is there already
        return Workbench.open(given.own, model=given.model, **_without(wanted, given))
    found = getattr(_bench, "held", None)
    if found is None or found[0] != dict(wanted):
        found = _bench.held = None  # before the next is loaded: two backbones may not fit
        found = _bench.held = (dict(wanted), Workbench.open(**wanted))
    return found[1]


def _method(root: Path, recipe: Mapping[str, Any], bench: Any, config: Any) -> tuple[Any, dict[str, Any]]:
    """What `Workbench.run` takes as method, and what its making cost."""
    from s3pet_viz.pet import load_space
    from s3pet_viz.tuning.adalora import AdaLoRA
    from s3pet_viz.tuning.baselines import MANUAL, lora_everywhere, manual_structure, random_structure

    kind = recipe["kind"]
    if kind == "run":
        run = open_run(run_folder(root, recipe["run"]))
        return run.structure(recipe["budget"]), {"search_seconds": _seconds(run)}
    if kind == "consensus":
        runs = [open_run(run_folder(root, name)) for name in recipe["runs"]]
        return _consensus(runs, recipe["budget"]), {"search_seconds": sum(map(_seconds, runs))}
    if kind == "given":
        return Structure.from_dict(recipe["structure"], where="study: a given structure"), {}
    if kind == "random":
        gates = bench.candidates(load_space(recipe["space"])).gates
        budget = parse_budget(recipe["budget"], bench.backbone.n_params)
        return random_structure(gates, budget, bench.backbone, recipe["draw"], recipe.get("pin")), {}
    if kind == "rival":
        from s3pet_viz.tuning.one_pass import one_pass_structure

        started = time.perf_counter()
        asked: dict[str, Any] = {name: recipe.get(name) for name in ("budget", "space", "seed", "pin")}
        made = one_pass_structure(bench, recipe["name"], progress=False, **asked)
        return made, {"search_seconds": time.perf_counter() - started}
    if kind in ("everywhere", "adalora"):
        budget = parse_budget(recipe["budget"], bench.backbone.n_params)
        return lora_everywhere(bench.backbone, budget) if kind == "everywhere" else AdaLoRA(
            bench.backbone, budget, config
        ), {}
    if kind == "method":
        name = recipe["name"]
        return (manual_structure(name, bench.backbone) if name in MANUAL else name), {}
    raise StudyError(
        "study: a structure comes from a run, consensus, given, random, rival, everywhere, adalora or method, "
        f"found {kind!r}"
    )


def _consensus(runs: list[Run], budget: str | int | float) -> Structure:
    """The structure that the mean p of several runs selects at a budget; over the gates that all of them have."""
    backbone, size = runs[0].info["backbone"] or "", runs[0].info["backbone_params"] or 0
    searches = [(run.name, run.gates_list, run.p(budget=budget)) for run in runs]
    pinned = [run.pinned_in for run in runs]
    return consensus_of(searches, parse_budget(budget, size), backbone, size, pinned=pinned)


# -- one worker a cell ---------------------------------------------------------------------------------------


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a cell's lock; wait while another process holds it (one that outlived its study, or on another machine)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            lock = WriterLock(path)
            break
        except LockHeldError:
            time.sleep(_POLL)
    try:
        yield
    finally:
        lock.release()


def _journal(root: Path, key: str, event: str) -> None:
    """One line in the journal; short appends of several processes do not mix."""
    line = f'{{"time": {time.time():.3f}, "pid": {os.getpid()}, "event": "{event}", "key": "{key}"}}\n'
    fd = open_plain(root / "journal.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, links=False, in_place=True)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def die_with_parent(threads: int | None, parent: int) -> None:
    """Start of a worker process: end with the process that started it (a killed study leaves no worker behind).

    Args:
        threads: that it may use; None: as many as it likes.
        parent: the process that started it. Not asked for here: it may have died while this one was starting.
    """
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)  # not sys.exit: only this thread would end

    threading.Thread(target=watch, daemon=True, name="die-with-parent").start()
