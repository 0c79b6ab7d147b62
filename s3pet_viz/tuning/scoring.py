"""`score`: a structure from one pass of scores, in seconds, without a search."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from torch import nn

from s3pet_viz.analysis.one_pass import OnePassScores, TaskScores
from s3pet_viz.config.checks import short
from s3pet_viz.config.names import LAYER_SCORES, SPACES
from s3pet_viz.config.options import config_of, takes
from s3pet_viz.config.scoring import ScoreConfig
from s3pet_viz.errors import ConfigError
from s3pet_viz.pet import Space, load_space
from s3pet_viz.structure.budget import Budget
from s3pet_viz.tasks.load import check_name
from s3pet_viz.training.arguments import check_arguments
from s3pet_viz.training.own import ARGUMENTS, Own, takes_own
from s3pet_viz.training.pair import load_pair
from s3pet_viz.tuning.layer_scores import Draw
from s3pet_viz.tuning.one_pass import candidates_of, check_lora, parse_method, parted, score_rest, space_types
from s3pet_viz.tuning.origin import check_workbench
from s3pet_viz.tuning.workbench import Workbench


@overload
def score(*, task: Any = ..., tasks: None = ..., **options: Any) -> OnePassScores: ...


@overload
def score(*, tasks: Sequence[Any], **options: Any) -> TaskScores: ...


@takes(ScoreConfig)
@takes_own("score")
def score(
    *,
    task: Any = None,
    tasks: Sequence[Any] | None = None,
    backbone: str | Path | None = None,
    budget: str | int | float = "0.1%",
    space: Any = None,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    device: str = "auto",
    precision: str = "fp32",
    split: str = "paper",
    workbench: Workbench | None = None,
    load: dict[str, Any] | None = None,
    draw: Draw | None = None,
    progress: bool = True,
    **options: Any,
) -> OnePassScores | TaskScores:
    """Score every gate of a search space by one pass over training rows, and choose a structure by the scores.

    Args:
        task: a name, a folder, or data in memory (see `tasks.load_task`).
        tasks: several instead: names or folders. What the scores say of each, and how far they agree.
        backbone: name or folder; or `model` and `tokenizer` from memory, which are left as they were.
        budget: of the structure, which never exceeds it.
        space: a preset, a file, a mapping or a Space. Default: S3PET-M; of ``gora``, ``plop`` and ``domlora``, which
            take LoRA alone, S3PET-L; of ``eva``, which gives ranks, LoRA-ranks.
        split, load: as of `tune`.
        workbench: reuse one that is open (then task and backbone are its own).
        train, validation, test, loss, collate: own batches and loss with `model`, as of `search`. ``plop`` and ``eva``
            read tokens, and cannot take them.
        draw: the Gaussian inputs of ``plop``, see `tuning.one_pass.score_gates`. Default: drawn with the seed.
        options: fields of `ScoreConfig`.

    Returns:
        `OnePassScores`: ``.structure(budget)``, ``.table()``, ``.heatmap()``. Of `tasks`: `TaskScores`, a mapping of
        them by task, with ``.correlation()`` and ``.heatmap()``.

    Raises:
        S3PETError: one of its kinds, before the model is at work; NonFiniteLossError while scoring.
    """
    check_arguments(
        task=task,
        backbone=backbone,
        budget=budget,
        device=device,
        precision=precision,
        split=split,
        load=load,
        draw=draw,
        progress=progress,
    )
    check_workbench(workbench)
    parts = {name: options.pop(name, None) for name in ARGUMENTS if name != "score"}
    others = {
        "task": task,
        "tasks": tasks,
        "backbone": backbone,
        "tokenizer": tokenizer,
        "split": split,
        **(load or {}),
    }
    task = Own.of(parts, model=model, others=others | options) or task
    config = config_of(ScoreConfig, options)
    kind, per = parse_method(config.method)
    usual = SPACES[4] if kind == "eva" else SPACES[1] if kind in LAYER_SCORES else SPACES[0]
    chosen: Space = load_space(usual if space is None else space)
    check_lora(kind, space_types(chosen))
    parsed = Budget.parse(budget)
    names = _several(task, tasks, workbench)

    read: dict[str, Any] = {"model": model, "tokenizer": tokenizer, "split": split, **(load or {})}

    def opened(which: Any, **beside: Any) -> Workbench:
        places: dict[str, Any] = {"device": device, "precision": precision}
        most = config.max_source_length
        return Workbench.open(which, backbone, max_source_length=most, **places, **beside, **read)

    def one(bench: Workbench) -> OnePassScores:
        candidates = candidates_of(bench, kind, chosen)
        gates = candidates.gates
        parameters = parsed.parameters(bench.backbone.n_params)
        made = score_rest(
            bench,
            kind,
            gates,
            config.pin,
            parted(kind, gates, config.pin, parameters),
            seed=config.seed,
            rows=config.rows,
            batch_size=config.batch_size,
            warm_steps=config.warm_steps,
            draw=draw,
            progress=progress,
        )
        return replace(made, budget=parameters, per=per, inert=candidates.inert)

    if tasks is None:
        return one(workbench or opened(task))
    for name in names:
        check_name(name)
    first, *later = names
    bench = opened(first)
    for name in later:  # what is wrong with a later task is said before the first is scored
        load_pair(name, backbone, scored=True, loaded=bench.backbone, **read)
    found = [one(bench), *(one(opened(name, loaded=bench.backbone)) for name in later)]
    labels = [made.task for made in found]
    labels = [label if labels.count(label) == 1 else str(name) for label, name in zip(labels, names, strict=True)]
    return TaskScores(dict(zip(labels, found, strict=True)))


def _several(task: Any, tasks: Any, workbench: Workbench | None) -> list[str]:
    """The names of `tasks`; none where there is one task.

    Raises:
        ConfigError: not a list of distinct names, or given beside a task or a workbench.
    """
    if tasks is None:
        if task is None and workbench is None:
            raise ConfigError("task: expected a task, or tasks=[...], found none")
        return []
    if task is not None or workbench is not None:
        raise ConfigError(f"tasks: expected no {'workbench' if task is None else 'task'} beside them")
    good = isinstance(tasks, (list, tuple)) and all(isinstance(t, (str, os.PathLike)) and str(t) for t in tasks)
    if not good or not tasks or len({str(t) for t in tasks}) < len(tasks):
        raise ConfigError(f"tasks: expected a list of different names or folders, found {short(tasks)}")
    return [str(t) for t in tasks]
