"""What ways to place there are in a study, or in what a caller names: each as `analysis.ways` compares them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, TypedDict, TypeVar, Unpack

import numpy as np
import pandas as pd

from s3pet_viz.analysis.study import Study, open_study
from s3pet_viz.analysis.transfer import Transfer
from s3pet_viz.analysis.ways import Placed, Way, Ways
from s3pet_viz.analysis.ways_missing import SCORED, TRAINED, commands, scored
from s3pet_viz.config.checks import among, short
from s3pet_viz.errors import ConfigError
from s3pet_viz.runs import Run
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import Source, open_source
from s3pet_viz.structure import Gate, Structure, parse_budget
from s3pet_viz.structure.pins import searched_of

#: A study, its folder or a recorded study's name; a mapping of names to runs, structures, scores, what names one, what
#: was trained (`Scores`), or a list of these; a list of `Scores`, which have a name of their own.
WaysLike: TypeAlias = "Study | Transfer | str | os.PathLike[str] | Mapping[str, Any] | Iterable[Any]"

F = TypeVar("F", bound=Callable[..., Any])


class Choice(TypedDict, total=False):
    """What of a source is compared.

    Attributes:
        task: of a study that has several.
        budget: of a study, as it is written there; None: that of most trainings of the task. Methods without a budget
            (LoRA, BitFit) are beside those of any. Of a mapping: runs and scores are solved at it; structures have
            theirs.
        seed: of a study, of the trainings; None: all.
        methods: which, in this order; None: all.
        space: a run or scores whose gates are the search space of structures that come without one: random structures,
            which say what chance gives, are drawn from it. None: of a study that of its searches; of a mapping that of
            a run or scores in it that holds all gates of the structure.
        compute: score ``gora`` and ``plop`` on the spot for a study that has none: of its task, backbone and budget,
            once for each seed (`s3.score`: seconds each; the task's rows are needed).
    """

    task: str | None
    budget: Budget | None
    seed: int | None
    methods: Sequence[str] | None
    space: Source | None
    compute: bool


def takes_choice(function: F) -> F:
    """Decorator: the signature names `Choice`, which the function takes as keywords."""
    own = inspect.signature(function)
    *named, rest = own.parameters.values()
    choice = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False if name == "compute" else None).replace(
            annotation=getattr(kind, "__forward_arg__", kind)
        )
        for name, kind in Choice.__annotations__.items()
    ]
    more = [] if rest.name == "choice" else [rest]  # there is more that it takes
    function.__signature__ = own.replace(parameters=[*named, *choice, *more])  # type: ignore[attr-defined]
    return function


@takes_choice
def ways_of(source: WaysLike, **choice: Unpack[Choice]) -> Ways:
    """Gather the ways to place that a study, or the caller, has for one task and budget.

    Args:
        source: see `WaysLike`. Of a study its finished trainings, at home: not those of other tasks' structures.
        task, budget, seed, methods, space, compute: see `Choice`.

    Raises:
        ConfigError: a task, budget, seed or method that there is none of; nothing to compare.
        StudyError, SourceError, RunError, StructureError, BudgetError: what is not to be opened, or solved again.
    """
    if unknown := choice.keys() - Choice.__annotations__.keys():
        raise TypeError(f"ways got an unexpected keyword argument {min(unknown)!r}")
    given: dict[str, Any] = {"compute": False, **choice}
    task, budget, seed, methods, space = (given.get(n) for n in ("task", "budget", "seed", "methods", "space"))
    compute = given["compute"]
    if not isinstance(compute, bool):
        raise ConfigError(f"compute: expected True or False, found {short(compute)}")
    if methods is not None and (isinstance(methods, str) or not isinstance(methods, Iterable)):
        raise ConfigError(f"methods: expected a list of names, found {short(methods)}")
    wanted = None if methods is None else list(dict.fromkeys(methods))
    gates = None if space is None else _space(space)
    if isinstance(source, (Study, Transfer, str, os.PathLike)):
        study = source.study if isinstance(source, Transfer) else open_study(source)
        made = _of_study(study, task, budget, seed, gates, compute, wanted)
    else:
        for name, value in (("task", task), ("seed", seed), ("compute", compute or None)):
            if value is not None:
                raise ConfigError(f"{name}: expected a study to choose from, found {short(value)} beside other sources")
        made = _of_mapping(_named(source), budget, gates)
    if wanted is not None:
        by_name = {way.name: way for way in made.ways}
        for name in wanted:
            if isinstance(name, str) and (how := made.missing.get(name)):
                raise ConfigError(f"methods: {name} is not there; it is made by: {how}")
        found = [by_name[among("methods", name, by_name)] for name in wanted]
        made = replace(made, ways=tuple(found), left_out={}, missing={})
    return _comparable(made)


def _space(source: Source) -> tuple[Gate, ...]:
    opened = open_source(source, what="space")
    if isinstance(opened, Structure):
        raise ConfigError("space: expected a run or scores, which know their whole search space, found a structure")
    return opened.gates_list if isinstance(opened, Run) else tuple(opened.gates)


def _of_study(
    study: Study,
    task: str | None,
    budget: Budget | None,
    seed: int | None,
    space: tuple[Gate, ...] | None,
    compute: bool,
    wanted: Sequence[str] | None,
) -> Ways:
    rows = study.at_home()
    tasks = list(dict.fromkeys(rows["task"]))
    if not tasks:
        raise ConfigError(f"ways: {study.name} has no finished training yet")
    task = tasks[0] if task is None and len(tasks) == 1 else among("task", task, tasks)
    rows = rows[rows["task"] == task]
    if seed is not None:
        known = sorted(set(rows["seed"].tolist()))
        if isinstance(seed, bool) or seed not in known:
            raise ConfigError(f"seed: expected one of {', '.join(map(str, known))}, found {short(seed)}")
        rows = rows[rows["seed"] == seed]
    labels = rows.loc[rows["budget"] != "", "budget"]
    if budget is not None:
        budget = among("budget", budget, list(dict.fromkeys(labels)))
    elif len(labels):
        counts = labels.value_counts(sort=False)
        budget = str(counts.index[int(np.argmax(counts.to_numpy()))])
    rows = rows[rows["budget"].isin(["", budget])]
    rows = pd.concat([rows[rows["budget"] != ""], rows[rows["budget"] == ""]])
    several = rows.loc[rows["mode"] != "", "mode"].nunique() > 1
    names = rows["method"] + (" " + rows["mode"] if several else "")
    if space is None:
        space = study.space()
    ways, left_out = [], {}
    for name, part in rows.groupby(names.str.strip(), sort=False):
        placed = [Placed(study.structure(key), space) for key in part.loc[part["n_gates"] > 0, "key"]]
        if placed:
            ways.append(Way(str(name), tuple(placed), tuple(part["score"].astype(float))))
        else:
            left_out[str(name)] = "has no structure"
    params = rows.loc[rows["budget"] != "", "budget_params"]
    metric = str(rows["metric"].iloc[0]) if rows["metric"].nunique() == 1 else ""
    lacking = [] if budget is None else [name for name in (*SCORED, *TRAINED) if name not in set(rows["method"])]
    if compute:
        if budget is None:
            raise ConfigError("compute: expected a study with a budget, found none")
        asked = [name for name in SCORED if name in lacking and (wanted is None or name in wanted)]
        found, out = scored(study, str(task), str(budget), sorted(set(rows["seed"].tolist())), asked)
        if why := next((out[name] for name in asked if name in out and wanted is not None), None):
            raise ConfigError(f"compute: {why}")
        left_out |= out
        ways += [
            Way(name, tuple(Placed(one.structure(), one.gates) for one in each), ()) for name, each in found.items()
        ]
        lacking = [name for name in lacking if name not in asked]
    missing = commands(study, study.at_home(), str(task), str(budget), lacking)
    size = int(params.max()) if len(params) else 0
    return Ways(str(task), str(budget or ""), size, metric, tuple(ways), left_out, missing)


def _named(source: Any) -> dict[str, list[Any]]:
    """Names and what stands for them; of a list of `Scores` by their methods."""
    if isinstance(source, Mapping):
        many = (list, tuple)
        named = {str(name): list(one) if isinstance(one, many) else [one] for name, one in source.items()}
    else:
        if not isinstance(source, Iterable) or isinstance(source, bytes):
            raise ConfigError(f"ways: expected a study, or a mapping of names to structures, found {short(source)}")
        named = {}
        for one in source:
            if not _is_scores(one):
                found = short(one)
                raise ConfigError(f"ways: expected a mapping of names to structures or a list of Scores, found {found}")
            named.setdefault(one.method, []).append(one)
        if len(tasks := {one.task for each in named.values() for one in each}) > 1:
            raise ConfigError(f"ways: expected Scores of one task, found {', '.join(sorted(tasks))}")
    for name, each in named.items():
        if not each:
            raise ConfigError(f"ways: expected at least one structure for {name!r}, found none")
    return named


def _is_scores(one: Any) -> bool:
    """Whether it is a trained structure (`training.Scores`, which what shows does not import)."""
    return isinstance(getattr(one, "metrics", None), Mapping) and hasattr(one, "method") and hasattr(one, "structure")


def _of_mapping(named: Mapping[str, Sequence[Any]], budget: Budget | None, space: tuple[Gate, ...] | None) -> Ways:
    opened: dict[str, list[Any]] = {
        name: [one if _is_scores(one) else open_source(one, what=name) for one in each] for name, each in named.items()
    }
    every = [one for each in opened.values() for one in each]
    spaces = {id(one): _space(one) for one in every if not _is_scores(one) and not isinstance(one, Structure)}
    if budget is not None and not spaces:
        raise ConfigError("budget: expected a run or scores, which can be solved again, found structures alone")

    def placed(one: Any) -> Placed:
        if id(one) in spaces:
            return Placed(one.structure(budget), spaces[id(one)])
        made: Structure = one.structure if _is_scores(one) else one
        keys = searched_of(made).keys
        around = [gates for gates in spaces.values() if keys <= {gate.key for gate in gates}]
        return Placed(made, space or next(iter(around), None))

    ways, left_out = [], {}
    for name, each in opened.items():
        scores = tuple(float(one.score) for one in each if _is_scores(one))
        found = tuple(placed(one) for one in each if not _is_scores(one) or one.structure is not None)
        if found:
            ways.append(Way(name, found, scores))
        else:
            left_out[name] = "has no structure"
    facts = {(one.structure.backbone_params, one.structure.budget) for way in ways for one in way.placed}
    budgets = {own for _, own in facts if own}
    params = budgets.pop() if len(budgets) == 1 else 0
    if budget is not None:
        params = parse_budget(budget, max(total for total, _ in facts)) if max(total for total, _ in facts) else 0
    tasks = {str(one.task) for one in every if _is_scores(one)}
    label = "" if budget is None else str(budget)
    return Ways(tasks.pop() if len(tasks) == 1 else "", label, params, "", tuple(ways), left_out)


def _comparable(made: Ways) -> Ways:
    """Without the ways of another backbone than the first, which share no place with it.

    Raises:
        ConfigError: none is left.
    """
    kept: list[Way] = []
    left_out = dict(made.left_out)
    backbone = ""
    positions: set[str] = set()
    for way in made.ways:
        own = {gate.position for one in way.placed for gate in (*one.structure.gates, *(one.gates or ()))}
        names = {one.structure.backbone for one in way.placed} - {""}
        if kept and ((backbone and names - {backbone}) or (not (backbone and names) and not own & positions)):
            other = f"is for {', '.join(sorted(names))}" if names - {backbone} else "shares no position with the others"
            left_out[way.name] = other
            continue
        backbone, positions = backbone or next(iter(sorted(names)), ""), positions | own
        kept.append(way)
    if not kept:
        why = "; ".join(f"{name} {word}" for name, word in left_out.items())
        raise ConfigError(f"ways: expected at least one structure, found none{f' ({why})' if why else ''}")
    return replace(made, ways=tuple(kept), left_out=left_out)
