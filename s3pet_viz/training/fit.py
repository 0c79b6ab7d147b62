"""Train what is trainable of a backbone on a task, keep the best weights seen, evaluate them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.shared import RandomStream
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import NonFiniteLossError
from s3pet_viz.pet.dropout import quick_dropout
from s3pet_viz.tasks import TaskData
from s3pet_viz.threads import LOCK
from s3pet_viz.training.batches import Features, shuffled
from s3pet_viz.training.device import Device
from s3pet_viz.training.evaluate import evaluate


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
        return evaluate(backbone, task, features, batch_size=config.eval_batch_size, autocast=device.autocast)

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
