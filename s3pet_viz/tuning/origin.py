"""What a run or a structure says of the task and backbone it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s3pet_viz.config.tuning import TuneConfig, make_config
from s3pet_viz.errors import ConfigError
from s3pet_viz.runs import Run
from s3pet_viz.sources import Opened
from s3pet_viz.structure import Structure
from s3pet_viz.tuning.workbench import Workbench

#: What a run is said to be about where its rows came from memory.
IN_MEMORY = "in memory"


def origin_of(source: Opened | None, task: Any = None, backbone: str | Path | None = None) -> dict[str, Any]:
    """Arguments of `tune`: what is given, else what the run or structure says, and how that was loaded.

    Returns:
        ``task`` and ``backbone`` (None where nobody says), ``load``, and of a run's own task ``split`` and
        ``max_source_length`` where it set them.
    """
    found: dict[str, Any] = {"load": {}}
    if isinstance(source, Run):
        config = source.config
        found["task"] = config.get("task") if task is None else task
        found["backbone"] = config.get("backbone") if backbone is None else backbone
        if task is None:
            found["load"] |= {**source.info.get("load", {}), **_known(config, "max_rows", "task_revision")}
            found |= _known(config, "split", "max_source_length")
        if backbone is None:
            found["load"] |= _known(config, "revision", "head", "dtype")
    elif source is not None:
        said = source.source.get("task") if isinstance(source, Structure) else None
        found["task"] = said if task is None else task
        found["backbone"] = (source.backbone or None) if backbone is None else backbone
    else:
        found["task"], found["backbone"] = task, backbone
    if isinstance(found["task"], str) and found["task"] in ("", IN_MEMORY):
        found["task"] = None
    return found


def bench_of(
    source: Opened | None,
    task: Any,
    backbone: Any,
    options: dict[str, Any],
    workbench: Workbench | None,
    *,
    model: Any,
    tokenizer: Any,
    device: str,
    precision: str,
    split: str | None,
    load: dict[str, Any] | None,
) -> tuple[Workbench, TuneConfig, dict[str, Any]]:
    """What a structure is tuned on, as its source says where nothing else is given; how; and what was loaded with.

    Raises:
        ConfigError: nobody names a task or a backbone, or a wrong option; else as `Workbench.open`.
    """
    where = origin_of(source, task, backbone)
    given = {"split": split, "max_source_length": options.pop("max_source_length", None)}
    where |= {name: value for name, value in given.items() if value is not None}
    config = make_config(**options, max_source_length=where.get("max_source_length"))
    if model is not None:  # it is loaded already
        where["load"] = {k: v for k, v in where["load"].items() if k not in ("revision", "head", "dtype")}
    loading = {**where["load"], **(load or {})}
    if workbench is not None:
        return workbench, config, load or {}
    if where["task"] is None:
        raise ConfigError("task: expected a task, found none; neither the run nor the structure names one")
    if source is not None and model is None and where["backbone"] is None:
        raise ConfigError("backbone: expected a backbone, found none; the structure names none")
    bench = Workbench.open(
        where["task"],
        where["backbone"] if model is None else backbone,
        model=model,
        tokenizer=tokenizer,
        device=device,
        precision=precision,
        max_source_length=config.max_source_length,
        split=where.get("split", "paper"),
        **loading,
    )
    return bench, config, loading


def _known(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: config[name] for name in names if config.get(name) is not None}
