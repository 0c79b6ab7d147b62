"""What a study is asked for, checked before any long work, and the cells that follow from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.load import registered_for
from s3pet_viz.config.options import config_of, options_of
from s3pet_viz.config.search import SearchConfig
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import ConfigError
from s3pet_viz.export.peft_form import need_peft
from s3pet_viz.files import name_or_folder
from s3pet_viz.pet import candidate_gates, load_space
from s3pet_viz.pet.space import recorded_space
from s3pet_viz.structure import Structure
from s3pet_viz.structure.budget import Budget, check_budget
from s3pet_viz.structure.pins import part, read_pin
from s3pet_viz.studies.cells import Cell, key_of
from s3pet_viz.studies.options import StudyOptions
from s3pet_viz.studies.worker import Given
from s3pet_viz.training.arguments import check_arguments
from s3pet_viz.training.device import check_device
from s3pet_viz.training.pair import check_head, load_pair
from s3pet_viz.tuning import adalora
from s3pet_viz.tuning.baselines import EVERYWHERE, MANUAL, OTHERS
from s3pet_viz.tuning.one_pass import ONE_PASS_METHODS, check_lora, check_pin, parse_method, space_types

#: Options that differ from cell to cell, and ``save``: all searches would keep what they trained in one folder.
_OF_CELLS = {"task", "backbone", "budget", "space", "mode", "seed", "save"}
_SEARCH = {f.name for f in fields(SearchConfig)} - {*_OF_CELLS, "steps"}
_TUNE = {f.name for f in fields(TuneConfig)} - {*_OF_CELLS, "steps"}
#: Methods that come by a budget in their own way, and the kind of their recipe.
BUDGETED = {EVERYWHERE: "everywhere", adalora.NAME: "adalora"}


@dataclass(frozen=True)
class Recipe:
    """How the searches and trainings of one task are done.

    Attributes:
        steps: of a search. tune_steps: of a training, or ``auto``.
        search, tune: further options of `SearchConfig` and `TuneConfig`.
    """

    steps: int = 200
    tune_steps: int | str = 300
    search: Mapping[str, Any] = field(default_factory=dict)
    tune: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, options: Mapping[str, Any], where: str) -> Recipe:
        """From flat options: ``steps``, ``tune_steps``, ``search``, ``tune``, and any option of either. Raises
        ConfigError: an option that neither has, or that a study decides for each of its cells.
        """
        check_arguments(search=options.get("search"), tune=options.get("tune"))
        for within, given in (("", options), ("search: ", options.get("search")), ("tune: ", options.get("tune"))):
            if found := [name for name in given or () if name in _OF_CELLS]:
                raise ConfigError(
                    f"{where}: {within}expected no {found[0]!r}, which a study decides for each of its cells "
                    "(by seeds, modes, budgets, ...; it keeps no adapters)"
                )
        own = ("steps", "tune_steps", "search", "tune")
        flat = {name: value for name, value in options.items() if name not in own}
        if unknown := [name for name in flat if name not in _SEARCH | _TUNE]:
            known = ", ".join(sorted({*own, *_SEARCH, *_TUNE}))
            raise ConfigError(f"{where}: unknown option {unknown[0]!r} (expected one of {known})")
        search = {k: v for k, v in flat.items() if k in _SEARCH} | dict(options.get("search") or {})
        tune = {k: v for k, v in flat.items() if k in _TUNE} | dict(options.get("tune") or {})
        steps = {k: options[k] for k in ("steps", "tune_steps") if options.get(k) is not None}
        if "tune_steps" in steps:
            steps["tune_steps"] = replace(options_of(TuneConfig)["steps"], name="tune_steps").checked(
                steps["tune_steps"]
            )
        return cls(**steps, search=search, tune=tune)


@dataclass(frozen=True)
class Ground:
    """What every cell of a study shares."""

    tasks: Mapping[str, str]
    backbone: str
    space: Any
    recipes: Mapping[str, Recipe]
    options: StudyOptions
    given: Given | None = None
    own: Mapping[str, Any] = field(default_factory=dict)

    def _loaded(self, task: str) -> dict[str, Any]:
        """What is loaded and where, of a search and of a training; ``load``'s entries go where they take them."""
        names = ("split", "device", "precision")
        given = {name: getattr(self.options, name) for name in names} | {**(self.options.load or {})}
        return {"task": self.tasks[task], "backbone": self.backbone, **self.own, **given}

    # -- cells -----------------------------------------------------------------------------------------

    def search(self, task: str, budget: Any, mode: str, seed: int) -> Cell:
        recipe = self.recipes[task]
        asked = {"budget": budget, "space": self.space, "mode": mode, "steps": recipe.steps, "seed": seed}
        what = {**self._loaded(task), **asked, **recipe.search}
        labels = {"task": task, "budget": str(budget), "mode": mode, "seed": seed, "method": "search"}
        return Cell(key_of("search", task, budget, mode, f"s{seed}"), "search", labels, what)

    def tune(
        self,
        task: str,
        method: str,
        structure: Mapping[str, Any],
        seed: int,
        *,
        needs: Sequence[Cell] = (),
        **more: Any,
    ) -> Cell:
        """A training of a structure (see `worker`) on a task; `more`: the row's labels that are not blank."""
        blank = {"budget": "", "budget_params": 0, "mode": "", "source": "", "draw": 0}
        labels = {**blank, "task": task, "method": method, "seed": seed, **more}
        labels["budget"] = str(labels["budget"])
        recipe = self.recipes[task]
        what = {
            "structure": dict(structure),
            "bench": {"max_source_length": recipe.tune.get("max_source_length"), **self._loaded(task)},
            "options": {"steps": recipe.tune_steps, "seed": seed, **recipe.tune},
        }
        origin = "" if labels["source"] in ("", task) else f"from-{labels['source']}"
        draw = f"d{labels['draw']}" if method == "random" else ""
        key = key_of(task, labels["budget"], method, labels["mode"], origin, draw, f"s{seed}")
        return Cell(key, "tune", labels, what, tuple(c.key for c in needs))

    def without_search(
        self, task: str, methods: Sequence[str], sizes: Mapping[Any, int], seed: int, *, first: bool
    ) -> list[Cell]:
        """The trainings of methods that no search precedes.

        Args:
            sizes: budget -> parameters.
            first: whether this is the first seed; ``untouched`` is the same for all.

        Raises:
            SpaceError: a one-pass method says nothing of a PET type of the space.
        """
        cells = []
        for budget, size in sizes.items():
            for name in methods:
                if name == "random":
                    cells += [self._random(task, budget, size, seed, k) for k in range(self.options.n_random)]
                elif name in ONE_PASS_METHODS:
                    cells.append(self._one_pass(task, name, budget, size, seed))
                elif name in BUDGETED:
                    structure = {"kind": BUDGETED[name], "budget": budget}
                    cells.append(self.tune(task, name, structure, seed, budget=budget, budget_params=size))
        free = [name for name in methods if name not in ("random", *ONE_PASS_METHODS, *BUDGETED)]
        structures = {name: {"kind": "method", "name": name} for name in free if name != "untouched" or first}
        return cells + [self.tune(task, name, structure, seed) for name, structure in structures.items()]

    def _random(self, task: str, budget: Any, budget_params: int, seed: int, which: int) -> Cell:
        """A random structure of its own for each seed: draw 100 * which + seed."""
        draw = 100 * which + seed
        structure = {"kind": "random", "budget": budget, "space": self.space, "draw": draw, **self._pin(task)}
        return self.tune(task, "random", structure, seed, budget=budget, budget_params=budget_params, draw=draw)

    def _one_pass(self, task: str, name: str, budget: Any, budget_params: int, seed: int) -> Cell:
        """A structure that one-pass scores pick; recorded studies call its kind ``rival``."""
        kind = parse_method(name)[0]
        check_lora(kind, space_types(load_space(self.space)))
        check_pin(kind, self.pinned(task))
        structure = {"kind": "rival", "name": name, "budget": budget, "space": self.space, "seed": seed}
        structure |= self._pin(task)
        return self.tune(task, name, structure, seed, budget=budget, budget_params=budget_params)

    def pinned(self, task: str) -> dict[str, list[str]] | None:
        """What the searches of a task have in or out beforehand. What chooses from the same space beside them (random
        structures, one-pass scores) holds it too, or the two would not be of one problem.

        Raises:
            ConfigError: as `read_pin`.
        """
        given = self.recipes[task].search.get("pin")
        return None if given is None else read_pin("pin", given)

    def _pin(self, task: str) -> dict[str, Any]:
        """For a recipe; nothing of none, so that cells of recorded studies stay as they are."""
        return {"pin": pin} if (pin := self.pinned(task)) else {}

    # -- checks ----------------------------------------------------------------------------------------

    def check(
        self, budgets: Sequence[Any], modes: Iterable[str], structures: Iterable[Structure] = ()
    ) -> dict[Any, int]:
        """Load every task and the backbone once and try what the cells will ask of them.

        Returns:
            Budget -> parameters.

        Raises:
            S3PETError: one of its kinds, for whatever would fail later.
        """
        from s3pet_viz.pet import insert

        sizes: dict[Any, int] = {}
        parsed = {budget: Budget.parse(budget) for budget in budgets}
        for label, recipe in self.recipes.items():  # nothing has to be loaded for these
            config_of(TuneConfig, {"steps": recipe.tune_steps, **recipe.tune})
            for mode in modes:
                cell = self.search(label, budgets[0], mode, 0)
                extra = ("own", *(("task_revision",) if cell.what.get("task_revision") is None else ()))
                config = SearchConfig.from_dict({k: v for k, v in cell.what.items() if k not in extra})
                if self.given is None:
                    check_head(config.head)
        for label, task in self.tasks.items():
            made, _ = _loaded_pair(task, self.backbone, self.options, self.given)
            sizes = {given: budget.parameters(made.n_params) for given, budget in parsed.items()}
            if sizes:
                gates, _ = candidate_gates(made.positions(), load_space(self.space))
                for size in sizes.values():
                    check_budget([g.n_params for g in gates], size)
                    if pin := self.pinned(label):
                        part(gates, pin, size)
            for structure in structures:
                insert(made.model, structure.gates).detach()
        return sizes


def _loaded_pair(task: str, backbone: str, shared: StudyOptions, given: Given | None) -> tuple[Backbone, Any]:
    load = shared.load or {}
    if given is not None:
        return load_pair(given.own, model=given.model, scored=True, **load)
    return load_pair(task, backbone, split=shared.split, **load)


def make_ground(
    tasks: Mapping[str, str], backbone: str | Path | None, shared: StudyOptions, given: Given | None = None
) -> Ground:
    """The shared part of a study from its arguments. `given`: a model and batches from memory.

    Raises:
        ConfigError: an unknown option, or `per_task` names a task that is not in the study. As `load_own`.
    """
    per_task = shared.per_task or {}
    for name in per_task:
        if name not in tasks:
            raise ConfigError(f"per_task: expected tasks among {', '.join(tasks)}, found {name!r}")
    recipes = {task: Recipe.make({**shared.options, **per_task.get(task, {})}, f"options of {task}") for task in tasks}
    check_device(shared.device)
    load_space(shared.space)
    if given is not None:
        made, data = _loaded_pair("", "", shared, given)
        # Another call of the study must be of the same; on another device a loss has other last digits.
        own = {"own": {**data.facts, "first_loss": f"{data.first_loss:.3g}"}}
        return Ground(tasks, made.name, recorded_space(shared.space), recipes, shared, given, own)
    name, load = name_or_folder(str(backbone or "tiny-t5")), shared.load or {}
    if "family" not in load and (table := registered_for(name, revision=load.get("revision"))):
        shared.load = {**load, "family": table}
    return Ground(tasks, name, recorded_space(shared.space), recipes, shared)


def check_methods(methods: Iterable[str], searched: Sequence[str]) -> None:
    """Raises ConfigError: a name that no method has. MissingExtraError: one that needs PEFT, which is not there."""
    allowed = (*searched, "random", *ONE_PASS_METHODS, *BUDGETED, *MANUAL, *OTHERS)
    for name in methods:
        if name not in allowed:
            raise ConfigError(f"methods: expected names among {', '.join(allowed)}, found {name!r}")
    if adalora.NAME in methods:
        need_peft(adalora.NAME)
