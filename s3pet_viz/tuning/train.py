"""Train what is trainable of a backbone on a task, keep the best weights seen, evaluate them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.shared import RandomStream
from s3pet_viz.errors import NonFiniteLossError
from s3pet_viz.pet.dropout import quick_dropout
from s3pet_viz.tasks import TaskData
from s3pet_viz.threads import LOCK
from s3pet_viz.tuning import checks
from s3pet_viz.tuning.data import Features, shuffled
from s3pet_viz.tuning.device import Device
from s3pet_viz.tuning.evaluate import evaluate


def default_lr(backbone_params: int) -> float:
    """Learning rate of PET weights for a backbone of this size.

    3e-4 is the published rate (T5-large). A 22.7M encoder had not moved after 60 steps at it and trains at 3e-3. The
    embedded 2M backbone trains at 5e-3; at 2e-2 small structures stay at chance (docs/results.md).
    """
    return 5e-3 if backbone_params < 10_000_000 else 3e-3 if backbone_params < 100_000_000 else 3e-4


def default_full_lr(backbone_params: int) -> float:
    """Learning rate of full fine-tuning for a backbone of this size."""
    return 7e-4 if backbone_params < 10_000_000 else 1e-4


@dataclass(frozen=True)
class TuneConfig:
    """How a fixed structure is trained.

    Attributes:
        steps: optimiser steps; the learning rates decay linearly to 0 over them.
        lr: of PET weights (None: `default_lr`). head_lr: of an encoder's head (None: as lr).
        full_lr: of full fine-tuning (None: `default_full_lr`).
        clip: joint L2 norm of all gradients; 0 turns clipping off.
        evaluations: how often the validation split is scored; the best weights seen are kept.
        train_pooler: train an encoder's pooler too (frozen otherwise; counted with the head).
    """

    steps: int = 500
    batch_size: int = 32
    lr: float | None = None
    head_lr: float | None = None
    full_lr: float | None = None
    clip: float = 2.0
    evaluations: int = 5
    eval_batch_size: int = 100
    seed: int = 0
    max_source_length: int | None = None
    train_pooler: bool = False

    def __post_init__(self) -> None:
        made: dict[str, Any] = {"clip": checks.number("clip", self.clip, "0 (off) or more")}
        for name in ("steps", "batch_size", "evaluations", "eval_batch_size", "seed", "max_source_length"):
            value = getattr(self, name)
            if value is not None or name != "max_source_length":
                made[name] = checks.whole(name, value, 0 if name == "seed" else 1)
        for name in ("lr", "head_lr", "full_lr"):
            value = getattr(self, name)
            if value is not None:
                made[name] = checks.number(name, value, "a positive number", open_end=True)
        made["train_pooler"] = checks.flag("train_pooler", self.train_pooler)
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Splits:
    """The tokenised splits of a task for one backbone."""

    data: TaskData
    train: Features
    validation: Features
    test: Features

    @classmethod
    def make(cls, data: TaskData, backbone: Backbone, max_source_length: int | None = None) -> Splits:
        with LOCK:  # a tokenizer from memory may be another thread's too, and refuses two at once
            made = [
                Features(examples, backbone, data.task, max_source_length=max_source_length)
                for examples in (data.train, data.validation, data.test)
            ]
        return cls(data, *made)


@dataclass
class TrainResult:
    """Scores of the best weights seen, on the split that chose them and on the held-out one."""

    validation: dict[str, float]
    test: dict[str, float]
    best_step: int
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)


def train(
    backbone: Backbone,
    splits: Splits,
    groups: list[tuple[list[nn.Parameter], float]],
    config: TuneConfig,
    device: Device,
    *,
    label: str = "",
    progress: bool = True,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainResult:
    """Train parameter groups (parameters, learning rate) and evaluate the best weights.

    With no parameters, or none to move, the backbone is only evaluated. Its gradients are left off
    and its mode is left as it was found.

    Raises:
        NonFiniteLossError: with the step and the loss.
    """
    started = time.perf_counter()
    task = splits.data.task
    weights = [p for group, _ in groups for p in group]

    def score(features: Features) -> dict[str, float]:
        return evaluate(
            backbone, task, features, batch_size=config.eval_batch_size, autocast=device.autocast
        )

    if not weights:
        return TrainResult(score(splits.validation), score(splits.test), 0, time.perf_counter() - started)

    marks = {round((k + 1) * config.steps / config.evaluations) for k in range(config.evaluations)}
    best: tuple[float, float] | None = None
    best_step, best_weights, best_validation = 0, [], {}
    history = []
    name = label or f"tune {task.name}"
    bar = tqdm(total=config.steps, desc=name, unit="step", leave=False, disable=not progress)

    def after(step: int, value: float) -> None:
        nonlocal best, best_step, best_weights, best_validation
        bar.update()
        if on_step is not None:
            on_step(step, value)
        if step + 1 in marks:
            scores = score(splits.validation)
            history.append({"step": step + 1, "train_loss": value, **scores})
            bar.set_postfix(loss=f"{value:.3f}", score=f"{scores['score']:.3f}")
            rank = (scores["score"], -scores["loss"])
            if best is None or rank > best:
                best, best_step, best_validation = rank, step + 1, scores
                best_weights = [p.detach().clone() for p in weights]

    with bar:
        fit(backbone, splits.train, groups, config, device, label=label or "tuning", after=after)
    for p in weights:
        p.requires_grad_(False)
    _restore(weights, best_weights)
    return TrainResult(best_validation, score(splits.test), best_step, time.perf_counter() - started, history)


def fit(
    backbone: Backbone,
    features: Features,
    groups: list[tuple[list[nn.Parameter], float]],
    config: TuneConfig,
    device: Device,
    *,
    label: str,
    after: Callable[[int, float], None],
) -> None:
    """The training loop: AdamW on groups (parameters, learning rate), whose rates decay linearly to 0.

    The backbone's mode, the parameters' ``requires_grad`` and torch's random state are left as they were found.

    Args:
        after: called after each step with its number and its training loss.

    Raises:
        NonFiniteLossError: with the label, the step and the loss.
    """
    model = backbone.model
    weights = [p for group, _ in groups for p in group]
    found = [p.requires_grad for p in weights]
    was_training = model.training
    optimizer = torch.optim.AdamW(
        [{"params": group, "lr": lr} for group, lr in groups if group], weight_decay=0.0, eps=1e-8, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / config.steps))
    batches = shuffled(features.lengths, config.batch_size, [config.seed, 11])
    options = {"use_cache": False} if backbone.form == "text" else {}
    numbers = RandomStream(config.seed)
    with quick_dropout(model):
        model.train()
        try:
            for p in weights:
                p.requires_grad_(True)
            for step in range(config.steps):
                batch = features.batch(batches(step), device.torch)
                with numbers.part():
                    with device.autocast():
                        loss = model(**batch, **options).loss
                    value = float(loss.detach())
                    if not math.isfinite(value):
                        raise NonFiniteLossError(f"{label}: step {step}: train loss is {value}")
                    loss.backward()
                if config.clip:
                    torch.nn.utils.clip_grad_norm_(weights, config.clip)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                after(step, value)
        finally:
            for p, flag in zip(weights, found, strict=True):
                p.requires_grad_(flag)
                p.grad = None
            model.train(was_training)


def _restore(weights: list[nn.Parameter], values: list[Tensor]) -> None:
    with torch.no_grad():
        for p, value in zip(weights, values, strict=True):
            p.copy_(value)
