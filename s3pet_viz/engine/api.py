"""`search`: from names to a finished run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from s3pet_viz.backbones import Backbone, positions
from s3pet_viz.backbones.shared import alone_with_its_model
from s3pet_viz.config.checks import short
from s3pet_viz.config.options import takes
from s3pet_viz.config.search import LOADING, SearchConfig
from s3pet_viz.config.typed import SearchOptions
from s3pet_viz.engine.attached import attached
from s3pet_viz.engine.backbone_problem import BackboneProblem
from s3pet_viz.engine.callbacks import Callback
from s3pet_viz.engine.checkpoint import (
    SINCE,
    check_same,
    first_step_of,
    has_checkpoint,
    load_checkpoint,
    load_stability,
    saved_fingerprint,
)
from s3pet_viz.engine.gates import GateModel
from s3pet_viz.engine.loop import Search
from s3pet_viz.engine.modes import State
from s3pet_viz.engine.split_batches import SplitBatches
from s3pet_viz.engine.stability import Stability
from s3pet_viz.engine.start import open_start, start_alpha, start_label
from s3pet_viz.engine.tracking import Tracking, tracker_names
from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.files import located, name_or_folder
from s3pet_viz.pet import Space, candidate_gates, load_space
from s3pet_viz.runs import Run, layout, open_run
from s3pet_viz.runs.lock import refuse_held
from s3pet_viz.runs.naming import new_folder
from s3pet_viz.runs.place import check_place, check_writable
from s3pet_viz.runs.writer import RunWriter
from s3pet_viz.structure import parse_budget
from s3pet_viz.structure.budget import check_budget
from s3pet_viz.threads import LOCK
from s3pet_viz.training.arguments import check_arguments
from s3pet_viz.training.device import Device
from s3pet_viz.training.model_state import at_work
from s3pet_viz.training.pair import load_pair
from s3pet_viz.training.processes import Processes, SilentWriter, find_processes


@takes(SearchConfig)
@alone_with_its_model
def search(
    *,
    task: Any = None,
    backbone: str | Path | None = None,
    budget: str | int | float | None = None,
    space: Any = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    load: dict[str, Any] | None = None,
    track: Any = None,
    **options: Unpack[SearchOptions],
) -> Run:
    """Search where PET modules belong in a backbone, under an exact parameter budget.

    Args:
        task: a name (``glue/rte``, ``sentiment``), a folder, or splits in memory (see `tasks.load_task`).
        backbone: a name or folder; or `model` and `tokenizer` from memory, which are left as they were found.
        budget: ``"0.0139%"``, ``1.39e-4`` (fractions of the backbone) or ``8404`` (parameters).
        space: ``S3PET-M`` (the default), ``S3PET-L`` (``+cross`` adds cross-attention), a YAML / JSON file, a
            mapping, or a Space.
        out: the run directory; must not hold another run. Default: a new folder under ``runs/``.
        resume: a run directory to continue; then every other choice is the run's own. `task` and `backbone` may be
            given where they lie in a new place now; they must be those that the search began with.
        callbacks: see `Callback`.
        load: further arguments of `tasks.load_task` for data in memory (``name``, ``task_spec``).
        track: experiment trackers: names that accelerate knows (``tensorboard``, ``wandb``, ...) or its
            `GeneralTracker` objects; see `search.tracking.Tracking`. A resumed search keeps the run's, unless others
            are given; ``none`` is none.
        options: fields of `SearchConfig`; start_from may be a Run too.

    Returns:
        The run, opened. ``run.structure()`` is the result.

    Raises:
        S3PETError: one of its kinds, before any long work starts and before `out` is made.
        MissingExtraError: an optional package is needed (also a kind of S3PETError).
        DiskError: during the search: the disk refuses. What was written before is whole, and the run can be resumed.
        NonFiniteLossError: during the search; the run is saved.
        KeyboardInterrupt: after Ctrl-C, with the run saved; continue it with ``resume=``.
    """
    check_arguments(
        task=task, budget=budget, out=out, resume=resume, progress=progress,
        load={k: v for k, v in load.items() if k != "split"} if isinstance(load, Mapping) else load,  # its own option
    )  # fmt: skip
    callbacks = _callbacks(callbacks)
    started = open_run(resume) if resume is not None else None
    out = None if out is None else located(out)
    task, backbone = (name_or_folder(v) if isinstance(v, (str, Path)) else v for v in (task, backbone))
    chosen: dict[str, Any] = {k: start_label(v) if k == "start_from" else v for k, v in options.items()}
    # The run keeps them with its other options.
    load = dict(load or {})
    chosen |= {name: load.pop(name) for name in LOADING if name in load}
    if isinstance(chosen.get("dtype"), torch.dtype):
        chosen["dtype"] = str(chosen["dtype"]).removeprefix("torch.")
    if started is not None:
        config = _resumed_config(started, {"budget": budget, "space": space, "out": out, **chosen})
        moved = {k: v for k, v in (("task", task), ("backbone", backbone)) if isinstance(v, str)}
        config = SearchConfig.from_dict({**config.to_dict(), **moved})
        if started.early_stop:
            raise RunError(
                f"{started.path}: the search stopped early {started.early_stop}; there is nothing to resume "
                "(to search on from its alpha, begin a new one with start_from)"
            )
        task = config.task if task is None else task
        backbone = config.backbone if model is None else None
        load = {**started.info.get("load", {}), **load}
    else:
        moved = {}
        for name, value in (("task", task), ("budget", budget)):
            if value is None:
                raise ConfigError(f"{name}: expected a value, found none (or resume= a run)")
        config = SearchConfig.from_dict(
            {
                "task": _label(task),
                "backbone": str(backbone) if backbone is not None else _model_label(model),
                "budget": budget,
                "space": _space_field("S3PET-M" if space is None else space),
                **chosen,
            }
        )
    parse_budget(config.budget, 10**15)  # its form, before anything is loaded
    team = find_processes()  # before accelerate is asked for anything else
    trackers = tracker_names(started.info.get("track") if started is not None and track is None else track)
    if team.leads:
        _check_place(started, out)
    if started is not None:
        first_step_of(started, config.steps)  # a checkpoint that cannot be resumed is said before anything is loaded
    begun = started is not None and has_checkpoint(started.path / layout.CHECKPOINT)
    # A search that has begun has its alpha in the checkpoint.
    origin = open_start(config.start_from) if config.start_from is not None and not begun else None
    device = Device.choose(config.device, config.precision)
    chosen_space = load_space(config.space)
    made, data = load_pair(
        task,
        backbone,
        model=model,
        tokenizer=tokenizer,
        **{name: getattr(config, name) for name in LOADING},
        **load,
    )
    device = device.suited(made.model)
    parameters = parse_budget(config.budget, made.n_params)
    gates, missing = candidate_gates(positions(made.model), chosen_space)
    check_budget([g.n_params for g in gates], parameters)
    alpha, start = (
        (None, None)
        if origin is None
        else start_alpha(origin, gates, backbone=made.name, backbone_params=made.n_params)
    )
    if started is not None and start and start != started.info.get("start_from"):
        raise RunError(f"start_from: expected the run as it was when the search began, found it changed: {start}")
    split_batches = SplitBatches(data, made, config, device, team)
    fingerprint = {
        "backbone parameters": made.n_params,
        "gates": hashlib.sha256(repr([(g.key, g.n_params) for g in gates]).encode()).hexdigest()[:16],
        "training rows": len(data.train),
        **({"processes": team.size} if team.size > 1 else {}),
        "data": _digest(data.train),
        "validation rows": _digest(data.validation),
        "backbone weights": _weights_digest(made),
        "tokenizer": _tokenizer_digest(made.tokenizer),
    }
    if started is not None:
        _check_moved(started, fingerprint, moved)

    extra = {
        "backbone": made.name,
        "backbone_params": made.n_params,
        "budget": parameters,
        "tau": config.tau,
        "device": str(device.torch),
        "steps_total": config.steps,
        "lr": config.rate(made.n_params),
        "head_params": made.head_params,
        "constant_loss": split_batches.features["train"].constant_loss(),
        "space_missing": missing,
        "task_origin": data.origin,
        "fingerprint": fingerprint,
        "load": {k: v for k, v in load.items() if isinstance(v, str)},
        "versions": _versions(),
        **({"start_from": start} if start else {}),
        **({"track": [t for t in trackers if isinstance(t, str)]} if trackers else {}),
    }
    writer = _writer(team, started, out, gates, config, extra)

    tracking = Tracking(trackers)
    if trackers and team.leads:
        callbacks = (*callbacks, tracking)
    with writer, tracking, at_work(made, device), attached(made, gates, config) as pets:
        problem = BackboneProblem(
            made.model,
            pets,
            split_batches.batch,
            head=made.head,
            head_lr_ratio=(config.head_lr or config.rate(made.n_params)) / config.rate(made.n_params),
            autocast=device.autocast,
        )
        counts = [g.n_params for g in gates]
        state = make_state(problem, counts, parameters, config, config.rate(made.n_params), team)
        if alpha is not None:
            state.alpha = torch.from_numpy(alpha)
        first, stability = 0, Stability(config.stop_when_stable)
        if started is not None and has_checkpoint(writer.checkpoint_dir):
            first = load_checkpoint(writer.checkpoint_dir, state, fingerprint=fingerprint)
            stability = load_stability(writer.checkpoint_dir, config.stop_when_stable)
        Search(
            config,
            gates,
            state,
            writer,
            budget=parameters,
            backbone_name=made.name,
            backbone_params=made.n_params,
            fingerprint=fingerprint,
            first_step=first,
            stability=stability,
            callbacks=callbacks,
            progress=progress,
        ).run()
    team.wait()
    return open_run(writer.path)


def _callbacks(callbacks: Any) -> tuple[Callback, ...]:
    several = isinstance(callbacks, (list, tuple))
    wrong = [c for c in callbacks if not isinstance(c, Callback)] if several else [callbacks]
    if wrong:
        raise ConfigError(f"callbacks: expected a list of Callback objects, found {short(wrong[0])}")
    return tuple(callbacks)


def _writer(
    team: Processes,
    started: Run | None,
    out: str | Path | None,
    gates: Sequence[Any],
    config: SearchConfig,
    extra: dict[str, Any],
) -> RunWriter | SilentWriter:
    """The run's writer in the process that leads; the others are told where the run is, once it is there."""
    writer = None
    if team.leads and started is not None:
        writer = RunWriter.attach(started.path)
        try:
            # The step is read anew, now that nobody else can move it.
            writer.continue_from(
                first_step_of(started, config.steps),
                config={name: getattr(config, name) for name in layout.MAY_MOVE},
                **{name: extra[name] for name in ("backbone", "task_origin", "fingerprint")},
            )
        except BaseException:
            writer.close()
            raise
    elif team.leads:
        folder = out or new_folder(config.task, config.backbone, config.budget, config.mode, config.seed)
        writer = RunWriter.create(folder, gates=gates, config=config.to_dict(), extra=extra)
    path, info = team.share(None if writer is None else (str(writer.path), dict(writer.info)))
    return SilentWriter(Path(path), info) if writer is None else writer


def _check_place(started: Run | None, out: str | Path | None) -> None:
    """Before anything is loaded: the run directory is free and can be written."""
    if started is not None:
        refuse_held(started.path / layout.LOCK)
        check_writable(started.path)
    elif out is not None:
        check_place(Path(out))
    else:
        check_writable(located("runs"), begun=False)


def make_state(
    problem: Any, counts: Sequence[int], budget: float, config: SearchConfig, lr: float, team: Processes | None = None
) -> State:
    """The `State` of a search with these options on any `Problem`."""
    return State(
        problem,
        GateModel(counts, budget, config.tau, config.competition, config.skip_below),
        lr=lr,
        alpha_lr=config.alpha_lr,
        clip=config.clip,
        seed=config.seed,
        difference_eps=config.difference_eps,
        second_order_from=config.second_order_from,
        second_order_cap=config.second_order_cap,
        second_order_every=config.second_order_every,
        accumulation=config.accumulation,
        team=team,
        schedule=config.schedule_at,
    )


def _resumed_config(started: Run, given: dict[str, Any]) -> SearchConfig:
    # Data in memory has to be given again; everything else is in the run.
    changed = [k for k, v in given.items() if v is not None]
    if changed:
        raise ConfigError(f"resume: a resumed search keeps its own options; {changed[0]!r} cannot be given")
    return SearchConfig.from_dict(dict(started.config))


def _label(task: Any) -> str:
    return str(task) if isinstance(task, (str, Path)) else "in memory"


def _model_label(model: nn.Module | None) -> str:
    return getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__


def _space_field(space: Any) -> str | dict[str, Any]:
    """What run.json keeps of a space: a preset's name, else all of it (its file may change)."""
    if isinstance(space, str) and not space.lower().endswith((".yaml", ".yml", ".json")):
        return space
    return load_space(space).to_dict() if not isinstance(space, Space) else space.to_dict()


def _check_moved(started: Run, now: dict[str, Any], moved: dict[str, str]) -> None:
    """Before the run is touched: its data and its backbone are those that the search began with.

    Raises:
        RunError: they are not, or, of one that is said to lie in a new place, nobody knows.
    """
    saved = saved_fingerprint(started)
    where = ", ".join([str(started.path), *(f"{name} {place}" for name, place in moved.items())])
    if "backbone" in moved and moved["backbone"] != started.config.get("backbone") and SINCE[0] not in saved:
        raise RunError(
            f"{where}: expected a run that keeps the digest of its backbone, found one of an earlier version, which "
            "resumes only with the backbone where it was"
        )
    if saved:
        check_same(saved, json.loads(json.dumps(now)), where)


def _digest(rows: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for example in rows:
        digest.update(repr((example.source, example.target, example.label)).encode())
    return digest.hexdigest()[:16]


def _weights_digest(backbone: Backbone) -> str:
    """Of every weight, but those that were drawn: other versions of torch may draw others."""
    digest = hashlib.sha256()
    drawn = {*backbone.head, *backbone.drawn}
    for name, weight in backbone.model.named_parameters():
        if name not in drawn:
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} ".encode())
            digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _tokenizer_digest(tokenizer: Any) -> str | None:
    """Of the tokens and their numbers; None where the tokenizer does not tell."""
    try:
        words = sorted(tokenizer.get_vocab().items())
    except (AttributeError, NotImplementedError, TypeError):
        return None
    return hashlib.sha256(repr(words).encode("utf-8", "replace")).hexdigest()[:16]


def _versions() -> dict[str, str]:
    with LOCK:
        import accelerate
        import transformers

    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
    }
