"""The options that every study takes, said once."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from s3pet_viz.analysis.study import Study
from s3pet_viz.config.checks import seed_list, whole
from s3pet_viz.config.options import with_keywords
from s3pet_viz.errors import StudyError
from s3pet_viz.runs.naming import numbered
from s3pet_viz.structure.tables import read_family
from s3pet_viz.studies.cells import Cell, key_of, unique
from s3pet_viz.studies.executors import as_executor
from s3pet_viz.studies.runner import OnCell, run_cells
from s3pet_viz.studies.worker import Given
from s3pet_viz.training.arguments import check_arguments

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class StudyOptions:
    """Options of every study.

    Args:
        seeds: how many (0, 1, ...) or which: of searches, trainings and random structures; a search and its
            structure's training share one.
        n_random: random structures per budget and seed, no two alike.
        space: of the searches and the random structures.
        out: the study's folder (default: a new one under ``studies/``); a study that is there goes on.
        executor: any `concurrent.futures.Executor`: dask's ``client.get_executor()``; submitit's ``AutoExecutor``
            too. Its workers must see `out`. Default: processes on this machine, `workers` of them.
        retry: do failed cells again.
        on_cell: called with each cell and its result as it ends.
        per_task: options that hold for one task, by the task's name.
        load: further arguments of `load_task` and `load_pair` (head, family, max_rows, revision,
            task_revision).
        options: ``steps`` (of a search), ``tune_steps`` (a number or ``auto``), and any option of `SearchConfig` or
            `TuneConfig` (one that both have holds for both; ``search={...}`` and ``tune={...}`` set one alone).
    """

    seeds: int | Iterable[int] = 3
    n_random: int = 1
    space: Any = "S3PET-M"
    out: str | Path | None = None
    executor: Any = None
    workers: int | None = None
    retry: bool = False
    progress: bool = True
    on_cell: OnCell | None = None
    split: str = "paper"
    device: str = "auto"
    precision: str = "fp32"
    load: dict[str, Any] | None = None
    per_task: Mapping[str, Mapping[str, Any]] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    seed_numbers: list[int] = field(init=False)

    def __post_init__(self) -> None:
        names = ("out", "retry", "progress", "on_cell", "split", "device", "precision", "load", "per_task", "workers")
        check_arguments(**{name: getattr(self, name) for name in names})
        self.executor = None if self.executor is None else as_executor(self.executor)
        self.load = {name: value for name, value in (self.load or {}).items() if value is not None}
        if "family" in self.load:  # its file may change
            self.load |= {"family": read_family(self.load["family"])}
        self.n_random, self.seed_numbers = whole("n_random", self.n_random, 1), seed_list(self.seeds)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> StudyOptions:
        """Of a study's keywords; those that are not here are options of its searches and trainings."""
        own = {name: value for name, value in given.items() if name in _NAMES}
        return cls(**own, options={name: value for name, value in given.items() if name not in _NAMES})

    def run(self, kind: str, cells: Sequence[Cell], *, given: Given | None = None, **settings: Any) -> Study:
        """Do the cells; `settings` are what the study's folder keeps of the call beside these options. `given`: as of
        `run_cells`."""
        settings |= {name: getattr(self, name) for name in ("n_random", "split", "precision", "options")}
        settings |= {"seeds": self.seed_numbers, "per_task": self.per_task or {}}
        new = Path("studies") / key_of(kind, Path(settings["backbone"]).name, time.strftime("%Y%m%d-%H%M%S"))
        return run_cells(
            unique(cells),
            self.out if self.out is not None else numbered(new, StudyError, "cannot be made"),
            kind=kind,
            settings=settings,
            given=given,
            **{name: getattr(self, name) for name in ("executor", "workers", "retry", "progress", "on_cell")},
        )


_PARAMETERS = [
    inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
    for f in fields(StudyOptions)
    if f.default is not MISSING
]
_NAMES = {p.name for p in _PARAMETERS}


def takes_study_options(function: F) -> F:
    """Decorator: signature and help name the options that the function takes as keywords."""
    function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{inspect.cleandoc(StudyOptions.__doc__ or '')}\n"
    return with_keywords(function, _PARAMETERS)
