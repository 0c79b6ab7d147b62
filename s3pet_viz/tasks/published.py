"""The nine GLUE and the eight SuperGLUE tasks, from published.yaml."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

from s3pet_viz.tasks.spec import Task

_BENCHMARKS = yaml.safe_load((files(__package__) / "published.yaml").read_text("utf-8"))
#: Benchmark -> its dataset on the Hugging Face hub.
HUB_IDS: dict[str, str] = {name: benchmark["hub_id"] for name, benchmark in _BENCHMARKS.items()}


def _task(benchmark: str, name: str, fields: dict[str, Any]) -> Task:
    said: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Task(name=name, prefix=name, benchmark=benchmark, **said)


#: By full name, ``glue/rte``.
PUBLISHED: dict[str, Task] = {
    f"{benchmark}/{name}": _task(benchmark, name, {**all_["all"], **fields})
    for benchmark, all_ in _BENCHMARKS.items()
    for name, fields in all_["tasks"].items()
}
#: By bare name; ``rte`` is GLUE's, SuperGLUE's is ``super_glue/rte``.
TASKS: dict[str, Task] = {full if full == "super_glue/rte" else task.name: task for full, task in PUBLISHED.items()}
