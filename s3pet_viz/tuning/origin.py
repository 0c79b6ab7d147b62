"""What a run or a structure says of the task and backbone it is for."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from s3pet_viz.config.options import config_of, with_keywords
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.config.typed import TuneOptions
from s3pet_viz.errors import ConfigError
from s3pet_viz.runs import Run
from s3pet_viz.sources import Opened
from s3pet_viz.structure import Structure
from s3pet_viz.tasks.taskfile import recalled
from s3pet_viz.training.arguments import check_arguments
from s3pet_viz.training.own import ARGUMENTS, OWN, Own, OwnArguments
from s3pet_viz.training.own_data import OwnData, needed
from s3pet_viz.tuning.workbench import Workbench

#: What a run is said to be about where its rows came from memory.
IN_MEMORY = "in memory"

F = TypeVar("F", bound=Callable[..., Any])


class PlaceOptions(OwnArguments, total=False):
    """What `tune`, `explain`, `baselines` and `evaluate` run on."""

    task: Any
    backbone: str | Path | None
    model: nn.Module | None
    tokenizer: Any
    family: Any
    device: str
    precision: str
    split: str | None
    workbench: Workbench | None
    load: dict[str, Any] | None


class TrainOptions(PlaceOptions, TuneOptions, total=False):
    """Keywords of what trains."""


_HINTS = PlaceOptions.__annotations__
#: Names and defaults of `PlaceOptions`.
PLACE: dict[str, Any] = dict.fromkeys(sorted(_HINTS, key=lambda name: name in ARGUMENTS))
PLACE |= {"device": "auto", "precision": "fp32"}


def origin_of(source: Opened | None, task: Any = None, backbone: str | Path | None = None) -> dict[str, Any]:
    """Arguments of `tune`: what is given, else what the run or structure says, and how that was loaded.

    Returns:
        ``task`` and ``backbone`` (None where nobody says), ``load``, and of a run's own task ``split`` and
        ``max_source_length`` where it set them.

    Raises:
        ConfigError: it was searched with a loss of the user's, which is not given.
    """
    found: dict[str, Any] = {"load": {}}
    if isinstance(source, Run):
        config = source.config
        if isinstance(said := source.info.get("own"), Mapping):
            if task is None:
                raise ConfigError(f"task: {source.name}: {needed(said)}")
            if isinstance(task, Own):
                found["load"] |= _known(config, "max_rows", "head")
        found["task"] = config.get("task") if task is None else task
        found["backbone"] = config.get("backbone") if backbone is None else backbone
        if task is None:
            found["load"] |= {**source.info.get("load", {}), **_known(config, "max_rows", "task_revision", "columns")}
            found |= _known(config, "split", "max_source_length")
        if backbone is None:
            found["load"] |= _known(config, "revision", "head", "dtype", "device_map", "family")
    elif source is not None:
        said = source.source.get("task") if isinstance(source, Structure) else None
        found["task"] = said if task is None else task
        found["backbone"] = (source.backbone or None) if backbone is None else backbone
    else:
        found["task"], found["backbone"] = task, backbone
    if task is None and str(found["task"]).startswith(OWN):
        raise ConfigError(f"task: {needed({'loss': found['task']})}")
    if isinstance(found["task"], str) and found["task"] in ("", IN_MEMORY):
        found["task"] = None
    return found


def takes_place(function: F) -> F:
    """Decorator: the signature names what the function takes of `PlaceOptions` as keywords."""
    place = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=_HINTS[name])
        for name, default in PLACE.items()
    ]
    return with_keywords(function, place)


def split_options(given: Mapping[str, Any], **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """`PlaceOptions` with their defaults, and the other options.

    Args:
        more: arguments of the caller, to be checked in the same way.

    Raises:
        ConfigError: an argument is of another kind than its name says.
    """
    place = {name: given.get(name, default) for name, default in PLACE.items()}
    bench, unchecked = place["workbench"], ("model", "tokenizer", "workbench", *ARGUMENTS)
    check_arguments(**{n: v for n, v in place.items() if n not in unchecked}, **more)
    check_workbench(bench)
    others = {name: value for name, value in given.items() if name not in ARGUMENTS}
    own = Own.of(place, model=place["model"], others={**others, **(place["load"] or {})})
    if own is not None:
        place["task"] = own
    return place, {name: value for name, value in given.items() if name not in PLACE}


def check_workbench(bench: Any) -> None:
    """Raises ConfigError: it is neither a `Workbench` nor None."""
    if not (bench is None or isinstance(bench, Workbench)):
        raise ConfigError(f"workbench: expected a Workbench, found {type(bench).__name__}")


def bench_of(
    source: Opened | None, place: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Workbench, TuneConfig, dict[str, Any]]:
    """What a structure is tuned on, as its source says where nothing else is given; how; and what was loaded with.

    Args:
        place: as `split_options` gives them. options: of `TuneConfig`.

    Raises:
        ConfigError: nobody names a task or a backbone, or a wrong option; else as `Workbench.open`.
    """
    model, load = place["model"], place["load"] or {}
    where = origin_of(source, place["task"], place["backbone"])
    given = {"split": place["split"], "max_source_length": options.get("max_source_length")}
    where |= {name: value for name, value in given.items() if value is not None}
    config = config_of(TuneConfig, {**options, "max_source_length": where.get("max_source_length")})
    if model is not None:  # it is loaded already
        without = ("revision", "dtype", "device_map") + (() if isinstance(where["task"], Own) else ("head",))
        where["load"] = {k: v for k, v in where["load"].items() if k not in without}
    loading = {**recalled(where["load"], load), **load} | _known(dict(place), "family")
    if place["workbench"] is not None:
        return place["workbench"], config, load
    if where["task"] is None:
        raise ConfigError("task: expected a task, found none; neither the run nor the structure names one")
    if source is not None and model is None and where["backbone"] is None:
        raise ConfigError("backbone: expected a backbone, found none; the structure names none")
    bench = Workbench.open(
        where["task"],
        where["backbone"] if model is None else place["backbone"],
        **{name: place[name] for name in ("model", "tokenizer", "device", "precision")},
        max_source_length=config.max_source_length,
        split=where.get("split", "paper"),
        **loading,
    )
    return bench, config, loading


def warn_of_scored(bench: Workbench) -> None:
    """Say that what is scored has chosen the weights, where it has."""
    data = bench.splits.data
    if isinstance(data, OwnData) and data.test is None:
        warnings.warn("test: none was given, so validation is scored, which also chose the best weights", stacklevel=3)


def _known(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: config[name] for name in names if config.get(name) is not None}
