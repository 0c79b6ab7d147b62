"""What a run or a structure says of the task and backbone it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s3pet_viz.runs import Run
from s3pet_viz.structure import Structure

#: What a run is said to be about where its rows came from memory.
IN_MEMORY = "in memory"


def origin_of(source: Run | Structure | None, task: Any = None, backbone: str | Path | None = None) -> dict[str, Any]:
    """Arguments of `tune`: what is given, else what the run or structure says, and how that was loaded.

    Returns:
        ``task`` and ``backbone`` (None where nobody says), ``load``, and of a run's own task ``split`` and
        ``max_source_length`` where it set them.
    """
    found: dict[str, Any] = {"load": {}}
    if isinstance(source, Run):
        config = source.config
        found["task"] = config.get("task") if task is None else task
        found["backbone"] = backbone or config.get("backbone")
        if task is None:
            found["load"] |= {**source.info.get("load", {}), **_known(config, "max_rows", "task_revision")}
            found |= _known(config, "split", "max_source_length")
        if backbone is None:
            found["load"] |= _known(config, "revision", "head", "dtype")
    elif source is not None:
        found["task"] = source.source.get("task") if task is None else task
        found["backbone"] = backbone or source.backbone or None
    else:
        found["task"], found["backbone"] = task, backbone
    if isinstance(found["task"], str) and found["task"] in ("", IN_MEMORY):
        found["task"] = None
    return found


def _known(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: config[name] for name in names if config.get(name) is not None}
