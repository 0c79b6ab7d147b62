"""Train what is trainable of a backbone on a task, keep the best weights seen, evaluate them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from s3pet_viz.analysis.learned import is_learned
from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.shared import RandomStream
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import NonFiniteLossError
from s3pet_viz.pet.dropout import quick_dropout
from s3pet_viz.tasks import TaskData
from s3pet_viz.threads import LOCK
from s3pet_viz.training.batches import Features
from s3pet_viz.training.device import Device
from s3pet_viz.training.evaluate import evaluate
from s3pet_viz.training.model_state import set_training
from s3pet_viz.training.own_batches import OwnBatches
from s3pet_viz.training.own_data import OwnData
from s3pet_viz.training.stopping import stopping


@dataclass(frozen=True)
class Splits:
    """The tokenised splits of a task for one backbone."""

    data: TaskData | OwnData
    train: Features | OwnBatches
    validation: Features | OwnBatches
    test: Features | OwnBatches

    @property
    def decided_on(self) -> str:
        """The rows that choose the best weights; none of them is scored."""
        if isinstance(self.validation, OwnBatches):
            return self.data.deciding
        return f"{len(self.validation):,} rows: {self.data.deciding or 'the validation split'}"

    @property
    def held_out(self) -> dict[str, Features | OwnBatches]:
        return {"validation": self.validation, "test": self.test}

    @classmethod
    def make(cls, data: TaskData | OwnData, backbone: Backbone, max_source_length: int | None = None) -> Splits:
        if isinstance(data, OwnData):
            return cls(data, data.train, data.validation, data.test or data.validation)
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
    steps_taken: int = 0
    cap_reached: bool = False
    learned: bool | None = None
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
    stepped: Callable[[int], None] | None = None,
    since: int = 0,
    test: bool = True,
) -> TrainResult:
    """Train parameter groups (parameters, learning rate) and evaluate the best weights.

    How many steps, and which weights are best, as `stopping` says. With no parameters, or none to move, the backbone is
    only evaluated. Its gradients are left off and its mode is left as it was found.

    Args:
        stepped: as of `fit`. since: weights of evaluations after so many steps, or less, are not kept.
        test: whether the best weights are scored on the test split, too.

    Raises:
        NonFiniteLossError: with the step and the loss.
    """
    started = time.perf_counter()
    task = splits.data.task
    weights = [p for group, _ in groups for p in group]

    def score(features: Features | OwnBatches, **how: bool) -> dict[str, float]:
        return evaluate(backbone, task, features, batch_size=config.eval_batch_size, autocast=device.autocast, **how)

    if not weights:
        said = score(splits.validation)
        return TrainResult(said, score(splits.test) if test else {}, 0, time.perf_counter() - started)

    one_answer = splits.validation.constant_loss() or None
    plan = stopping(config, one_answer)
    best: tuple[float, ...] | None = None
    taken, best_step, best_weights, best_validation = 0, 0, [], {}
    history = []
    name = label or f"tune {task.name}"
    bar = tqdm(total=plan.most, desc=name, unit="step", leave=False, disable=not progress)

    def after(step: int, value: float) -> None:
        nonlocal best, taken, best_step, best_weights, best_validation
        taken = step + 1
        bar.update()
        if on_step is not None:
            on_step(step, value)
        if plan.looks(taken):
            said = score(splits.validation, metrics=plan.scored)
            history.append({"step": taken, "train_loss": value, **said})
            bar.set_postfix({"train": f"{value:.3f}"} | {k: f"{said[k]:.3f}" for k in ("loss", "score") if k in said})
            rank = plan.rank(said)
            if taken > since and (best is None or rank > best):
                best, best_step, best_validation = rank, taken, said
                best_weights = [p.detach().clone() for p in weights]
            if plan.see(taken, said["loss"]) and best_step < taken:
                _restore(weights, best_weights)

    with bar:
        fit(
            backbone,
            splits.train,
            groups,
            config,
            device,
            label=label or "tuning",
            after=after,
            rate=plan.rate,
            stepped=stepped,
        )
    for p in weights:
        p.requires_grad_(False)
    _restore(weights, best_weights)
    if not plan.scored:
        best_validation = score(splits.validation)
    tested, seconds = score(splits.test) if test else {}, time.perf_counter() - started
    learned = is_learned(best_validation["loss"], one_answer)
    return TrainResult(best_validation, tested, best_step, seconds, taken, plan.cap_reached, learned, history)


def fit(
    backbone: Backbone,
    features: Features | OwnBatches,
    groups: list[tuple[list[nn.Parameter], float]],
    config: TuneConfig,
    device: Device,
    *,
    label: str,
    after: Callable[[int, float], None],
    rate: Callable[[int], float | None] | None = None,
    stepped: Callable[[int], None] | None = None,
) -> None:
    """The training loop: AdamW on groups (parameters, learning rate).

    The backbone's mode, the parameters' ``requires_grad`` and torch's random state are left as they were found.

    Args:
        after: called after each step with its number and its training loss.
        rate: what is left of the learning rates at a step; None: the end. Default: `FixedSteps` of the config.
        stepped: called with a step's number once the weights have moved and the gradients are still there.

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
    rates = [lr for group, lr in groups if group]
    rate = rate or stopping(config).rate
    batches = features.drawn(config.batch_size, [config.seed, 11], device.torch)
    numbers = RandomStream(config.seed)
    with quick_dropout(model):
        set_training(model)
        try:
            for p in weights:
                p.requires_grad_(True)
            for step in count():
                if (left := rate(step)) is None:
                    break
                for group, lr in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = lr * left
                batch = batches(step)
                with numbers.part():
                    with device.autocast():
                        loss = backbone.loss(batch)
                    value = float(loss.detach())
                    if not math.isfinite(value):
                        raise NonFiniteLossError(f"{label}: step {step}: train loss is {value}")
                    loss.backward()
                if config.clip:
                    torch.nn.utils.clip_grad_norm_(weights, config.clip)
                optimizer.step()
                if stepped is not None:
                    stepped(step)
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
