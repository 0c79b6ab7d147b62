"""`tune` and `baselines`: from a structure and a task to scores and tables."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack, cast

import pandas as pd
from torch import nn

from s3pet_viz.analysis.measures import need_sizes
from s3pet_viz.backbones import Backbone, positions
from s3pet_viz.config.checks import seed_list, short, whole
from s3pet_viz.config.options import takes
from s3pet_viz.config.tuning import TuneConfig, make_config
from s3pet_viz.config.typed import TuneOptions
from s3pet_viz.errors import AdapterError, ConfigError
from s3pet_viz.export import Adapter
from s3pet_viz.export.folder import check_free_folder
from s3pet_viz.export.host import read_adapter
from s3pet_viz.pet import candidate_gates, load_space
from s3pet_viz.sources import A_SOURCE, Source, open_source, structure_of
from s3pet_viz.structure import Gate, Structure
from s3pet_viz.structure.budget import Budget, check_budget
from s3pet_viz.training.arguments import check_arguments
from s3pet_viz.training.evaluate import evaluate as evaluate_backbone
from s3pet_viz.training.pair import load_pair
from s3pet_viz.training.scores import Scores
from s3pet_viz.tuning.baselines import MANUAL, OTHERS, manual_structure, random_structure
from s3pet_viz.tuning.one_pass import ONE_PASS_METHODS, OnePassScores, Per, check_lora, parse_method, score_gates
from s3pet_viz.tuning.origin import bench_of
from s3pet_viz.tuning.workbench import Workbench, check_workbench

__all__ = [
    "DEFAULT_BASELINES",
    "Scores",
    "Workbench",
    "baselines",
    "evaluate",
    "load_pair",
    "make_config",
    "summary",
    "tune",
]

DEFAULT_BASELINES = ("untouched", "head", *MANUAL, "random", "full")


@takes(TuneConfig)
def tune(
    structure: Source,
    *,
    task: Any = None,
    backbone: str | Path | None = None,
    progress: bool = True,
    label: str | None = None,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    device: str = "auto",
    precision: str = "fp32",
    split: str | None = None,
    workbench: Workbench | None = None,
    load: dict[str, Any] | None = None,
    save: str | Path | None = None,
    overwrite: bool = False,
    **options: Unpack[TuneOptions],
) -> Scores:
    """Train a fixed structure from scratch on a task and score the best weights seen.

    Args:
        structure: a structure, a run (its own structure is tuned), what names one (`sources.Source`), or ``"full"``,
            ``"head"``, ``"untouched"``.
        task: a name, a folder, or data in memory (see `tasks.load_task`); default: the run's or structure's own.
        backbone: name or folder, default as of `task`; or `model` and `tokenizer` from memory, which are left as they
            were.
        split: ``paper`` or ``holdout``, see `tasks.load_task`; default: the run's own on its own task, else ``paper``.
        workbench: reuse one that is open (then task and backbone are its own).
        load: further arguments of `tasks.load_task` and `load_pair` (head, revision, name, max_rows, ...).
        save: keep the trained weights in this folder, see `Adapter.from_pretrained`.
        overwrite: save into a folder that is not empty.
        options: fields of `TuneConfig`.

    Raises:
        S3PETError: one of its kinds, before any long work starts; NonFiniteLossError during training.
    """
    check_arguments(
        task=task,
        progress=progress,
        label=label,
        device=device,
        precision=precision,
        split=split,
        load=load,
        save=save,
        overwrite=overwrite,
    )
    check_workbench(workbench)
    source, method = None, cast(Any, structure)
    if not (isinstance(structure, str) and structure in OTHERS):
        wanted = f"one of {', '.join(OTHERS)}, {A_SOURCE}"
        source = open_source(structure, what="structure", wanted=wanted, backbone=backbone)
        method = structure_of(source)
        need_sizes(method.gates, "tune")
    if save is not None:
        if source is None:
            raise ConfigError(f"save: expected a structure, whose PET weights can be kept, found {structure!r}")
        check_free_folder(save, overwrite)
    bench, config, loading = bench_of(
        source,
        task,
        backbone,
        dict(options),
        workbench,
        model=model,
        tokenizer=tokenizer,
        device=device,
        precision=precision,
        split=split,
        load=load,
    )
    with bench.tuned(method, config, label=label, progress=progress) as (scores, pets):
        if save is not None and pets is not None:
            adapter = bench.adapter(method, pets, scores, config, loading.get("revision"))
            adapter.save_pretrained(save, overwrite=overwrite)
        return scores


def evaluate(
    adapter: Adapter | str | Path,
    *,
    task: Any,
    backbone: str | Path | None = None,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    device: str = "auto",
    precision: str = "fp32",
    split: str = "paper",
    max_source_length: int | None = None,
    batch_size: int = 100,
    load: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Score a trained adapter on a task's held-out split; nothing is trained.

    Args:
        adapter: an `Adapter`, or its folder or name on the hub.
        task, split, load: as of `tune`.
        backbone: name or folder, the adapter's own where it is None; or `model` and `tokenizer` from memory.

    Returns:
        The task's metrics, ``score`` and ``loss``.

    Raises:
        S3PETError: one of its kinds, before any long work starts.
    """
    check_arguments(task=task, backbone=backbone, device=device, precision=precision, split=split, load=load)
    batch_size = whole("batch_size", batch_size, 1)
    if max_source_length is not None:
        max_source_length = whole("max_source_length", max_source_length, 1)
    held = read_adapter(adapter, "adapter")
    own: dict[str, Any] = {"head": "lm" if held.form == "text" else "classification"} if model is None else {}
    if backbone is None and model is None and held.revision:
        own["revision"] = held.revision
    bench = Workbench.open(
        task,
        (backbone or held.backbone) if model is None else None,
        model=model,
        tokenizer=tokenizer,
        device=device,
        precision=precision,
        max_source_length=max_source_length,
        split=split,
        **{**own, **(load or {})},
    )
    spec = bench.splits.data.task
    if bench.backbone.form == "pair" and held.labels and held.labels != spec.label_names:
        raise AdapterError(
            f"{held.where}: expected labels numbered as in task {spec.name} ({', '.join(spec.label_names)}), found "
            f"{', '.join(held.labels)} (field 'labels')"
        )
    with bench.working(), held.attach(bench.backbone):
        return evaluate_backbone(
            bench.backbone, spec, bench.splits.test, batch_size=batch_size, autocast=bench.device.autocast
        )


@takes(TuneConfig, "seed")
def baselines(
    *,
    task: Any = None,
    backbone: str | Path | None = None,
    budget: str | int | float = "0.1%",
    space: Any = "S3PET-M",
    seeds: int | Sequence[int] = 3,
    methods: Sequence[str] = DEFAULT_BASELINES,
    n_random: int = 3,
    structures: dict[str, Structure] | None = None,
    workbench: Workbench | None = None,
    device: str = "auto",
    precision: str = "fp32",
    split: str = "paper",
    load: dict[str, Any] | None = None,
    progress: bool = True,
    on_scores: Callable[[Scores], None] | None = None,
    **options: Unpack[TuneOptions],
) -> pd.DataFrame:
    """Train the baselines (and any `structures`) on a task; one row per training run.

    Args:
        budget, space: of the random structures and the one-pass scores.
        seeds: how many (0, 1, ...) or which.
        methods: names among ``untouched head LoRA Adapter LowRankAdapter Compacter BitFit LNFit random full`` (the
            default) and the one-pass scores ``gradient fisher sensitivity``, each also with ``/param``, and, in a
            space of LoRA alone, ``gora plop`` (see `tuning.one_pass`; they are scored and trained with each of
            `seeds`).
            ``head`` is left out, with a warning, where the backbone has none.
        n_random: random structures; structure k is drawn with seed k and trained once with each of `seeds`.
        structures: further structures by name, e.g. ``{"searched": run.structure()}``.
        options: fields of `TuneConfig`, but seed.

    Returns:
        Columns method, task, seed, score, loss, validation, pet_params, percent, head_params, n_gates,
        best_step, seconds, structure (which random one) and the task's metrics. ``seconds`` are of the
        training alone: what one-pass scores took is not in it.
    """
    check_arguments(
        task=task,
        budget=budget,
        methods=methods,
        structures=structures,
        device=device,
        precision=precision,
        split=split,
        load=load,
        progress=progress,
        on_scores=on_scores,
    )
    check_workbench(workbench)
    if "seed" in options:
        raise ConfigError(f"seeds: expected how many, or which, found seed={short(options['seed'])}")
    config, chosen_space = make_config(**options), load_space(space)
    parsed = Budget.parse(budget)
    n_random = whole("n_random", n_random, 1)
    numbers = seed_list(seeds)
    allowed = {*MANUAL, *OTHERS, *ONE_PASS_METHODS, "random"}
    for name in methods:
        if name not in allowed:
            raise ConfigError(f"methods: expected names among {', '.join(sorted(allowed))}, found {name!r}")
    bench = workbench or Workbench.open(
        task,
        backbone,
        device=device,
        precision=precision,
        split=split,
        max_source_length=config.max_source_length,
        **(load or {}),
    )
    chosen = list(dict.fromkeys(methods))
    if "head" in chosen and not bench.backbone.head:
        if tuple(methods) != DEFAULT_BASELINES:
            warnings.warn("baselines: 'head' is left out: a language model has no head", stacklevel=2)
        chosen.remove("head")
    plan = list(_plan(bench.backbone, chosen, parsed, chosen_space, n_random, structures or {}))
    rows = []
    scored: dict[tuple[str, int], OnePassScores] = {}
    for name, which, method in plan:
        for seed in numbers if method != "untouched" else numbers[:1]:
            seeded = replace(config, seed=seed)
            if isinstance(method, _OnePass):
                key = (method.kind, seed)  # per gate and per parameter share their scores
                if key not in scored:
                    scored[key] = score_gates(
                        bench, method.kind, method.gates, seed=seed, config=seeded, progress=progress
                    )
                trained: str | Structure = scored[key].structure(method.budget, method.per)
            else:
                trained = method
            scores = bench.run(trained, seeded, label=name, progress=progress)
            rows.append({**scores.row(), "structure": which})
            if on_scores is not None:
                on_scores(scores)
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _OnePass:
    """A structure that is known only once a seed is: how to pick it."""

    kind: str
    per: Per
    gates: Sequence[Gate]
    budget: int


def _plan(
    backbone: Backbone,
    methods: Sequence[str],
    budget: Budget,
    space: Any,
    n_random: int,
    structures: dict[str, Structure],
) -> Iterator[tuple[str, int, str | Structure | _OnePass]]:
    """(name, which, what to train); everything that can be wrong is found before the first training."""
    for name, structure in structures.items():
        yield name, 0, structure
    gates: list[Gate] = []
    parameters = 0
    if "random" in methods or set(methods) & set(ONE_PASS_METHODS):
        gates, _ = candidate_gates(positions(backbone.model), load_space(space))
        parameters = budget.parameters(backbone.n_params)
        check_budget([g.n_params for g in gates], parameters)
    for name in methods:
        if name in ONE_PASS_METHODS:
            kind, per = parse_method(name)
            check_lora(kind, (g.pet_type for g in gates))
            yield name, 0, _OnePass(kind, per, gates, parameters)
        elif name == "random":
            for k in range(n_random):
                yield name, k, random_structure(gates, parameters, backbone, k)
        elif name in MANUAL:
            yield name, 0, manual_structure(name, backbone)
        else:
            yield name, 0, name


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, spread (standard deviation) and count per method, in order of first appearance."""
    grouped = table.groupby("method", sort=False)
    made = grouped.agg(
        score=("score", "mean"),
        spread=("score", "std"),
        runs=("score", "size"),
        loss=("loss", "mean"),
        pet_params=("pet_params", "mean"),
        percent=("percent", "mean"),
        head_params=("head_params", "max"),
        seconds=("seconds", "sum"),
    )
    return made.reset_index()
