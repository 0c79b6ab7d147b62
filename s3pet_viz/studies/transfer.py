"""`transfer`: does a structure found on one task serve another?"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3pet_viz.analysis.measures import need_sizes
from s3pet_viz.analysis.transfer import Transfer
from s3pet_viz.config.search import named_mode
from s3pet_viz.errors import ConfigError
from s3pet_viz.files import expanded
from s3pet_viz.runs import Run
from s3pet_viz.sources import A_SOURCE, ANY, names_source, open_source
from s3pet_viz.structure import Structure
from s3pet_viz.structure.pins import SIDES
from s3pet_viz.studies.cells import Cell, as_list, task_names
from s3pet_viz.studies.options import StudyOptions, takes_study_options
from s3pet_viz.studies.plan import Ground, check_methods, make_ground
from s3pet_viz.training.arguments import check_arguments

CONSENSUS = "consensus"


@takes_study_options
def transfer(
    *,
    targets: Any,
    sources: Any = None,
    backbone: str | Path | None = None,
    budget: str | int | float,
    mode: str = "fast",
    references: Sequence[str] = ("random", "full"),
    **options: Any,
) -> Transfer:
    """Train the structures of source tasks on target tasks, at one budget; call it again to go on where it ended.

    Args:
        targets: names or folders of tasks.
        sources: each a task (searched here), ``"consensus"`` (mean p of the source tasks' searches, the target's own
            left out), a `Run` or its folder (its structure at `budget`), a `Structure` or its file, a published
            structure file. Default: the targets and the consensus.
        budget, mode: of the searches.
        references: what the matrix is held against: ``random``, ``full``, ``head``, one-pass scores, manual structures.
        options: see `StudyOptions`. A sweep's folder (`out`) may go on as a transfer study: cells that are done there
            are not done again.

    Returns:
        The `Transfer`: ``.matrix()``, ``.matrix(relative="own")``, ``.spread()``, ``.overlap()``, ``.table()``.

    Raises:
        S3PETError: one of its kinds, before any long work starts.
        KeyboardInterrupt: after Ctrl-C; what is done is kept.
    """
    check_arguments(backbone=backbone, budget=budget, mode=mode, references=references)
    shared, mode = StudyOptions.of(options), named_mode(mode)
    target_names = task_names(as_list(targets, "targets"))
    wanted = [*target_names.values(), CONSENSUS] if sources is None else _listed(sources)
    found = [_source(source, budget, backbone) for source in wanted]
    source_tasks = task_names(s.task for s in found if s.task) if any(s.task for s in found) else {}
    clash = [n for n in source_tasks if n in target_names and source_tasks[n] != target_names[n]]
    if clash:
        name = clash[0]
        raise ConfigError(f"sources: task {name!r} is {source_tasks[name]}, but the target is {target_names[name]}")
    names = [s.name for s in found]
    twice = [n for n in names if names.count(n) > 1]
    if twice:
        raise ConfigError(f"sources: two are called {twice[0]!r}")
    if CONSENSUS in names and not source_tasks:
        raise ConfigError("sources: a consensus needs source tasks, found none")
    check_methods(references, ())
    ground = make_ground({**source_tasks, **target_names}, backbone, shared)
    inside = {tuple((ground.pinned(task) or {}).get(SIDES[0], ())) for task in source_tasks}
    if CONSENSUS in names and len(inside) > 1:
        raise ConfigError("per_task: expected the same gates pinned in for all sources of a consensus, found others")
    given = [s.structure for s in found if s.structure is not None]
    size = ground.check([budget], [mode] if source_tasks else (), given)[budget]
    for s in found:
        if s.structure is not None and s.structure.n_params > size:
            warnings.warn(
                f"source {s.name} has {s.structure.n_params:,} parameters, the others at most {size:,}: "
                "it is not compared at one budget",
                stacklevel=2,
            )
    cells = _plan(ground, found, source_tasks, target_names, budget, size, mode, references)
    study = shared.run(
        "transfer",
        cells,
        targets=dict(target_names),
        sources=names,
        backbone=ground.backbone,
        budget=str(budget),
        mode=mode,
        references=list(references),
        space=ground.space,
    )
    return Transfer(study, budget=str(budget), mode=mode if source_tasks else None)


@dataclass(frozen=True)
class _Source:
    """Where a structure comes from: a task to search on, a structure at hand, or (neither) the consensus."""

    name: str
    task: str | None = None
    structure: Structure | None = None


def _plan(
    ground: Ground,
    sources: Sequence[_Source],
    source_tasks: Mapping[str, str],
    targets: Mapping[str, str],
    budget: Any,
    size: int,
    mode: str,
    references: Sequence[str],
) -> list[Cell]:
    cells: list[Cell] = []
    for i, seed in enumerate(ground.options.seed_numbers):
        runs = {task: ground.search(task, budget, mode, seed) for task in source_tasks}
        cells += runs.values()
        for target in targets:
            for source in sources:
                more: dict[str, Any] = {"budget": budget, "budget_params": size, "source": source.name}
                if source.task is not None:
                    run = runs[source.name]
                    recipe = {"kind": "run", "run": run.key, "budget": budget}
                    cells.append(ground.tune(target, "searched", recipe, seed, mode=mode, needs=[run], **more))
                elif source.structure is not None:
                    recipe = {"kind": "given", "structure": source.structure.to_dict()}
                    cells.append(ground.tune(target, "given", recipe, seed, **more))
                else:
                    others = [run for task, run in runs.items() if task != target]
                    if others:
                        recipe = {"kind": "consensus", "runs": [r.key for r in others], "budget": budget}
                        cells.append(ground.tune(target, "consensus", recipe, seed, mode=mode, needs=others, **more))
            cells += ground.without_search(target, references, {budget: size}, seed, first=i == 0)
    return cells


def _listed(sources: Any) -> list[Any]:
    single = isinstance(sources, (str, bytes, Path, *ANY)) or not isinstance(sources, Iterable)
    made = [sources] if single else list(sources)
    if not made:
        raise ConfigError("sources: expected at least one, found none")
    return made


def _source(source: Any, budget: Any, backbone: Any = None) -> _Source:
    """What a source means. Raises ConfigError: no task, run or structure. StructureError, RunError: a damaged file."""
    if isinstance(source, str) and source == CONSENSUS:
        return _Source(CONSENSUS)
    named = isinstance(source, (str, Path))
    if named and str(source) and not names_source(source):
        return _Source(expanded(source).name or str(source), task=str(source))
    opened = open_source(source, what="sources", wanted=f"a task, {A_SOURCE}", backbone=backbone)
    if named and not isinstance(opened, Run):
        name = expanded(source).stem
    elif isinstance(opened, Structure):
        said = opened.source
        name = f"structure of {said.get('baseline') or said.get('run') or said.get('task') or 'given'}"
    else:
        name = opened.name.rpartition("/")[2]
    structure = opened if isinstance(opened, Structure) else opened.structure(budget)
    need_sizes(structure.gates, "sources")
    return _Source(name, structure=structure)
