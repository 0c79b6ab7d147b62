"""GLUE and SuperGLUE by name, loaded with `datasets` (imported here, when a hub name is asked for)."""

from __future__ import annotations

from typing import Any

from s3pet_viz.errors import MissingExtraError, TaskError
from s3pet_viz.tasks.published import HUB_IDS
from s3pet_viz.tasks.spec import Task


def load_hub(task: Task | None, hub_id: str | None, revision: str | None) -> tuple[Any, str]:
    """The DatasetDict of a GLUE or SuperGLUE task (or of `hub_id`) and its origin, `id (config) @ revision`.

    Only data files are read: no loading script is run. Raises MissingExtraError without `datasets`, and TaskError when
    the hub cannot be reached or has no such dataset, config or revision.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f"task {task.name if task else hub_id}: expected the package `datasets` for a hub name; "
            'pip install "s3pet_viz[hub]"'
        ) from error
    path = hub_id or HUB_IDS[task.benchmark]  # type: ignore[union-attr]
    config = None if hub_id else task.name  # type: ignore[union-attr]
    origin = f"{path}{f' ({config})' if config else ''} @ {revision or 'main'}"
    try:
        loaded = datasets.load_dataset(path, config, revision=revision)
    except Exception as error:  # `datasets` and the hub client raise many kinds; one with the name is needed
        raise TaskError(
            f"{origin}: expected a dataset on the Hugging Face hub, found: {type(error).__name__}: "
            f"{error}. Without a network, give a folder with train.jsonl and validation.jsonl."
        ) from error
    return loaded, origin
