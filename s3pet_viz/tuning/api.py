"""`tune` and `baselines`: from a structure and a task to scores and tables."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Unpack, cast

import pandas as pd

from s3pet_viz.analysis.measures import need_sizes
from s3pet_viz.backbones.placed import stays
from s3pet_viz.backbones.quantised import need_plain
from s3pet_viz.config.checks import seed_list, short, whole
from s3pet_viz.config.options import config_of, takes
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import AdapterError, ConfigError
from s3pet_viz.export import Adapter
from s3pet_viz.export.folder import check_free_folder
from s3pet_viz.export.host import read_adapter
from s3pet_viz.export.peft_form import need_peft
from s3pet_viz.pet import load_space
from s3pet_viz.sources import A_SOURCE, Source, open_source, structure_of
from s3pet_viz.structure import Gate, Structure
from s3pet_viz.structure.budget import Budget, check_budget
from s3pet_viz.structure.pins import part, read_pin
from s3pet_viz.training.evaluate import evaluate as evaluate_backbone
from s3pet_viz.training.scores import Scores
from s3pet_viz.tuning import adalora
from s3pet_viz.tuning.adalora import AdaLoRA
from s3pet_viz.tuning.baselines import (
    EVERYWHERE,
    MANUAL,
    OTHERS,
    against_budget,
    lora_everywhere,
    manual_structure,
    random_structure,
)
from s3pet_viz.tuning.one_pass import ONE_PASS_METHODS, OnePassScores, check_lora, parse_method, parted, score_rest
from s3pet_viz.tuning.origin import PlaceOptions, TrainOptions, bench_of, split_options, takes_place, warn_of_scored

DEFAULT_BASELINES = ("untouched", "head", *MANUAL, "random", "full")


@takes(TuneConfig)
@takes_place
def tune(
    structure: Source,
    *,
    progress: bool = True,
    label: str | None = None,
    save: str | Path | None = None,
    overwrite: bool = False,
    **options: Unpack[TrainOptions],
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
        train, validation, test, loss, score, collate: own batches and loss with `model` in the place of a task, as of
            `search`. `validation` decides, `test` is scored; where there is none, validation is, with a warning.
        save: keep the trained weights in this folder, see `Adapter.from_pretrained`.
        overwrite: save into a folder that is not empty.
        options: fields of `TuneConfig`.

    Raises:
        S3PETError: one of its kinds, before any long work starts; NonFiniteLossError during training.
    """
    place, others = split_options(options, progress=progress, label=label, save=save, overwrite=overwrite)
    source, method = None, cast(Any, structure)
    if not (isinstance(structure, str) and structure in OTHERS):
        wanted = f"one of {', '.join(OTHERS)}, {A_SOURCE}"
        source = open_source(structure, what="structure", wanted=wanted, backbone=place["backbone"])
        method = structure_of(source)
        need_sizes(method.gates, "tune")
    if save is not None:
        if source is None:
            raise ConfigError(f"save: expected a structure, whose PET weights can be kept, found {structure!r}")
        check_free_folder(save, overwrite)
    bench, config, loading = bench_of(source, place, others)
    warn_of_scored(bench)
    with bench.tuned(method, config, label=label, progress=progress) as (scores, pets):
        if save is not None and pets is not None:
            adapter = bench.adapter(method, pets, scores, config, loading.get("revision"))
            adapter.save_pretrained(save, overwrite=overwrite)
        return scores


@takes_place
def evaluate(
    adapter: Adapter | str | Path,
    *,
    max_source_length: int | None = None,
    batch_size: int = 100,
    **options: Unpack[PlaceOptions],
) -> dict[str, float]:
    """Score a trained adapter on a task's held-out split; nothing is trained.

    Args:
        adapter: an `Adapter`, or its folder or name on the hub.
        task, split, load: as of `tune`.
        backbone: name or folder, the adapter's own where it is None; or `model` and `tokenizer` from memory.
        train, validation, test, loss, score, collate: own batches and loss with `model`, as of `tune`.

    Returns:
        The task's metrics, ``score`` and ``loss``.

    Raises:
        S3PETError: one of its kinds, before any long work starts.
    """
    place, others = split_options({**options, "max_source_length": max_source_length})
    del others["max_source_length"]
    if others:
        raise TypeError(f"evaluate() got an unexpected keyword argument {next(iter(others))!r}")
    batch_size = whole("batch_size", batch_size, 1)
    if max_source_length is not None:
        max_source_length = whole("max_source_length", max_source_length, 1)
    held = read_adapter(adapter, "adapter")
    own: dict[str, Any] = {}
    if place["model"] is None:
        own["head"] = "lm" if held.form == "text" else "classification"
        if place["backbone"] is None and held.revision:
            own["revision"] = held.revision
        place["backbone"] = place["backbone"] or held.backbone
    place["load"] = own | (place["load"] or {})
    bench, _, _ = bench_of(None, place, {"max_source_length": max_source_length})
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
@takes_place
def baselines(
    *,
    budget: str | int | float = "0.1%",
    space: Any = "S3PET-M",
    seeds: int | Sequence[int] = 3,
    methods: Sequence[str] = DEFAULT_BASELINES,
    n_random: int = 3,
    structures: Mapping[str, Source] | None = None,
    pin: Mapping[str, Any] | str | None = None,
    progress: bool = True,
    on_scores: Callable[[Scores], None] | None = None,
    **options: Unpack[TrainOptions],
) -> pd.DataFrame:
    """Train the baselines (and any `structures`) on a task; one row per training run.

    Args:
        budget, space: of the random structures and the one-pass scores; the budget also of ``LoRA-everywhere`` and
            ``AdaLoRA``.
        seeds: how many (0, 1, ...) or which.
        methods: names among ``untouched head LoRA Adapter LowRankAdapter Compacter BitFit LNFit random full`` (the
            default) and the one-pass scores ``gradient fisher sensitivity``, each also with ``/param``, and, in a
            space of LoRA alone, ``gora plop domlora eva`` (see `tuning.one_pass`; they are scored and trained with each
            of `seeds`). ``LoRA-everywhere`` is LoRA on every linear layer at the rank whose size is nearest to the
            budget; ``AdaLoRA`` prunes ranks down to it on its way, by PEFT (see `tuning.adalora`).
            ``head`` is left out, with a warning, where the backbone has none; ``full``, of the default, where the
            backbone's weights are quantised, or wait elsewhere.
        n_random: random structures; structure k is drawn with seed k and trained once with each of `seeds`.
        pin: gates that the random structures and those of one-pass scores have, and others that they have not, as of
            `search`: beside a search with pins. The other methods take nothing from the space, and hold none.
        structures: further structures by name (or what names one, see `sources.Source`), e.g. ``{"searched": run}``.
        options: fields of `TuneConfig`, but seed.

    Returns:
        Columns method, task, seed, score, loss, validation, pet_params, percent, head_params, n_gates,
        best_step, steps_taken, cap_reached, learned, seconds, structure (which random one) and the task's metrics; then
        budget (in parameters), meets_budget (from 95 % of it to all of it; None of methods without a budget), words (by
        how much it is missed) and passes (those that the structure took: 0 where it took none, None of `structures`;
        ``AdaLoRA``'s are the first steps of its own training). ``seconds`` are of the training alone: what one-pass
        scores took is not in it.
    """
    more: dict[str, Any] = {"budget": budget, "methods": methods, "structures": structures, "on_scores": on_scores}
    place, others = split_options(options, progress=progress, **more)
    if "seed" in options:
        raise ConfigError(f"seeds: expected how many, or which, found seed={short(options['seed'])}")
    config_of(TuneConfig, others)  # says what is wrong before a file is opened
    chosen_space = load_space(space)
    parsed = Budget.parse(budget)
    held = None if pin is None else read_pin("pin", pin)
    n_random = whole("n_random", n_random, 1)
    numbers = seed_list(seeds)
    allowed = {*MANUAL, *OTHERS, *ONE_PASS_METHODS, EVERYWHERE, adalora.NAME, "random"}
    for name in methods:
        if name not in allowed:
            raise ConfigError(f"methods: expected names among {', '.join(sorted(allowed))}, found {name!r}")
    if adalora.NAME in methods:
        need_peft(adalora.NAME)
    given = {}
    for name, source in (structures or {}).items():
        given[name] = structure_of(open_source(source, what=f"structures: {name}", backbone=place["backbone"]))
        need_sizes(given[name].gates, "baselines")
    bench, config, _ = bench_of(None, place, others)
    warn_of_scored(bench)
    chosen = list(dict.fromkeys(methods))
    if "head" in chosen and not bench.backbone.head:
        if tuple(methods) != DEFAULT_BASELINES:
            warnings.warn("baselines: 'head' is left out: this backbone has no head", stacklevel=2)
        chosen.remove("head")
    if tuple(methods) == DEFAULT_BASELINES and stays(bench.backbone.model):
        chosen.remove("full")
    for name in {"full", adalora.NAME} & set(chosen):
        need_plain(f"methods: {name}", bench.backbone.model)
    gates: list[Gate] = []
    size = parsed.parameters(bench.backbone.n_params)
    if {"random", *ONE_PASS_METHODS} & set(chosen):
        gates = bench.candidates(chosen_space).gates
        check_budget([g.n_params for g in gates], size)
        if held:
            part(gates, held, size)

    @cache  # per gate and per parameter share their scores
    def scored(kind: str, seed: int) -> OnePassScores:
        options: Any = {"seed": seed, "config": replace(config, seed=seed), "progress": progress}
        return score_rest(bench, kind, gates, held, parted(kind, gates, held, size), **options)

    def one_pass(name: str) -> Callable[[int], Structure]:
        kind, per = parse_method(name)
        check_lora(kind, (g.pet_type for g in gates))
        parted(kind, gates, held, size)
        return lambda seed: scored(kind, seed).structure(size, per)

    def pruned(seed: int) -> AdaLoRA:
        return AdaLoRA(bench.backbone, size, replace(config, seed=seed))

    # All that can be wrong is found before the first training.
    plan: list[tuple[str, int, Any]] = [(name, 0, structure) for name, structure in given.items()]
    for name in chosen:
        if name == "random":
            plan += [(name, k, random_structure(gates, size, bench.backbone, k, held)) for k in range(n_random)]
        elif name in ONE_PASS_METHODS:
            plan.append((name, 0, one_pass(name)))
        elif name == EVERYWHERE:
            plan.append((name, 0, lora_everywhere(bench.backbone, size)))
        elif name == adalora.NAME:
            pruned(0)
            plan.append((name, 0, pruned))
        else:
            plan.append((name, 0, manual_structure(name, bench.backbone) if name in MANUAL else name))
    rows = []
    for name, which, method in plan:
        for seed in numbers if method != "untouched" else numbers[:1]:
            trained = method(seed) if callable(method) else method
            scores = bench.run(trained, replace(config, seed=seed), label=name, progress=progress)
            stands = against_budget(scores.structure, None if name in (*given, *MANUAL) else size)
            passes = None if name in given else _passes(scores.structure)
            rows.append({**scores.row(), "structure": which, **stands, "passes": passes})
            if on_scores is not None:
                on_scores(scores)
    return pd.DataFrame(rows)


def _passes(structure: Structure | None) -> int:
    return 0 if structure is None else int(structure.source.get("steps", 0))


def _all(meets: pd.Series[Any]) -> bool | None:
    return None if meets.isna().any() else bool(meets.all())


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, spread (standard deviation) and count per method, in order of first appearance; and whether all met the
    budget.
    """
    grouped = table.groupby("method", sort=False)
    made = grouped.agg(
        score=("score", "mean"),
        spread=("score", "std"),
        runs=("score", "size"),
        loss=("loss", "mean"),
        pet_params=("pet_params", "mean"),
        percent=("percent", "mean"),
        head_params=("head_params", "max"),
        meets_budget=("meets_budget", _all),
        passes=("passes", "max"),
        seconds=("seconds", "sum"),
    )
    return made.reset_index()
