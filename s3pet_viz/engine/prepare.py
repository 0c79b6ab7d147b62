"""Before a search runs: what it is asked for is checked, loaded and given a place on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from s3pet_viz.backbones import Backbone
from s3pet_viz.config.search import LOADING, SearchConfig
from s3pet_viz.engine.checkpoint import first_step_of, has_checkpoint, saved_fingerprint
from s3pet_viz.engine.fingerprint import SINCE, check_same, fingerprint_of
from s3pet_viz.engine.split_batches import SplitBatches
from s3pet_viz.engine.start import open_start, start_alpha
from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.files import located
from s3pet_viz.pet import Space, candidate_gates, load_space
from s3pet_viz.pet.redundant import Pair
from s3pet_viz.pet.space import recorded_space
from s3pet_viz.runs import Run, layout
from s3pet_viz.runs.lock import refuse_held
from s3pet_viz.runs.naming import new_folder
from s3pet_viz.runs.place import check_place, check_writable
from s3pet_viz.runs.writer import RunWriter
from s3pet_viz.structure import Gate, parse_budget
from s3pet_viz.structure.pins import SIDES, left_for, part
from s3pet_viz.tasks import TaskData
from s3pet_viz.tasks.taskfile import recalled, recorded
from s3pet_viz.training.candidates import Candidates
from s3pet_viz.training.device import Device
from s3pet_viz.training.own import Own
from s3pet_viz.training.own_data import OwnData, refuse_missing
from s3pet_viz.training.pair import load_pair
from s3pet_viz.training.processes import Processes, SilentWriter


@dataclass(frozen=True)
class Request:
    """A search that is asked for, its options checked and nothing loaded.

    Attributes:
        task, backbone, model, tokenizer, load: as `load_pair` takes them.
        started: the run that is resumed; moved: its task and backbone where they lie in a new place.
    """

    config: SearchConfig
    task: Any
    backbone: str | Path | None
    model: nn.Module | None
    tokenizer: Any
    load: Mapping[str, Any]
    out: Path | None = None
    started: Run | None = None
    moved: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def fresh(cls, given: Mapping[str, Any], *, out: Path | None, **what: Any) -> Request:
        """A new search with these options of `SearchConfig`."""
        for name, value in (("task", what["task"]), ("budget", given["budget"])):
            if value is None:
                raise ConfigError(f"{name}: expected a value, found none (or resume= a run)")
        task, backbone, model = what["task"], what["backbone"], what["model"]
        if backbone is None:  # one from memory
            backbone = getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__
        memory = task.name if isinstance(task, Own) else "in memory"
        named = {"task": str(task) if isinstance(task, (str, Path)) else memory, "backbone": str(backbone)}
        space = recorded_space("S3PET-M" if given["space"] is None else given["space"])
        return cls(SearchConfig.from_dict({**named, **given, "space": space}), out=out, **what)

    @classmethod
    def resumed(
        cls, run: Run, given: Mapping[str, Any], *, out: Path | None, load: Mapping[str, Any], **what: Any
    ) -> Request:
        """The rest of a run: every option is its own, but data and a model in memory have to be given again."""
        changed = [name for name, value in {**given, "out": out}.items() if value is not None]
        if changed:
            raise ConfigError(f"resume: a resumed search keeps its own options; {changed[0]!r} cannot be given")
        refuse_missing(run, what["task"] if isinstance(what["task"], Own) else None)
        moved = {name: what[name] for name in ("task", "backbone") if isinstance(what[name], str)}
        config = SearchConfig.from_dict({**run.config, **moved})
        if run.early_stop:
            raise RunError(
                f"{run.path}: the search stopped early {run.early_stop}; there is nothing to resume "
                "(to search on from its alpha, begin a new one with start_from)"
            )
        what["task"] = config.task if what["task"] is None else what["task"]
        what["backbone"] = config.backbone if what["model"] is None else None
        return cls(config, load={**recalled(run.info.get("load", {}), load), **load}, started=run, moved=moved, **what)

    def check_place(self) -> None:
        """Before anything is loaded: the run directory is free and can be written."""
        if self.started is not None:
            refuse_held(self.started.path / layout.LOCK)
            check_writable(self.started.path)
        elif self.out is not None:
            check_place(self.out)
        else:
            check_writable(located("runs"), begun=False)


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        gates: what is searched. pinned: what is in the structure beforehand.
        budget: what those leave of it, in parameters. alpha: where it starts, shape (n_gates,); None is 0, or the
            checkpoint's.
        writer: the run directory's, open: to be used as a context.
    """

    config: SearchConfig
    backbone: Backbone
    gates: Sequence[Gate]
    pinned: tuple[Gate, ...]
    budget: int
    alpha: np.ndarray | None
    data: TaskData | OwnData
    batches: SplitBatches
    device: Device
    processes: Processes
    fingerprint: dict[str, Any]
    writer: RunWriter | SilentWriter
    resumed: bool


def prepare(request: Request, processes: Processes, trackers: Sequence[Any]) -> Prepared:
    """Load what is asked for, check that it fits together, and only then make the run directory (or open it again)."""
    config, started = request.config, request.started
    if processes.leads:
        request.check_place()
    if started is not None:
        first_step_of(started, config.steps)  # a checkpoint that cannot be resumed is refused before anything is loaded
    begun = started is not None and has_checkpoint(started.path / layout.CHECKPOINT)
    # A search that has begun has its alpha in the checkpoint.
    origin = open_start(config.start_from) if config.start_from is not None and not begun else None
    if config.device_map is not None and processes.size > 1:
        raise ConfigError(f"device_map: expected one process, found {processes.size}")
    device = Device.choose(config.device, config.precision)
    space = load_space(config.space)
    options = {name: getattr(config, name) for name in LOADING}
    made, data = load_pair(
        request.task,
        request.backbone,
        model=request.model,
        tokenizer=request.tokenizer,
        scored=config.save is not None,
        **options,
        **request.load,
    )
    if isinstance(data, OwnData):
        if config.gradient_checkpointing and not hasattr(made.model, "gradient_checkpointing_enable"):
            kind = type(made.model).__name__
            raise ConfigError(f"gradient_checkpointing: expected a model of transformers, found {kind}")
        if started is not None:
            data.check_resumed(started)
    # One that is registered is kept too: where the run is resumed, it may not be.
    config = replace(config, family=made.family.own)
    request = replace(request, config=config)
    device = device.suited(made.model)
    budget = parse_budget(config.budget, made.n_params)
    batches = SplitBatches(data, made, config, device, processes)
    candidates, redundant = _candidates(request, made, space, batches, device, processes)
    gates, inside, outside = part(candidates.gates, config.pin, budget)
    alpha, start = None, None
    if origin is not None:
        alpha, start = start_alpha(origin, gates, backbone=made.name, backbone_params=made.n_params)
    if started is not None and start and start != started.info.get("start_from"):
        raise RunError(f"start_from: expected the run as it was when the search began, found it changed: {start}")
    fingerprint = fingerprint_of(made, gates, data, processes.size)
    if started is not None:
        _check_moved(started, fingerprint, request.moved)
    facts = {
        "backbone": made.name,
        "backbone_params": made.n_params,
        "budget": budget,
        "tau": config.tau,
        "device": str(device.torch),
        "steps_total": config.steps,
        "lr": config.rate(made.n_params),
        "head_params": made.head_params,
        "constant_loss": batches.features["train"].constant_loss(),
        "space_missing": candidates.missing,
        "inert": [gate.to_dict() for gate in candidates.inert],
        "redundant": [[gate.to_dict() for gate in pair] for pair in redundant],
        "task_origin": data.origin,
        "fingerprint": fingerprint,
        "load": _recorded(request.load),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
        **({"pinned": pinned} if (pinned := _recorded_pins(inside, outside)) else {}),
        **({"start_from": start} if start else {}),
        **({"own": data.facts} if isinstance(data, OwnData) else {}),
        **({"track": [t for t in trackers if isinstance(t, str)]} if trackers else {}),
    }
    writer = _writer(request, processes, gates, facts)
    left = left_for(budget, inside)
    again = started is not None
    return Prepared(
        config, made, gates, inside, left, alpha, data, batches, device, processes, fingerprint, writer, again
    )


def _recorded_pins(inside: Sequence[Gate], outside: Sequence[Gate]) -> dict[str, Any]:
    """What a run keeps of pinned gates; nothing of none."""
    sides = zip(SIDES, (inside, outside), strict=True)
    return {side: [gate.to_dict() for gate in gates] for side, gates in sides if gates}


def _recorded(load: Mapping[str, Any]) -> dict[str, Any]:
    """What of `load` a run keeps: texts, and what the rows mean."""
    kept = {name: value for name, value in load.items() if isinstance(value, str)}
    spec = load.get("task_spec")
    told = None if spec is None else recorded(spec)
    return kept if told is None else {**kept, "task_spec": told}


def _candidates(
    request: Request, made: Backbone, space: Space, batches: SplitBatches, device: Device, processes: Processes
) -> tuple[Candidates, tuple[Pair, ...]]:
    """What is searched: every gate in mode ``paper``, else those that can help; of a resumed run, its own. And pairs of
    them of which one adds nothing beside the other."""
    if request.started is None and request.config.mode != "paper":
        rows = batches.features["train"]
        found: Candidates = processes.share(Candidates.of(made, space, rows, device))
        return found, found.redundant(made, rows, device) if processes.leads else ()
    known = () if request.started is None else request.started.inert
    return Candidates.without(*candidate_gates(made.positions(), space), inert=known), ()


def _writer(
    request: Request, processes: Processes, gates: Sequence[Gate], facts: Mapping[str, Any]
) -> RunWriter | SilentWriter:
    """The run's writer in the process that leads; the others are told where the run is, once it is there."""
    config, writer = request.config, None
    if processes.leads and request.started is not None:
        writer = RunWriter.attach(request.started.path)
        try:
            # Read the step again: from here on no other process can move it.
            writer.continue_from(
                first_step_of(request.started, config.steps),
                config={name: getattr(config, name) for name in layout.MAY_MOVE},
                **{name: facts[name] for name in ("backbone", "task_origin", "fingerprint")},
            )
        except BaseException:
            writer.close()
            raise
    elif processes.leads:
        folder = request.out or new_folder(config.task, config.backbone, config.budget, config.mode, config.seed)
        writer = RunWriter.create(folder, gates=gates, config=config.to_dict(), extra=facts)
    path, info = processes.share(None if writer is None else (str(writer.path), dict(writer.info)))
    return SilentWriter(Path(path), info) if writer is None else writer


def _check_moved(started: Run, now: Mapping[str, Any], moved: Mapping[str, str]) -> None:
    """Before the run is touched: its data and its backbone are those that the search began with.

    Raises:
        RunError: they are others; or nobody can tell: a run of an earlier version, whose backbone was moved.
    """
    saved = saved_fingerprint(started)
    where = ", ".join([str(started.path), *(f"{name} {place}" for name, place in moved.items())])
    if "backbone" in moved and moved["backbone"] != started.config.get("backbone") and SINCE[0] not in saved:
        raise RunError(
            f"{where}: expected a run that keeps the digest of its backbone, found one of an earlier version, which "
            "resumes only with the backbone where it was"
        )
    if saved:
        check_same(saved, now, where)
