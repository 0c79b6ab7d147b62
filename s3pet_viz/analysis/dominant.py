"""Which modules dominate: where each way spends its parameters, and where scores are high, task by task."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from s3pet_viz.analysis._table import pooled_name
from s3pet_viz.analysis.one_pass import OnePassScores
from s3pet_viz.analysis.study import Study, open_study
from s3pet_viz.analysis.transfer import Transfer
from s3pet_viz.analysis.ways_gathered import ways_of
from s3pet_viz.config.checks import among, short
from s3pet_viz.errors import ConfigError
from s3pet_viz.runs import Run
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import open_sources, structure_of
from s3pet_viz.structure import Gate, Structure

By = Literal["module", "layer", "place"]

_GROUPS: dict[str, Callable[[Gate], str]] = {
    "module": lambda gate: gate.module,
    "layer": lambda gate: gate.column,
    "place": lambda gate: f"{gate.column} {gate.module}",
}


class _Sums(NamedTuple):
    """What one structure, or one table of scores, has by group."""

    method: str
    of: str
    task: str
    sums: dict[str, float]
    budget: str = ""


def shares(
    source: Any, *, by: By = "module", budget: Budget | None = None, methods: Sequence[str] | None = None
) -> pd.DataFrame:
    """The share that each module has of the chosen parameters, or of the scores, per method and task.

    One row per method, of, task and group, and where there are several tasks one for their mean (`pooled`; its task is
    "all", or "all tasks" where a task of that name is there). Columns: method;
    of (``parameters`` that were chosen, or ``scores``: the sum of all scores, chosen or not; of ``gradient`` scores the
    gradient energy); task; pooled; group; share (mean over seeds; pooled: over tasks); low, high (the smallest and the
    largest: of seeds, or of tasks); n (seeds, or tasks); led (in how many of the n none has a larger share); leads
    (whether no mean share is larger); says (in words, where it leads).

    The budget stands in ``.attrs["budget"]``, of a study.

    Args:
        source: a study; or a mapping of tasks to a run, structure or scores, or a list of them (seeds), such as
            ``s3.score(tasks=[...])``.
        by: ``module`` (SelfAttn.Q, over all layers), ``layer``, or ``place`` (a module of one layer).
        budget: as of `ways_of`.
        methods: which, in this order; None: all.

    Raises:
        ConfigError: nothing to sum, an unknown `by`, budget or method.
        StudyError, SourceError, RunError, StructureError, BudgetError: what cannot be opened, or solved again.
    """
    group = _GROUPS[among("by", by, get_args(By))]
    found = _of_study(source, budget, group) if isinstance(source, (Study, Transfer, str, os.PathLike)) else None
    if found is None:
        found = _of_mapping(source, budget, group)
    known = list(dict.fromkeys(one.method for one in found))
    if isinstance(methods, str):
        raise ConfigError(f"methods: expected a list of names, found {short(methods)}")
    order = known if methods is None else [among("methods", name, known) for name in dict.fromkeys(methods)]
    found = [one for one in found if one.method in order]
    tasks = list(dict.fromkeys(one.task for one in found))
    groups = list(dict.fromkeys(name for one in found for name in one.sums))
    parts = []
    for method in order:
        for of in dict.fromkeys(one.of for one in found if one.method == method):
            means = []
            for task in tasks:
                mine = [one.sums for one in found if (one.method, one.of, one.task) == (method, of, task)]
                if mine:
                    each = np.array([[sums.get(name, 0.0) for name in groups] for sums in mine])
                    each /= each.sum(axis=1, keepdims=True)
                    means.append(each.mean(axis=0))
                    parts.append(_rows(method, of, task, groups, each, "seeds"))
            if len(means) > 1:
                parts.append(_rows(method, of, pooled_name(tasks), groups, np.array(means), "tasks"))
    made = pd.concat(parts, ignore_index=True)
    made.attrs["budget"] = found[0].budget if len({one.budget for one in found}) == 1 else ""
    return made


def _rows(method: str, of: str, task: str, groups: list[str], each: np.ndarray, what: str) -> pd.DataFrame:
    """each: shape (n, n_groups)."""
    share, n = each.mean(axis=0), len(each)
    led = np.isclose(each, each.max(axis=1, keepdims=True)).sum(axis=0)
    leads = np.isclose(share, share.max())
    best, names = int(share.argmax()), [name for name, first in zip(groups, leads, strict=True) if first]
    facts = {"method": method, "of": of, "task": task, "pooled": what == "tasks"}
    part = pd.DataFrame({**facts, "group": groups, "share": share})
    part = part.assign(low=each.min(axis=0), high=each.max(axis=0), n=n, led=led, leads=leads)
    words = f"{', '.join(names)} {'leads' if len(names) == 1 else 'lead, each'} with {share[best]:.0%} of the {of}"
    if n > 1:
        words += f" ({part['low'][best]:.0%} to {part['high'][best]:.0%} over {n} {what}); first in {led[best]} of {n}"
    return part.assign(says=np.where(part["leads"], words, ""))


def _sums(gates: Sequence[Gate], values: Sequence[float], group: Callable[[Gate], str]) -> dict[str, float]:
    made: dict[str, float] = {}
    for gate, value in zip(gates, values, strict=True):
        made[group(gate)] = made.get(group(gate), 0.0) + float(value)
    return made


def _of_study(source: Any, budget: Budget | None, group: Callable[[Gate], str]) -> list[_Sums]:
    study = source.study if isinstance(source, Transfer) else open_study(source)
    found = []
    rows = study.at_home()
    labels = rows.loc[rows["budget"] != "", "budget"]
    if budget is None and len(labels):  # the same of every task
        tasks_of = rows[rows["budget"] != ""].groupby("budget", sort=False)["task"].nunique()
        counts = labels.value_counts()
        budget = max(tasks_of.index, key=lambda label: (tasks_of[label], counts[label]))
    elif budget is not None:
        among("budget", budget, list(dict.fromkeys(labels)))
    for task in dict.fromkeys(rows["task"]):
        own = rows[rows["task"] == task]
        if budget is not None and budget not in set(own["budget"]):
            continue
        for way in ways_of(study, task=task, budget=budget).ways:
            for one in way.placed:
                found.append(_chosen(way.name, task, one.structure, group)._replace(budget=str(budget or "")))
    if not found:
        raise ConfigError(f"modules: {study.name} has no finished training of a structure yet")
    return found


def _chosen(method: str, task: str, structure: Structure, group: Callable[[Gate], str]) -> _Sums:
    sizes = [gate.n_params for gate in structure.gates]
    if not sizes or min(sizes) < 1:
        raise ConfigError(
            f"modules: expected gates of known sizes for {task}, found {'some without' if sizes else 'none'}"
        )
    return _Sums(method, "parameters", task, _sums(structure.gates, sizes, group))


def _of_mapping(source: Any, budget: Budget | None, group: Callable[[Gate], str]) -> list[_Sums]:
    if not isinstance(source, Mapping) or not source:
        raise ConfigError(f"modules: expected a study, or a mapping of tasks to runs or scores, found {short(source)}")
    found = []
    for task, each in source.items():
        for one in open_sources(each, what=str(task)):
            method = "structure"
            if isinstance(one, OnePassScores):
                method = one.method
                if not one.score.sum() > 0:
                    raise ConfigError(f"modules: expected scores above 0 for {task}, found none")
                found.append(_Sums(method, "scores", str(task), _sums(one.gates, one.score.tolist(), group)))
                if budget is None and not one.budget:
                    continue
            elif isinstance(one, Run):
                method = str(one.config.get("mode") or "searched")
            elif isinstance(one, Structure):
                method = str(one.source.get("baseline") or one.source.get("mode") or method)
            chosen = one if isinstance(one, Structure) else structure_of(one, budget)
            found.append(_chosen(method, str(task), chosen, group))
    return found
