"""A backbone and a task, loaded once, on which structures are trained in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s3pet_viz.backbones import Backbone, load_backbone, wrap_backbone
from s3pet_viz.backbones.check import check_pass, check_task
from s3pet_viz.errors import BackboneError, ConfigError, StructureError
from s3pet_viz.export import Adapter
from s3pet_viz.pet import PETs, insert
from s3pet_viz.structure import Structure
from s3pet_viz.tasks import Task, TaskData, load_task
from s3pet_viz.threads import LOCK
from s3pet_viz.tuning.arguments import check_load
from s3pet_viz.tuning.baselines import OTHERS
from s3pet_viz.tuning.data import Features
from s3pet_viz.tuning.device import Device
from s3pet_viz.tuning.model_state import as_found, at_work, left_as_found, pooler_of, raise_precision, reset_head
from s3pet_viz.tuning.train import Splits, TrainResult, TuneConfig, default_full_lr, default_lr, train


@dataclass(frozen=True)
class Scores:
    """What a tuned structure scores on the held-out split.

    Attributes:
        method: ``structure`` or a baseline's name.
        metrics: on the held-out split; ``score`` is the task's main one, ``loss`` the mean loss.
        validation: the same on the split that chose the best weights.
        pet_params: trained PET parameters (all weights for ``full``). head_params: trained parameters of an
            encoder's head (and pooler, if asked for): they are needed by every method and counted apart.
        backbone_params: of the backbone without head.
    """

    method: str
    task: str
    backbone: str
    metrics: dict[str, float]
    validation: dict[str, float]
    pet_params: int
    head_params: int
    backbone_params: int
    seed: int
    steps: int
    best_step: int
    seconds: float
    n_gates: int = 0
    pooler: str = ""
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def score(self) -> float:
        return self.metrics["score"]

    @property
    def fraction(self) -> float:
        return self.pet_params / self.backbone_params

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def row(self) -> dict[str, Any]:
        """One tidy row of a table."""
        return {
            "method": self.method,
            "task": self.task,
            "seed": self.seed,
            "score": self.score,
            "loss": self.metrics["loss"],
            "validation": self.validation["score"],
            "pet_params": self.pet_params,
            "percent": 100 * self.fraction,
            "head_params": self.head_params,
            "n_gates": self.n_gates,
            "best_step": self.best_step,
            "seconds": self.seconds,
            **{k: v for k, v in self.metrics.items() if k not in ("score", "loss")},
        }

    def __repr__(self) -> str:
        head = f" + {self.head_params:,} of the head" if self.head_params else ""
        return (
            f"Scores({self.method} on {self.task}: {self.score:.4f}, loss {self.metrics['loss']:.4f}, "
            f"{self.pet_params:,} PET parameters{head})"
        )


@dataclass
class Workbench:
    """A backbone and a task's splits, loaded once, on which many structures can be trained in turn.

    Every `run` leaves the backbone (and its head) as it found it; runs from several threads wait for each other.
    """

    backbone: Backbone
    splits: Splits
    device: Device

    @classmethod
    def open(
        cls,
        task: Any,
        backbone: str | Path | None = None,
        *,
        model: nn.Module | None = None,
        tokenizer: Any = None,
        device: str = "auto",
        precision: str = "fp32",
        max_source_length: int | None = None,
        **task_options: Any,
    ) -> Workbench:
        """Load task and backbone. Options beside these go to `tasks.load_task` (split, revision, ...).

        Raises:
            TaskError, BackboneError, ConfigError: before any long work.
        """
        place = Device.choose(device, precision)
        made, data = load_pair(task, backbone, model=model, tokenizer=tokenizer, **task_options)
        if model is None:
            made.model.to(place.torch)  # the caller's own goes there for each piece of work, see `working`
        return cls(made, Splits.make(data, made, max_source_length), place.suited(made.model))

    def working(self) -> AbstractContextManager[None]:
        """Inside, the backbone is ready to be read; afterwards it is as it was found."""
        return at_work(self.backbone, self.device)

    def run(
        self,
        method: str | Structure,
        config: TuneConfig,
        *,
        label: str | None = None,
        progress: bool = True,
        on_step: Callable[[int, float], None] | None = None,
    ) -> Scores:
        """Train one structure (or ``full``, ``head``, ``untouched``) from scratch and score it."""
        with self.tuned(method, config, label=label, progress=progress, on_step=on_step) as (scores, _):
            return scores

    @contextmanager
    def tuned(
        self,
        method: str | Structure,
        config: TuneConfig,
        *,
        label: str | None = None,
        progress: bool = True,
        on_step: Callable[[int, float], None] | None = None,
    ) -> Iterator[tuple[Scores, PETs | None]]:
        """As `run`, with the best weights still in place inside the context: the scores, and a structure's
        PET modules (frozen, attached; None for the other methods).
        """
        backbone = self.backbone
        structure = method if isinstance(method, Structure) else None
        name = label or ("structure" if structure is not None else str(method))
        if structure is None and method not in OTHERS:
            raise ConfigError(f"method: expected a Structure or one of {', '.join(OTHERS)}, found {method!r}")
        if method == "head" and not backbone.head:
            raise ConfigError("method: 'head' needs a classification head; a language model has no head of its own")
        if structure is not None and not structure.gates:
            raise StructureError("structure: expected at least one gate, found none")
        full = list(backbone.body.parameters()) if method == "full" else []
        pooler = pooler_of(backbone) if backbone.form == "pair" else []
        extra = pooler if config.train_pooler and not full else []
        head = list(backbone.head.values()) if method != "untouched" else []
        with self.working(), left_as_found([*full, *head, *extra]):
            raise_precision([*full, *extra])
            if method != "untouched":
                reset_head(backbone, config.seed)
            pets = insert(backbone.model, structure.gates, seed=config.seed) if structure else None
            try:
                raise_precision(pets.parameters() if pets is not None else ())
                lr = config.lr or default_lr(backbone.n_params)
                full_lr = config.full_lr or default_full_lr(backbone.n_params)
                head_lr = config.head_lr or (full_lr if full else lr)
                groups: list[tuple[list[nn.Parameter], float]] = [
                    (list(pets.parameters()) if pets is not None else [], lr),
                    (full, full_lr),
                    ([*head, *extra], head_lr),
                ]
                if method == "untouched":
                    groups = []
                result = train(
                    backbone,
                    self.splits,
                    [(g, lr) for g, lr in groups if g],
                    config,
                    self.device,
                    label=f"{name} on {self.splits.data.task.name}",
                    progress=progress,
                    on_step=on_step,
                )
                size = sum(p.numel() for p in full) if full else (structure.n_params if structure else 0)
                trained = [*head, *extra]
                yield self._scores(name, result, config, size, trained, structure, bool(pooler), bool(full)), pets
            finally:
                if pets is not None:
                    pets.detach()

    def adapter(
        self, structure: Structure, pets: PETs, scores: Scores, config: TuneConfig, revision: str | None = None
    ) -> Adapter:
        """A copy of what was trained, to be taken inside `tuned`: PET weights, and an encoder's head and pooler."""
        task = self.splits.data.task
        pooler = pooler_of(self.backbone) if config.train_pooler and self.backbone.form == "pair" else []
        return Adapter.of(
            self.backbone,
            structure,
            pets,
            head=[*self.backbone.head.values(), *pooler],
            task=task.name,
            labels=task.label_names,
            scores=scores.metrics,
            revision=revision,
        )

    def _scores(
        self,
        name: str,
        result: TrainResult,
        config: TuneConfig,
        pet_params: int,
        head: list[nn.Parameter],
        structure: Structure | None,
        has_pooler: bool,
        full: bool,
    ) -> Scores:
        return Scores(
            method=name,
            task=self.splits.data.task.name,
            backbone=self.backbone.name,
            metrics=result.test,
            validation=result.validation,
            pet_params=pet_params,
            head_params=sum(p.numel() for p in head),
            backbone_params=self.backbone.n_params,
            seed=config.seed,
            steps=config.steps if result.best_step else 0,
            best_step=result.best_step,
            seconds=result.seconds,
            n_gates=len(structure) if structure else 0,
            pooler="" if not has_pooler else ("trained" if config.train_pooler or full else "frozen"),
            history=result.history,
        )


def load_pair(
    task: Any,
    backbone: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    head: str = "auto",
    revision: str | None = None,
    task_revision: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    **task_options: Any,
) -> tuple[Backbone, TaskData]:
    """A backbone and a task in the form that it reads. `revision` is the backbone's, `task_revision` the task's.

    Every way to search, train or score begins here, and so do the checks that the two can work together
    (`backbones.check`). `head` and `dtype` are as in `load_backbone`; a model in memory has its own, and is left as
    found.

    Raises:
        ConfigError: neither or both of `backbone` and `model`, or another head than the model's, or an unknown option.
            TaskError, BackboneError (a head in memory that is not for this task, a tokenizer of another model, ...).
    """
    if (backbone is None) == (model is None):
        raise ConfigError("backbone: give either backbone= (a name or folder) or model= with tokenizer=")
    if backbone is not None and not isinstance(backbone, (str, Path)):
        raise ConfigError(f"backbone: expected a name or a folder, found {type(backbone).__name__}; see model=")
    if model is None and tokenizer is not None:
        raise ConfigError("tokenizer: expected none with backbone=, which has its own; give it with model=")
    check_load({k: v for k, v in task_options.items() if k != "split"})
    if model is not None:
        with as_found(model) if isinstance(model, nn.Module) else nullcontext():
            made = wrap_backbone(model, tokenizer)
            if head not in ("auto", "lm" if made.form == "text" else "classification"):
                kind = type(model).__name__
                raise ConfigError(f"head: expected that of the model in memory ({kind}), found {head!r}")
            data = load_task(task, form=made.form, revision=task_revision, **task_options)
            if made.form == "pair":
                _check_head(model, data.task)
            return made, _checked(made, data)
    # The task decides the head's width, the backbone decides the task's form: read the task first as text.
    data = load_task(task, form="text", revision=task_revision, **task_options)
    made = load_backbone(
        str(backbone),
        head=head,
        num_labels=data.task.num_labels,
        regression=data.task.kind == "regression",
        revision=revision,
        dtype=dtype,
    )
    if made.form == "pair":
        data = load_task(task, form="pair", revision=task_revision, **task_options)
    return made, _checked(made, data)


def _checked(backbone: Backbone, data: TaskData) -> TaskData:
    with LOCK:  # a pass, and a tokenizer that may be another thread's too
        data = check_task(backbone, data)
        few = Features(data.train[:2], backbone, data.task)
        check_pass(backbone, few.batch(range(len(few)), next(backbone.model.parameters()).device), data.task)
    return data


def check_workbench(workbench: Any) -> None:
    """Raises ConfigError for what is neither a `Workbench` nor None."""
    if not (workbench is None or isinstance(workbench, Workbench)):
        raise ConfigError(f"workbench: expected a Workbench, found {type(workbench).__name__}")


def make_config(**options: Any) -> TuneConfig:
    """A `TuneConfig`; a name that it lacks is a ConfigError."""
    unknown = sorted(set(options) - set(TuneConfig.__dataclass_fields__))
    if unknown:
        known = ", ".join(TuneConfig.__dataclass_fields__)
        raise ConfigError(f"unknown option {unknown[0]!r} (expected one of {known})")
    return TuneConfig(**options)


def _check_head(model: nn.Module, task: Task) -> None:
    config: Any = model.config
    kind = "regression" if task.kind == "regression" else "single_label_classification"
    # transformers finds an unset problem_type out from the width of the head.
    if config.num_labels != task.num_labels or config.problem_type not in (None, kind):
        raise BackboneError(
            f"backbone: task {task.name} expects a model with num_labels={task.num_labels} for {kind}, found "
            f"num_labels={config.num_labels} (problem_type {config.problem_type})"
        )
