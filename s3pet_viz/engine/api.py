"""`search`: from names to a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from s3pet_viz.backbones.shared import alone_with_its_model
from s3pet_viz.config.checks import short
from s3pet_viz.config.options import takes
from s3pet_viz.config.search import LOADING, SearchConfig
from s3pet_viz.config.typed import SearchOptions
from s3pet_viz.engine.attached import attached
from s3pet_viz.engine.backbone_problem import BackboneProblem
from s3pet_viz.engine.callbacks import Callback
from s3pet_viz.engine.checkpoint import has_checkpoint, load_checkpoint
from s3pet_viz.engine.gates import GateModel
from s3pet_viz.engine.loop import Search
from s3pet_viz.engine.one_go import check_save, hand_out
from s3pet_viz.engine.prepare import Prepared, Request, prepare
from s3pet_viz.engine.prune import Pruning
from s3pet_viz.engine.stability import Stability
from s3pet_viz.engine.start import start_label
from s3pet_viz.engine.state import State
from s3pet_viz.engine.tracking import Tracking, tracker_names
from s3pet_viz.errors import ConfigError
from s3pet_viz.files import located, name_or_folder
from s3pet_viz.runs import Run, open_run
from s3pet_viz.runs.place import check_apart
from s3pet_viz.runs.writer import RunWriter
from s3pet_viz.sources import RUN, open_source
from s3pet_viz.training.arguments import check_arguments
from s3pet_viz.training.model_state import at_work
from s3pet_viz.training.own import ARGUMENTS, Own, OwnArguments, takes_own
from s3pet_viz.training.processes import Processes, find_processes


class SearchArguments(SearchOptions, OwnArguments, total=False):
    """Keywords of `search`."""


@takes(SearchConfig)
@takes_own()
@alone_with_its_model
def search(
    *,
    task: Any = None,
    backbone: str | Path | None = None,
    budget: str | int | float | None = None,
    space: Any = None,
    out: str | Path | None = None,
    resume: Run | str | Path | None = None,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    load: dict[str, Any] | None = None,
    track: Any = None,
    **options: Unpack[SearchArguments],
) -> Run:
    """Search where PET modules belong in a backbone, under an exact parameter budget.

    Args:
        task: a name (``glue/rte``, ``sentiment``), a folder, or splits in memory (see `tasks.load_task`).
        backbone: a name or folder; or `model` and `tokenizer` from memory, which are left as they were found.
        train, validation, test: in the place of a task, for any torch `model`: iterables of batches that can be read
            again (a DataLoader, a list, ...) or functions that make one. `train` moves the weights and `validation`
            alpha (mode ``prune``: it is looked at). A batch is whatever `loss` reads; its tensors are brought to the
            device. What shuffles is seeded, so that a resumed search reads what it would have read. `test`: see `tune`.
        loss: ``loss(model, batch)``, a scalar tensor.
        score: ``score(model, batches)``, a number or a mapping of names to numbers, the higher the better (``score``,
            or else the first, is the main one). Default: minus the loss.
        collate: makes a batch of a list of rows; then `train` and the others are rows (a `datasets.Dataset`, a list),
            of which `batch_size` are taken at a time.
        budget: ``"0.0139%"``, ``1.39e-4`` (fractions of the backbone) or ``8404`` (parameters).
        space: ``S3PET-M`` (the default), ``S3PET-L`` (``+cross`` adds cross-attention), a YAML / JSON file, a
            mapping, or a Space.
        out: the run directory; must not hold another run. Default: a new folder under ``runs/``.
        resume: a run directory to continue; then every other choice is the run's own. `task` and `backbone` may be
            given where they lie in a new place now; they must be those that the search began with. What was in memory
            (`model`, own batches and loss) has to be given again.
        callbacks: see `Callback`.
        load: further arguments of `tasks.load_task` for data in memory (``name``, ``task_spec``).
        track: experiment trackers: names that accelerate knows (``tensorboard``, ``wandb``, ...) or its
            `GeneralTracker` objects; see `engine.tracking.Tracking`. A resumed search keeps the run's, unless others
            are given; ``none`` turns them off.
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
        task=task,
        budget=budget,
        out=out,
        resume=resume,
        progress=progress,
        load={k: v for k, v in load.items() if k != "split"} if isinstance(load, Mapping) else load,  # its own option
    )
    callbacks = _callbacks(callbacks)
    given_options: dict[str, Any] = dict(options)
    parts = {name: given_options.pop(name, None) for name in ARGUMENTS}
    started: Run | None = open_source(resume, allow=RUN, what="resume") if resume is not None else None
    load = dict(load or {})
    # The run keeps them with its other options.
    chosen: dict[str, Any] = {**given_options, **{name: load.pop(name) for name in LOADING if name in load}}
    if isinstance(chosen.get("dtype"), torch.dtype):
        chosen["dtype"] = str(chosen["dtype"]).removeprefix("torch.")
    if "start_from" in chosen:
        chosen["start_from"] = start_label(chosen["start_from"])
    given = {"budget": budget, "space": space, **chosen}
    others = {"task": task, "backbone": backbone, "tokenizer": tokenizer, **load, **chosen}
    if (own := Own.of(parts, model=model, others=others)) is not None:
        task = own
    task, backbone = (name_or_folder(v) if isinstance(v, (str, Path)) else v for v in (task, backbone))
    what: dict[str, Any] = {
        "task": task,
        "backbone": backbone,
        "model": model,
        "tokenizer": tokenizer,
        "load": load,
        "out": None if out is None else located(out),
    }
    request = Request.fresh(given, **what) if started is None else Request.resumed(started, given, **what)
    check_save(request.config, started)
    if started is None and request.config.save is not None:
        check_apart(request.config.save, request.out)
    processes = find_processes()  # before accelerate is asked for anything else
    trackers = tracker_names(started.info.get("track") if started is not None and track is None else track)
    return _run(prepare(request, processes, trackers), trackers, callbacks, progress)


def _run(prepared: Prepared, trackers: Sequence[Any], callbacks: Sequence[Callback], progress: bool) -> Run:
    """The search itself, from its first step or from its checkpoint."""
    config, backbone, writer = prepared.config, prepared.backbone, prepared.writer
    rate, gates = config.rate(backbone.n_params), prepared.gates
    tracking = Tracking(trackers)
    if trackers and prepared.processes.leads:
        callbacks = (*callbacks, tracking)
    with (
        writer,
        closing(tracking),
        at_work(backbone, prepared.device),
        attached(backbone, [*gates, *prepared.pinned], config) as pets,
    ):
        problem = BackboneProblem(
            backbone.model,
            pets,
            prepared.batches.batch,
            head=backbone.head,
            head_lr_ratio=(config.head_lr or rate) / rate,
            autocast=prepared.device.autocast,
            constant_loss=prepared.batches.constant_loss,
            loss=backbone.loss_of,
            pinned=len(prepared.pinned),
        )
        state = make_state(problem, [g.n_params for g in gates], prepared.budget, config, rate, prepared.processes)
        if prepared.alpha is not None:
            state.alpha = torch.from_numpy(prepared.alpha)
        first, stability = 0, Stability(config.stop_when_stable)
        if prepared.resumed and has_checkpoint(writer.checkpoint_dir):
            first = load_checkpoint(writer.checkpoint_dir, state, fingerprint=prepared.fingerprint, stability=stability)

        def keep() -> None:
            if isinstance(writer, RunWriter):
                writer.write_scores(hand_out(prepared, pets, open_run(writer.path)).to_dict())

        Search(
            config,
            gates,
            state,
            writer,
            pinned=prepared.pinned,
            fingerprint=prepared.fingerprint,
            first_step=first,
            stability=stability,
            callbacks=callbacks,
            progress=progress,
            hand_out=None if config.save is None else keep,
        ).run()
    prepared.processes.wait()
    return open_run(writer.path)


def make_state(
    problem: Any,
    counts: Sequence[int],
    budget: float,
    config: SearchConfig,
    lr: float,
    processes: Processes | None = None,
) -> State:
    """The `State` of a search with these options on any `Problem`."""
    pruning = None
    if config.mode == "prune":
        pruning = Pruning(
            counts,
            budget,
            config.steps,
            open_steps=config.open_steps,
            shrink_steps=config.shrink_steps,
            constant_loss=problem.constant_loss("train"),
            held_out_constant=problem.constant_loss("val"),
        )
    same = (
        "alpha_lr",
        "clip",
        "seed",
        "difference_eps",
        "second_order_from",
        "second_order_cap",
        "second_order_every",
        "accumulation",
    )
    return State(
        problem,
        GateModel(counts, budget, config.tau, config.competition, config.skip_below),
        lr=lr,
        processes=processes or Processes(),
        schedule=config.schedule_at if pruning is None or config.schedule == "constant" else pruning.decay,
        pruning=pruning,
        **{name: getattr(config, name) for name in same},
    )


def _callbacks(callbacks: Any) -> tuple[Callback, ...]:
    several = isinstance(callbacks, (list, tuple))
    wrong = [c for c in callbacks if not isinstance(c, Callback)] if several else [callbacks]
    if wrong:
        raise ConfigError(f"callbacks: expected a list of Callback objects, found {short(wrong[0])}")
    return tuple(callbacks)
