"""Everything that decides how a fixed structure is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from s3pet_viz.config import checks
from s3pet_viz.errors import ConfigError


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


def make_config(**options: Any) -> TuneConfig:
    """A `TuneConfig`; a name that it lacks is a ConfigError."""
    unknown = sorted(set(options) - set(TuneConfig.__dataclass_fields__))
    if unknown:
        known = ", ".join(TuneConfig.__dataclass_fields__)
        raise ConfigError(f"unknown option {unknown[0]!r} (expected one of {known})")
    return TuneConfig(**options)
