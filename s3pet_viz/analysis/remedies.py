"""What would answer an open question about a search: the call to make, and the seconds that it takes at the pace of
what was measured."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from s3pet_viz.analysis.study import Study
from s3pet_viz.config import SearchConfig
from s3pet_viz.config.options import REQUIRED, options_of
from s3pet_viz.config.search import REMOVED
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.resources import find_resource
from s3pet_viz.runs import Run
from s3pet_viz.sources import is_recorded

#: Seeds that a comparison should have at least.
SEEDS = 3
#: So many times the steps of a search that did not learn.
LONGER = 3
#: Options that decide nothing of what a search finds.
_APART = ("task", "backbone", "budget", "mode", "seed", "device", "checkpoint_every", "eval_every")
#: What keeps a call from being written down: parts of it lie in memory.
_IN_MEMORY = "# the same call once more: its task or its model was in memory"


class Remedy(NamedTuple):
    """A call, for a shell or (where it begins with ``s3.``) in Python; about how many seconds, NaN where not known."""

    command: str = ""
    seconds: float = math.nan


def asked(run: Run) -> dict[str, Any]:
    """The options of a run that differ from their defaults and can change what it finds, beside task, backbone,
    budget, mode and seed."""
    options, config = options_of(SearchConfig), run.config
    return {
        name: value
        for name, value in config.items()
        if name in options and name not in (*_APART, *REMOVED) and value != options[name].default
    }


def another_seed(runs: Sequence[Run]) -> Remedy:
    """A search for the next seed, then the judgement of all."""
    run = runs[0]
    seconds = float(run.steps()["seconds"].sum())
    seeds = [one.config.get("seed") for one in runs]
    seed = max((s for s in seeds if type(s) is int), default=0) + 1
    out = f"runs/{run.name}-seed{seed}" if is_recorded(run) else f"{run.path}-seed{seed}"
    words = _words(run, seed=seed, out=out)
    if words is None:
        return Remedy(f"{_IN_MEMORY}, with seed={seed}", seconds)
    named = [run.name if is_recorded(run) else str(run.path) for run in runs]
    return Remedy(f"{shlex.join(words)} && {shlex.join(['s3pet', 'trust', *named, out])}", seconds)


def longer(run: Run) -> Remedy:
    """The same search of more steps, then its judgement: what to try first where one did not learn. None where steps
    are not what it lacked: a rate of 0, a loss that is not finite."""
    taken = run.steps()
    if (taken["lr"] == 0).all() or not np.isfinite(taken["train_loss"]).all():
        return Remedy()
    seconds, steps = float(taken["seconds"].sum()), LONGER * int(run.config["steps"])
    out = f"runs/{run.name}-longer" if is_recorded(run) else f"{run.path}-longer"
    words = _words(run, seed=run.config.get("seed", 0), steps=steps, out=out)
    if words is None:
        return Remedy(f"{_IN_MEMORY}, with steps={steps}", LONGER * seconds)
    return Remedy(f"{shlex.join(words)} && {shlex.join(['s3pet', 'trust', out])}", LONGER * seconds)


def explained(run: Run) -> Remedy:
    """Its structure trained and closed gate by gate; a step of a training takes no longer than one of the search."""
    name = run.name if is_recorded(run) else str(run.path)
    steps, seconds = options_of(TuneConfig)["steps"].default, run.steps()["seconds"]
    return Remedy(shlex.join(["s3pet", "explain", name]), steps * float(seconds.mean()) if len(seconds) else math.nan)


def a_study(run: Run, methods: Sequence[str]) -> Remedy:
    """A sweep that searches and trains for some seeds, the run's structure beside what it is compared with."""
    config, options = run.config, asked(run)
    steps, seconds = options_of(TuneConfig)["steps"].default, run.steps()["seconds"]
    took = (
        SEEDS * (float(seconds.sum()) + (1 + len(methods)) * steps * float(seconds.mean()))
        if len(seconds)
        else math.nan
    )
    if not _on_disk(run):
        return Remedy(f"{_IN_MEMORY}, as a study: s3.sweep(methods={['searched', *methods]!r})", took)
    given = {"tasks": [config["task"]], "backbone": config["backbone"], "budgets": [config["budget"]]}
    given |= {"modes": [config["mode"]]} if config.get("mode") else {}
    given |= {name: options.pop(name) for name in ("space", "split", "precision") if name in options}
    load = {name: options.pop(name) for name in ("max_rows", "columns", "revision", "task_revision") if name in options}
    given |= {"methods": ["searched", *methods], "seeds": SEEDS}
    given |= ({"load": load} if load else {}) | ({"search": options} if options else {})
    return Remedy(_python("sweep", {**given, "out": f"studies/{run.name}"}), took)


def recorded_study(study: Study) -> bool:
    """Whether it is one of the package's own."""
    found = find_resource("studies", study.path.name)
    return found is not None and found.resolve() == study.path.resolve()


def more_methods(study: Study, rows: pd.DataFrame, methods: Sequence[str]) -> Remedy:
    """The study's own calls with further methods; of a recorded study, a new one with them."""
    sweeps = [call for call in study.info["calls"] if call["study"] == "sweep" and call.get("tasks")]
    calls = [call for call in sweeps if "searched" in call.get("methods", ())] or sweeps
    own = not recorded_study(study)
    wanted, lines, took = [*methods] if own else ["searched", *methods], [], 0.0
    searches = rows.loc[rows["search_seconds"].notna(), "search_seconds"]
    for call in calls:
        tasks, budgets, seeds, modes = (call.get(name) or [""] for name in ("tasks", "budgets", "seeds", "modes"))
        each = len(tasks) * len(seeds)
        took += sum(_seconds(rows, m) * each * (1 if m == "full" else len(budgets)) for m in wanted)
        took += 0.0 if own else float(searches.mean()) * each * len(budgets) * len(modes)
        given: dict[str, Any] = {"tasks": list(tasks.values()) if isinstance(tasks, Mapping) else list(tasks)}
        kept = ("backbone", "budgets", "seeds", "modes", "n_random", "space", "split", "precision")
        given |= {name: call[name] for name in kept if name in call} | dict(call.get("options") or {})
        given |= {"per_task": call["per_task"]} if call.get("per_task") else {}
        out = str(study.path) if own else f"studies/{study.name}"
        lines.append(_python("sweep", {**given, "methods": wanted, "out": out}))
    return Remedy("\n".join(dict.fromkeys(lines)), took) if lines else Remedy()


def _seconds(rows: pd.DataFrame, method: str) -> float:
    """Of one training: the mean of the method's, else of all that train PET modules."""
    own = rows.loc[rows["method"] == method, "seconds"]
    own = own if len(own) else rows.loc[~rows["method"].isin(["full", "head", "untouched"]), "seconds"]
    return float(own.mean()) if len(own) else math.nan


def _on_disk(run: Run) -> bool:
    config = run.config
    named = all(isinstance(config.get(name), str) and config[name] for name in ("task", "backbone"))
    return named and not run.info.get("own") and config.get("budget") is not None


def _words(run: Run, **more: Any) -> list[str] | None:
    """``s3pet search`` as it was asked; None where a part of it lies in memory."""
    options, config = options_of(SearchConfig), run.config
    if not _on_disk(run):
        return None
    first = {name: config[name] for name in ("task", "backbone", "budget", "mode") if config.get(name) is not None}
    words = ["s3pet", "search"]
    for name, value in (first | asked(run) | more).items():
        flag = f"--{name.replace('_', '-')}"
        if name == "columns" and value is not None:
            if any(sign in word for pair in value.items() for word in pair for sign in ",="):
                return None
            value = ",".join(map("=".join, value.items()))
        if isinstance(value, (Mapping, list)):
            return None
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif value is not None and (
            name not in options or value != options[name].default or options[name].default is REQUIRED
        ):
            words += [flag, str(value)]
    return words


def _python(function: str, arguments: Mapping[str, Any]) -> str:
    return f"s3.{function}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
