"""Everything that decides a search."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, fields
from typing import Any

from s3pet_viz.config import checks
from s3pet_viz.config.names import DTYPES, HEADS, MODES, PRECISIONS, SCHEDULES, SPLITS
from s3pet_viz.config.tuning import default_lr
from s3pet_viz.errors import ConfigError
from s3pet_viz.files import json_ready
from s3pet_viz.structure.budget import Budget


@dataclass(frozen=True)
class SearchConfig:
    """Options of a search; written to run.json whole.

    Attributes:
        task, backbone, budget: as the user gave them (a label where objects in memory were given).
        space: a preset's name or a space as a mapping.
        mode: ``fast``, ``paper``, ``first-order``, ``single-level``, ``exact`` or ``prune``.
        steps: search steps; both rates decay linearly to 0 over them (`schedule` ``constant``: they do not).
        lr: of the PET weights; None means 3e-4 as published, more for small backbones (`tuning.train.default_lr`).
        head_lr: of an encoder's head; None means as lr. alpha_lr: of alpha.
        clip: joint L2 norm of the alpha gradient, and apart of the weights' gradient.
        tau: temperature of the gates' sigmoid.
        warmup: steps at the start that move only the weights.
        open_steps: steps at the start with every gate open, in which only the weights move; a lower `lr` than for few
            gates is needed. shrink_steps: steps after them in which the budget falls geometrically from the whole
            space's size to `budget`, see `structure.budget.budget_at`. Mode ``prune`` ends its open phase by what was
            learned, after `open_steps` at the latest (0: half of the steps), takes at least `shrink_steps` to shrink
            (0: half of the rest), and suits `lr` to the open gates itself.
        competition: gates compete in the gradient (section 3 of the method); False is an ablation.
        sampling: ``soft`` gates, or hard ones with a ``straight-through`` gradient.
        antithetic: every second step mirrors the uniforms of the one before.
        weight_optimizer: ``adamw`` or ``sgd`` (for checks).
        difference_eps: c in eps = c / ||v|| of the difference; None means each mode's own.
        second_order_from: weight steps before fast mode adds H.
        second_order_cap: fast mode's xi H is scaled down to at most this many times the norm of dL_val/dalpha
            (None: never).
        second_order_every: fast mode adds H in every k-th step, k times as large; the steps between are first-order.
        dropout: keep the backbone's dropout on.
        split, max_rows: see `tasks.load_task`; the training split is halved with `seed`.
        revision, task_revision: of hub names.
        head: ``auto``, ``lm`` or ``classification``; dtype: of the frozen weights, ``float32``, ``bfloat16`` or
            ``auto`` (the files' own); see `backbones.load_backbone`.
        checkpoint_every, eval_every: in steps; 0 turns evaluations off.
        batch_size: rows of a batch; in each process, where a launcher started several.
        accumulation: parts that each batch is cut into, for memory; the gradients are those of the whole batch (dropout
            masks differ).
        gradient_checkpointing: compute each layer's activations again in the backward pass, for memory. Needs dropout.
        compile: take passes through torch.compile: minutes at the start, and a gain only on a GPU if at all
            (docs/performance.md). Not with mode ``exact``, `skip_below` or `gradient_checkpointing`.
        skip_below: gates with p below this are left out of a pass. They move no more, but for the competition.
        stop_when_stable: end the search once so many evaluations in a row have selected the same structure as the
            evaluation before them; 0 (the default): never. Needs `eval_every`. Only evaluations at `budget`, after the
            warm-up, and after alpha has first moved, count: the earliest end is after (stop_when_stable + 1) of them.
        start_from: a run (a folder, or a recorded run's name) whose last alpha this search starts from; None: alpha
            starts at 0. Gates are matched by position and PET type, see `search.start.start_alpha`; w and the
            moments of both optimisers start as ever.
    """

    task: str
    backbone: str
    budget: str | int | float
    space: str | dict[str, Any] = "S3PET-M"
    mode: str = "fast"
    steps: int = 400
    batch_size: int = 32
    lr: float | None = None
    head_lr: float | None = None
    alpha_lr: float = 0.1
    clip: float = 2.0
    tau: float = 1.0
    schedule: str = "linear"
    warmup: int = 0
    open_steps: int = 0
    shrink_steps: int = 0
    seed: int = 0
    competition: bool = True
    sampling: str = "soft"
    antithetic: bool = False
    weight_optimizer: str = "adamw"
    difference_eps: float | None = None
    second_order_from: int = 20
    second_order_cap: float | None = 1.0
    second_order_every: int = 1
    dropout: bool = True
    split: str = "paper"
    max_rows: int | None = None
    max_source_length: int | None = None
    revision: str | None = None
    task_revision: str | None = None
    head: str = "auto"
    dtype: str = "float32"
    device: str = "auto"
    precision: str = "fp32"
    checkpoint_every: int = 100
    eval_every: int = 0
    accumulation: int = 1
    gradient_checkpointing: bool = False
    compile: bool = False
    skip_below: float = 0.0
    stop_when_stable: int = 0
    start_from: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in (
            ("mode", MODES),
            ("schedule", SCHEDULES),
            ("sampling", ("soft", "straight-through")),
            ("weight_optimizer", ("adamw", "sgd")),
            ("head", HEADS),
            ("dtype", DTYPES),
            ("precision", PRECISIONS),
            ("split", SPLITS),
        ):
            checks.among(name, getattr(self, name), allowed)
        for name in ("task", "backbone", "device", "revision", "task_revision"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name.endswith("revision")):
                raise ConfigError(f"{name}: expected text, found {type(value).__name__}")
        if not isinstance(self.space, (str, dict)):
            raise ConfigError(f"space: expected a name or a mapping, found {type(self.space).__name__}")
        Budget.parse(self.budget)  # the backbone's size is not known yet
        made: dict[str, Any] = {"budget": json_ready(self.budget)}
        for name, least in (
            ("steps", 1),
            ("batch_size", 1),
            ("accumulation", 1),
            ("warmup", 0),
            ("open_steps", 0),
            ("shrink_steps", 0),
            ("seed", 0),
            ("second_order_from", 0),
            ("second_order_every", 1),
            ("checkpoint_every", 1),
            ("eval_every", 0),
            ("stop_when_stable", 0),
            ("max_rows", 1),
            ("max_source_length", 1),
        ):
            value = getattr(self, name)
            if value is not None or not name.startswith("max_"):
                made[name] = checks.whole(name, value, least)
        for name in ("lr", "head_lr", "alpha_lr", "tau", "difference_eps", "second_order_cap"):
            value = getattr(self, name)
            if value is not None or name in ("alpha_lr", "tau"):
                made[name] = checks.number(name, value, "a positive number", open_end=True)
        made["clip"] = checks.number("clip", self.clip, "0 (off) or more")
        skip = "0 (off) or more and below 1"
        made["skip_below"] = checks.number("skip_below", self.skip_below, skip)
        if made["skip_below"] >= 1:
            raise ConfigError(f"skip_below: expected {skip}, found {self.skip_below!r}")
        for name in ("competition", "antithetic", "dropout", "gradient_checkpointing", "compile"):
            made[name] = checks.flag(name, getattr(self, name))
        for name, value in made.items():
            object.__setattr__(self, name, value)
        if self.gradient_checkpointing and not self.dropout:
            raise ConfigError(
                "gradient_checkpointing: expected dropout on, found it off (layers checkpoint in training mode only)"
            )
        for name, stands in (
            ("mode", self.mode == "exact"),
            ("skip_below", self.skip_below > 0),
            ("gradient_checkpointing", self.gradient_checkpointing),
        ):
            if self.compile and stands:
                raise ConfigError(f"compile: cannot be used with {name} {getattr(self, name)!r}")
        for name, off in (("warmup", 0), ("skip_below", 0), ("start_from", None)):
            if self.mode == "prune" and getattr(self, name) != off:
                raise ConfigError(f"{name}: cannot be used with mode 'prune', found {getattr(self, name)!r}")
        if self.warmup >= self.steps:
            raise ConfigError(f"warmup: expected fewer than the {self.steps} steps, found {self.warmup}")
        if self.open_steps + self.shrink_steps >= self.steps:
            raise ConfigError(
                f"open_steps and shrink_steps: expected together fewer than the {self.steps} steps, found "
                f"{self.open_steps} and {self.shrink_steps}"
            )
        if self.stop_when_stable and not self.eval_every:
            raise ConfigError(
                "eval_every: expected 1 or more where stop_when_stable is given (it looks at evaluations), found "
                f"stop_when_stable {self.stop_when_stable} and eval_every 0; try eval_every {max(1, self.steps // 20)}"
            )
        first = max(self.warmup, self.open_steps + self.shrink_steps) + (self.stop_when_stable + 1) * self.eval_every
        if self.stop_when_stable and first > self.steps:
            warnings.warn(
                f"stop_when_stable {self.stop_when_stable} with eval_every {self.eval_every} can end a search after "
                f"step {first} at the earliest: this one has {self.steps} steps",
                stacklevel=3,
            )
        if self.start_from is not None and not (isinstance(self.start_from, str) and self.start_from):
            raise ConfigError(f"start_from: expected a run folder or a recorded run's name, found {self.start_from!r}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SearchConfig:
        """From `to_dict`'s form.

        Raises:
            ConfigError: an unknown or missing field, or a value that cannot be used.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ConfigError(f"search config: unknown field {unknown[0]!r} (expected {', '.join(sorted(known))})")
        missing = sorted({"task", "backbone", "budget"} - set(data))
        if missing:
            raise ConfigError(f"search config: field {missing[0]!r} is missing")
        return cls(**data)

    def rate(self, backbone_params: int) -> float:
        """`lr`, or the default for a backbone of this size."""
        return default_lr(backbone_params) if self.lr is None else self.lr

    @property
    def weight_steps(self) -> int:
        """Steps at the start that move only the weights."""
        return max(self.warmup, self.open_steps)

    def schedule_at(self, step: int) -> float:
        """Factor of both learning rates at a step."""
        return 1.0 if self.schedule == "constant" else max(0.0, 1 - step / self.steps)

