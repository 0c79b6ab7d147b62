"""`sweep`: searches and trainings over tasks, budgets, seeds and modes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from s3pet_viz.analysis.study import Study
from s3pet_viz.config.search import named_mode
from s3pet_viz.errors import ConfigError
from s3pet_viz.studies.cells import Cell, as_list, task_names
from s3pet_viz.studies.options import StudyOptions, takes_study_options
from s3pet_viz.studies.plan import Ground, check_methods, make_ground
from s3pet_viz.studies.worker import Given
from s3pet_viz.training.arguments import check_arguments
from s3pet_viz.training.own import ARGUMENTS, Own, takes_own
from s3pet_viz.tuning import adalora

DEFAULT_METHODS = ("searched", "random")
#: Methods that a search precedes.
SEARCHED = ("searched", "resolved")


@takes_study_options
@takes_own()
def sweep(
    *,
    tasks: Any = None,
    backbone: str | Path | None = None,
    budgets: Any,
    modes: Any = ("fast",),
    methods: Sequence[str] = DEFAULT_METHODS,
    search_budget: str | int | float | None = None,
    model: nn.Module | None = None,
    **options: Any,
) -> Study:
    """Search and train over every combination, each exactly once; call it again to go on where it ended.

    Args:
        tasks: names or folders. backbone: name or folder (default: tiny-t5).
        budgets: one or several.
        modes: of the search.
        methods: among ``searched`` (a search at each budget), ``resolved`` (the search at `search_budget`, its alpha
            solved again at each other budget: one search serves all), ``random`` (structures of the same budget),
            one-pass scores (``gradient``, ``fisher``, ``sensitivity``, each also ``.../param``; in a space of LoRA
            alone ``gora``, ``plop``, ``domlora``, ``eva``), ``LoRA-everywhere`` (at the rank nearest to the
            budget), ``AdaLoRA``, manual structures (``LoRA``, ``BitFit``, ...), ``full``, ``head``, ``untouched``.
        search_budget: of the searches that ``resolved`` reads (default: the largest of `budgets`).
        model, train, validation, test, loss, score, collate: own batches and loss, as of `tune`, in the place of tasks
            and a backbone. They cannot travel, so all cells run in this process, one after another.
        options: see `StudyOptions`.

    Returns:
        The `Study`: ``.table()``, ``.summary()``, ``.differences()``, ``.failed()``, ``.runs()``.

    Raises:
        S3PETError: one of its kinds, before any long work starts.
        KeyboardInterrupt: after Ctrl-C; what is done is kept.
    """
    check_arguments(backbone=backbone, budget=search_budget)
    parts = {name: options.pop(name, None) for name in ARGUMENTS}
    shared = StudyOptions.of(options)
    others = {"tasks": tasks, "backbone": backbone, **shared.options, **(shared.load or {})}
    for nested in (shared.options.get("search"), shared.options.get("tune")):
        others |= nested if isinstance(nested, Mapping) else {}
    others |= {name: getattr(shared, name) for name in ("executor", "workers", "split")}
    own = Own.of(parts, model=model, others=others)
    if own is None and model is not None:
        raise ConfigError("model: expected loss=, train= and validation= beside it; of a task, save it as a folder")
    given = None if own is None else Given(model, own)
    names = task_names(as_list(tasks, "tasks")) if own is None else {own.name: own.name}
    budget_list = as_list(budgets, "budgets")
    mode_list = as_list([named_mode(mode) for mode in as_list(modes, "modes")], "modes")
    method_list = as_list(methods, "methods")
    check_methods(method_list, SEARCHED)
    if given is not None and adalora.NAME in method_list:
        raise ConfigError(f"methods: expected none of {adalora.NAME} with a loss of your own")
    ground = make_ground(names, backbone, shared, given)
    searching = set(SEARCHED) & set(method_list)
    sizes = ground.check(
        [*budget_list, *([search_budget] if search_budget is not None else [])], mode_list if searching else ()
    )
    origin = search_budget if search_budget is not None else max(budget_list, key=lambda b: sizes[b])
    cells = _plan(
        ground, {budget: sizes[budget] for budget in budget_list}, mode_list, method_list, origin, sizes[origin]
    )
    return shared.run(
        "sweep",
        cells,
        given=given,
        tasks=dict(names),
        backbone=ground.backbone,
        budgets=[str(b) for b in budget_list],
        modes=mode_list,
        methods=method_list,
        search_budget=str(origin),
        space=ground.space,
    )


def _plan(
    ground: Ground, sizes: Mapping[Any, int], modes: Sequence[str], methods: Sequence[str], origin: Any, size: int
) -> list[Cell]:
    """The cells of a sweep, seed by seed, so that an interrupted one has whole seeds.

    Args:
        sizes: budget -> parameters. origin, size: the budget that ``resolved`` is searched at, and its parameters.
    """
    cells: list[Cell] = []
    others = [m for m in methods if m not in SEARCHED]
    for i, seed in enumerate(ground.options.seed_numbers):
        for task in ground.tasks:
            for mode, budget in itertools.product(modes, sizes):
                more: dict[str, Any] = {"budget": budget, "budget_params": sizes[budget], "mode": mode}
                for method, at in zip(SEARCHED, (budget, origin), strict=True):
                    if method not in methods or (method == "resolved" and sizes[budget] == size):
                        continue
                    run = ground.search(task, at, mode, seed)
                    structure = {"kind": "run", "run": run.key, "budget": budget}
                    cells += [run, ground.tune(task, method, structure, seed, source=task, needs=[run], **more)]
            cells += ground.without_search(task, others, sizes, seed, first=i == 0)
    return cells
