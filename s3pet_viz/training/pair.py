"""A backbone and a task, loaded so that they fit each other: where every way to search, train or score begins."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s3pet_viz.backbones import Backbone, load_backbone, wrap_backbone
from s3pet_viz.backbones.check import check_pass, check_task, check_writes
from s3pet_viz.backbones.heads import TOKENS
from s3pet_viz.backbones.placed import computes_on
from s3pet_viz.config.checks import short
from s3pet_viz.config.names import HEADS
from s3pet_viz.errors import BackboneError, ConfigError
from s3pet_viz.structure.tables import read_family
from s3pet_viz.tasks import Task, TaskData, load_task
from s3pet_viz.threads import LOCK
from s3pet_viz.training.arguments import check_load
from s3pet_viz.training.batches import Features
from s3pet_viz.training.model_state import as_found
from s3pet_viz.training.own import Own
from s3pet_viz.training.own_data import OwnData, load_own


def load_pair(
    task: Any,
    backbone: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    head: Any = "auto",
    revision: str | None = None,
    task_revision: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    device_map: str | dict[str, Any] | None = None,
    family: Any = None,
    scored: bool = False,
    loaded: Backbone | None = None,
    **task_options: Any,
) -> tuple[Backbone, TaskData | OwnData]:
    """A backbone and a task in the form that it reads. `revision` is the backbone's, `task_revision` the task's.

    Every way to search, train or score begins here, and so do the checks that the two can work together
    (`backbones.check`). `head`, `dtype`, `device_map` and `family` are as in `load_backbone`; a model in memory has its
    own head, dtype and places, and is left as found. An `Own` in the place of a task: see `own.load_own`; `scored`:
    whether its score is asked for. `loaded`: what this gave for another task and the same
    backbone; a language model is taken as it is, whatever the task, and is not read from its files again.

    Raises:
        ConfigError: neither or both of `backbone` and `model`, or another head than the model's, or an unknown option.
            TaskError, BackboneError (a head in memory that is not for this task, a tokenizer of another model, ...).
    """
    if isinstance(task, Own):
        check_load({k: v for k, v in task_options.items() if k != "split"})
        rows = task_options.pop("max_rows", None)
        if wrong := [k for k, v in task_options.items() if k != "split" and v is not None]:
            raise ConfigError(f"load: {wrong[0]}: expected none with a loss of your own")
        return load_own(task, model, head=head, family=family, max_rows=rows, scored=scored)
    if (backbone is None) == (model is None):
        raise ConfigError("backbone: give either backbone= (a name or folder) or model= with tokenizer=")
    if backbone is not None and not isinstance(backbone, (str, Path)):
        raise ConfigError(f"backbone: expected a name or a folder, found {type(backbone).__name__}; see model=")
    if model is None and tokenizer is not None:
        raise ConfigError("tokenizer: expected none with backbone=, which has its own; give it with model=")
    check_load({k: v for k, v in task_options.items() if k != "split"})
    check_head(head)
    if family is not None:
        family = read_family(family)
    if model is not None:
        with as_found(model) if isinstance(model, nn.Module) else nullcontext():
            made = wrap_backbone(model, tokenizer, family=family)
            if head not in ("auto", "lm" if made.form == "text" else "classification"):
                kind = type(model).__name__
                raise ConfigError(f"head: expected that of the model in memory ({kind}), found {head!r}")
            data = load_task(
                task, form="text" if made.form == "text" else "pair", revision=task_revision, **task_options
            )
            if made.form == "pair":
                check_writes(False, data.task.of.problem, made.name, type(model).__name__)
                _check_head(made, data.task)
            return made, _checked(made, data)
    # The task decides the head's width, the backbone decides the task's form: read the task first as text.
    data = load_task(task, form="text", revision=task_revision, **task_options)
    if loaded is not None and loaded.form == "text":
        return loaded, _checked(loaded, data)
    made = load_backbone(
        str(backbone),
        head=head,
        num_labels=data.task.num_labels,
        problem=data.task.of.problem,
        revision=revision,
        dtype=dtype,
        device_map=device_map,
        family=family,
    )
    if made.form == "pair":
        data = load_task(task, form="pair", revision=task_revision, **task_options)
    return made, _checked(made, data)


def check_head(head: Any) -> None:
    """Raises ConfigError: names of modules, which only a loss of the user's takes."""
    if not isinstance(head, str):
        raise ConfigError(f"head: expected one of {', '.join(HEADS)}, found {short(head)}; loss= takes names")


def _checked(backbone: Backbone, data: TaskData) -> TaskData:
    with LOCK:  # a pass, and a tokenizer that may be another thread's too
        data = check_task(backbone, data)
        few = Features(data.train[:2], backbone, data.task)
        check_pass(backbone, few.batch(range(len(few)), computes_on(backbone.model)), data.task)
    return data


def _check_head(backbone: Backbone, task: Task) -> None:
    config: Any = backbone.model.config
    kind, found = task.of.problem, backbone.problem
    # transformers finds an unset problem_type out from the labels and the width of the head.
    other = TOKENS in (kind, found) or config.problem_type is not None
    if config.num_labels != task.num_labels or (other and kind != found):
        said = f"{type(backbone.model).__name__}, problem_type {config.problem_type}"
        raise BackboneError(
            f"backbone: task {task.name} expects a model with num_labels={task.num_labels} for {kind}, found "
            f"num_labels={config.num_labels} ({said})"
        )
