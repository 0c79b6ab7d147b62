"""`sweep`: searches and trainings over tasks, budgets, seeds and modes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from s3pet_viz.analysis.study import Study
from s3pet_viz.config.checks import seed_list, whole
from s3pet_viz.errors import StudyError
from s3pet_viz.studies.cells import Cell, as_list, key_of, task_names, unique
from s3pet_viz.studies.executors import as_executor
from s3pet_viz.studies.plan import Ground, check_methods, make_ground
from s3pet_viz.studies.runner import OnCell, run_cells
from s3pet_viz.training.arguments import check_arguments
from s3pet_viz.tuning.one_pass import ONE_PASS_METHODS

DEFAULT_METHODS = ("searched", "random")


def sweep(
    *,
    tasks: Any,
    backbone: str | Path | None = None,
    budgets: Any,
    seeds: int | Iterable[int] = 3,
    modes: Any = ("fast",),
    methods: Sequence[str] = DEFAULT_METHODS,
    n_random: int = 1,
    search_budget: str | int | float | None = None,
    space: Any = "S3PET-M",
    out: str | Path | None = None,
    executor: Any = None,
    workers: int | None = None,
    retry: bool = False,
    progress: bool = True,
    on_cell: OnCell | None = None,
    split: str = "paper",
    device: str = "auto",
    precision: str = "fp32",
    load: Mapping[str, Any] | None = None,
    per_task: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> Study:
    """Search and train over every combination, each exactly once; call it again to go on where it ended.

    Args:
        tasks: names or folders. backbone: name or folder (default: tiny-t5).
        budgets: one or several. seeds: how many (0, 1, ...) or which; a search and its structure's training share one.
        modes: of the search.
        methods: among ``searched`` (a search at each budget), ``resolved`` (the search at `search_budget`, its alpha
            solved again at each other budget: one search serves all), ``random`` (structures of the same budget),
            rivals (``gradient``, ``fisher``, ``sensitivity``, each also ``.../param``), manual structures (``LoRA``,
            ``BitFit``, ...), ``full``, ``head``, ``untouched``.
        n_random: random structures per budget and seed, no two alike.
        search_budget: of the searches that ``resolved`` reads (default: the largest of `budgets`).
        out: the study's folder (default: a new one under ``studies/``); a study that is there goes on.
        executor: any `concurrent.futures.Executor`: dask's ``client.get_executor()``; submitit's ``AutoExecutor``
            too. Its workers must see `out`. Default: processes on this machine, `workers` of them.
        retry: do failed cells again.
        per_task: options that hold for one task, by the task's name.
        load: further arguments of `load_task` and `load_pair` (head, max_rows, revision, task_revision).
        options: ``steps`` (of a search), ``tune_steps``, and any option of `SearchConfig` or `TuneConfig` (one that
            both have holds for both; ``search={...}`` and ``tune={...}`` set one alone).

    Returns:
        The `Study`: ``.table()``, ``.summary()``, ``.differences()``, ``.failed()``, ``.runs()``.

    Raises:
        S3PETError: one of its kinds, before any long work starts.
        KeyboardInterrupt: after Ctrl-C; what is done is kept.
    """
    check_arguments(
        backbone=backbone, budget=search_budget, out=out, retry=retry, progress=progress, on_cell=on_cell, split=split,
        device=device, precision=precision, load=load, per_task=per_task, workers=workers,
    )  # fmt: skip
    executor = None if executor is None else as_executor(executor)
    n_random = whole("n_random", n_random, 1)
    names = task_names(as_list(tasks, "tasks"))
    budget_list = as_list(budgets, "budgets")
    seed_numbers = seed_list(seeds)
    mode_list = as_list(modes, "modes")
    method_list = as_list(methods, "methods")
    check_methods(method_list, ("searched", "resolved"))
    ground = make_ground(
        names, str(backbone) if backbone is not None else None, space=space, options=options, per_task=per_task,
        split=split, device=device, precision=precision, load=load,
    )  # fmt: skip
    searching = {"searched", "resolved"} & set(method_list)
    sizes = ground.check(
        [*budget_list, *([search_budget] if search_budget is not None else [])], mode_list if searching else ()
    )
    origin = search_budget if search_budget is not None else max(budget_list, key=lambda b: sizes[b])
    cells = unique(
        plan(ground, budget_list, sizes, seed_numbers, mode_list, method_list, n_random=n_random, origin=origin)
    )
    settings = {
        "tasks": dict(names), "backbone": ground.backbone, "budgets": [str(b) for b in budget_list],
        "seeds": seed_numbers, "modes": mode_list, "methods": method_list, "n_random": n_random,
        "search_budget": str(origin), "space": ground.space, "split": split, "precision": precision,
        "options": options, "per_task": per_task or {},
    }  # fmt: skip
    return run_cells(
        cells, out if out is not None else new_study("sweep", ground.backbone), kind="sweep", settings=settings,
        executor=executor, workers=workers, retry=retry, progress=progress, on_cell=on_cell,
    )  # fmt: skip


def plan(
    ground: Ground,
    budgets: Sequence[Any],
    sizes: Mapping[Any, int],
    seeds: Sequence[int],
    modes: Sequence[str],
    methods: Sequence[str],
    *,
    n_random: int,
    origin: Any,
) -> list[Cell]:
    """The cells of a sweep, seed by seed, so that an interrupted one has whole seeds."""
    cells: list[Cell] = []
    free = [m for m in methods if m not in ("searched", "resolved", "random", *ONE_PASS_METHODS)]
    for seed in seeds:
        for task in ground.tasks:
            for mode in modes:
                for budget in budgets:
                    more: dict[str, Any] = {"budget": budget, "budget_params": sizes[budget], "mode": mode}
                    if "searched" in methods:
                        run = ground.search(task, budget, mode, seed)
                        structure = {"kind": "run", "run": run.key, "budget": budget}
                        cells += [run, ground.tune(task, "searched", structure, seed, source=task, needs=[run], **more)]
                    if "resolved" in methods and sizes[budget] != sizes[origin]:
                        run = ground.search(task, origin, mode, seed)
                        structure = {"kind": "run", "run": run.key, "budget": budget}
                        cells += [run, ground.tune(task, "resolved", structure, seed, source=task, needs=[run], **more)]
            for budget in budgets:
                if "random" in methods:
                    cells += [ground.random(task, budget, sizes[budget], seed, k) for k in range(n_random)]
                cells += [ground.rival(task, m, budget, sizes[budget], seed) for m in methods if m in ONE_PASS_METHODS]
            cells += [ground.plain(task, m, seed) for m in free if m != "untouched" or seed == seeds[0]]
    return cells


def new_study(kind: str, backbone: str) -> Path:
    """Make a new folder under ``studies/``.

    Raises:
        StudyError: it cannot be made.
    """
    stem = Path("studies") / key_of(kind, Path(backbone).name, time.strftime("%Y%m%d-%H%M%S"))
    made, number = stem, 1
    while True:
        try:
            made.mkdir(parents=True)
        except FileExistsError:
            number += 1  # another study began in the same second
            made = stem.with_name(f"{stem.name}-{number}")
        except OSError as error:
            raise StudyError(f"{made}: cannot be made ({error.strerror})") from None
        else:
            return made
