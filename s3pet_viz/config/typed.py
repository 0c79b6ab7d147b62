"""Written by tools/write_options.py from the fields of `SearchConfig` and `TuneConfig`, for editors."""

from __future__ import annotations

from typing import Any, TypedDict


class SearchOptions(TypedDict, total=False):
    mode: str
    steps: int
    batch_size: int
    lr: float | None
    head_lr: float | None
    alpha_lr: float
    clip: float
    tau: float
    schedule: str
    warmup: int
    open_steps: int
    shrink_steps: int
    seed: int
    pin: dict[str, Any] | None
    competition: bool
    difference_eps: float | None
    second_order_from: int
    second_order_cap: float | None
    second_order_every: int
    dropout: bool
    split: str
    max_rows: int | None
    columns: dict[str, str] | None
    max_source_length: int | None
    revision: str | None
    task_revision: str | None
    head: str | list[str]
    dtype: str
    device_map: str | dict[str, Any] | None
    family: Any
    device: str
    precision: str
    checkpoint_every: int
    eval_every: int
    accumulation: int
    gradient_checkpointing: bool
    skip_below: float
    stop_when_stable: int
    start_from: Any
    save: str | None


class TuneOptions(TypedDict, total=False):
    steps: int | str
    max_steps: int
    patience: int
    batch_size: int
    lr: float | None
    head_lr: float | None
    full_lr: float | None
    clip: float
    evaluations: int | None
    eval_batch_size: int
    seed: int
    max_source_length: int | None
    train_pooler: bool
