"""Everything that decides a search."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s3pet_viz.config import checks
from s3pet_viz.config.checks import among, short
from s3pet_viz.config.names import A_RUN, DEFAULT_BACKBONE, DTYPES, HEADS, MODES, PRECISIONS, SCHEDULES, SPACES, SPLITS
from s3pet_viz.config.options import REQUIRED, check_options, described, like, option, options_of
from s3pet_viz.config.tuning import TuneConfig, default_lr
from s3pet_viz.errors import ConfigError
from s3pet_viz.files import json_ready, located, parse_json
from s3pet_viz.resources import list_resources

#: Options of before, with the default that recorded runs hold.
REMOVED = {"sampling": "soft", "antithetic": False, "weight_optimizer": "adamw", "compile": False}


def _budget(name: str, value: Any) -> Any:
    from s3pet_viz.structure.budget import Budget  # SciPy, which the command line's help does without

    Budget.parse(value)
    return json_ready(value)


def _space(name: str, value: Any) -> str | dict[str, Any]:
    if not isinstance(value, (str, dict)):
        raise ConfigError(f"{name}: expected a name or a mapping, found {type(value).__name__}")
    return value


def _places(name: str, value: Any) -> str | dict[str, Any]:
    """accelerate's ``auto``, or module names with places; all of them compute on one device."""
    if isinstance(value, str) and value.lstrip()[:1] == "{":  # of the command line
        value = parse_json(value)
    words = "auto, or a mapping of module names to cpu, disk and one device"
    if isinstance(value, str) and value == "auto":
        return "auto"
    if not (isinstance(value, dict) and value and all(isinstance(key, str) for key in value)):
        raise ConfigError(f"{name}: expected {words}, found {short(value)}")
    for place in value.values():
        if isinstance(place, bool) or not isinstance(place, (str, int)):
            raise ConfigError(f"{name}: expected {words}, found {short(place)}")
    several = sorted({str(place) for place in value.values()} - {"cpu", "disk"})
    if len(several) > 1:
        raise ConfigError(f"{name}: expected one device to compute on, found {' and '.join(several)}")
    return value


def _run(name: str, value: Any) -> str:
    if not (isinstance(value, str) and value):
        raise ConfigError(f"{name}: expected {A_RUN}, found {short(value)}")
    return value


def _family(name: str, value: Any) -> dict[str, Any]:
    from s3pet_viz.structure.tables import read_family  # PyYAML, which the command line's help does without

    return read_family(value)


def _columns(name: str, value: Any) -> dict[str, str]:
    return checks.pairs(name, value, "the task's fields with the columns that hold them: text=review,label=stars")


def _head(name: str, value: Any) -> str | list[str]:
    several = isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(v, str) and v for v in value)
    return list(value) if several else among(name, value, HEADS)


def _pin(name: str, value: Any) -> dict[str, list[str]] | None:
    from s3pet_viz.structure.pins import read_pin  # as _budget

    if isinstance(value, str) and value.lstrip()[:1] == "{":  # of the command line
        value = parse_json(value)
    return read_pin(name, value)


def _folder(name: str, value: Any) -> str:
    if not (isinstance(value, (str, Path)) and str(value)):
        raise ConfigError(f"{name}: expected a folder, found {short(value)}")
    return str(located(value))


def named_mode(mode: Any, save: Any = None) -> Any:
    """The mode; for ``auto`` what the study that decides found best, for a trained adapter (`save`) or a structure."""
    return mode if mode != "auto" else "fast" if save is None else "prune"


@described
@dataclass(frozen=True)
class SearchConfig:
    """Options of a search; written to run.json whole. `mode` is never ``auto`` in one that was made."""

    task: str = option(
        help=f"A task: {', '.join(list_resources('tasks')) or 'none'} (embedded), glue/rte, super_glue/cb, ..., or a "
        "file or a folder of rows (csv, tsv, json, jsonl, parquet, arrow).",
        form="sentiment",
    )
    backbone: str = option(
        help=f"{', '.join(list_resources('backbones')) or 'none'} (embedded), minilm (extra), a folder, "
        "or a Hugging Face name.",
        form=DEFAULT_BACKBONE,
    )
    budget: str | int | float = option(
        help="0.1% or 1e-3 (share of the backbone), or 8404 (parameters).", check=_budget, form="0.2%"
    )
    space: str | dict[str, Any] = option(  # noqa: RUF009
        SPACES[0], help=f"{', '.join(SPACES)}, or a YAML / JSON file.", check=_space, form=True
    )
    mode: str = option(
        "auto",
        help="How alpha is moved. auto: prune where save= is given, else fast (docs/results.md says why).",
        choices=("auto", *MODES),
        form="fast",
    )
    steps: int = option(400, help="Training steps; the learning rates decay to 0 over them.", least=1, form=200)
    batch_size: int = like(TuneConfig, "batch_size")
    lr: float | None = like(TuneConfig, "lr")
    head_lr: float | None = like(TuneConfig, "head_lr")
    alpha_lr: float = option(0.1, help="Learning rate of alpha, the structure parameters.")
    clip: float = like(TuneConfig, "clip")
    tau: float = option(1.0, help="Temperature of the gates' sigmoid.")
    schedule: str = option("linear", help="How both learning rates move over the steps.", choices=SCHEDULES)
    warmup: int = option(0, help="Steps at the start that move only the weights.")
    open_steps: int = option(
        0,
        help="Steps at the start with every gate open, in which only the weights move; they need a lower lr than few "
        "gates do. Mode prune: at most so many (0: 60 % of the steps); it ends them by what was learned, and suits lr.",
    )
    shrink_steps: int = option(
        0,
        help="Steps after these in which the budget falls geometrically from the whole space's size to its own. Mode "
        "prune: at least so many (0: half of the rest).",
    )
    seed: int = like(TuneConfig, "seed", form=True)
    pin: dict[str, Any] | None = option(  # noqa: RUF009
        None,
        help="Gates that are in or out beforehand; the others are searched under what those in leave of the budget. "
        "Patterns of positions, gates, rows or columns: 'in=E.0; out=D.*, *BitFit'.",
        check=_pin,
        unset="every gate is searched",
        form=True,
    )
    competition: bool = option(True, help="Gates compete in the gradient (docs/method.md); off: an ablation.")
    difference_eps: float | None = option(
        None, help="c in eps = c / ||v|| of the difference of gradients.", unset="the mode's own"
    )
    second_order_from: int = option(20, help="Weight steps before fast mode adds H.")
    second_order_cap: float | None = option(
        1.0, help="fast mode's xi H is scaled down to at most this many times the norm of dL_val/dalpha; null: never."
    )
    second_order_every: int = option(
        1, help="fast mode adds H in every k-th step, k times as large; the steps between are first-order.", least=1
    )
    dropout: bool = option(True, help="Keep the backbone's dropout on.")
    split: str = option("paper", help="How train, validation and test are made.", choices=SPLITS, loads=True)
    max_rows: int | None = option(
        None, help="Use at most so many rows of each split, each class by its share.", unset="all", least=1, loads=True
    )
    columns: dict[str, str] | None = option(  # noqa: RUF009
        None,
        help="Which column of a task's rows holds which of its fields: text=review,label=stars.",
        check=_columns,
        unset="they have the fields' names",
        loads=True,
    )
    max_source_length: int | None = like(TuneConfig, "max_source_length")
    revision: str | None = option(None, help="Branch, tag or commit of a Hugging Face backbone.", loads=True)
    task_revision: str | None = option(None, help="Branch, tag or commit of a Hugging Face task.", loads=True)
    head: str | list[str] = option(  # noqa: RUF009
        "auto",
        help="The head that the backbone is loaded with; with a loss of your own, names of modules of the model that "
        "are trained beside the gates.",
        check=_head,
        choices=HEADS,
        loads=True,
    )
    dtype: str = option("float32", help="Of the frozen weights; auto is the files' own.", choices=DTYPES, loads=True)
    device_map: str | dict[str, Any] | None = option(  # noqa: RUF009
        None,
        help="Where frozen weights wait that do not fit the device: auto, or a mapping (JSON) of module names to cpu, "
        "disk and one device.",
        check=_places,
        unset="all are on the device",
    )
    family: dict[str, Any] | None = option(  # noqa: RUF009
        None,
        help="Which of its modules is what, where that is read off the model wrongly: a YAML / JSON file.",
        check=_family,
        unset="read off the model",
        loads=True,
    )
    device: str = option("auto", help="auto, cpu, cuda, cuda:1, mps.")
    precision: str = option("fp32", help="In what passes compute.", choices=PRECISIONS)
    checkpoint_every: int = option(100, help="Steps between two checkpoints.", least=1)
    eval_every: int = option(0, help="Steps between two evaluations; 0: none.")
    accumulation: int = option(
        1,
        help="Parts that each batch is cut into, for memory; the gradients are those of the whole batch (dropout masks "
        "differ).",
        least=1,
    )
    gradient_checkpointing: bool = option(
        False, help="Compute each layer's activations again in the backward pass, for memory. Needs dropout."
    )
    skip_below: float = option(
        0.0,
        help="Gates with p below this are left out of a pass, and move no more but for the competition.",
        zero="off",
        below=1,
    )
    stop_when_stable: int = option(
        0,
        help="End early once so many evaluations in a row (see eval_every) select the structure of the one before; "
        "0: never. Only evaluations at the budget, after the warm-up, and after alpha has first moved count.",
    )
    start_from: str | None = option(
        None,
        help="Start from the last alpha of this run: a run folder, or a recorded run's name. Gates are matched by "
        "position and PET type; the weights and both optimisers start anew.",
        unset="alpha starts at 0",
        check=_run,
    )

    save: str | None = option(
        None,
        help="Keep the weights that the search has trained at its final structure in this folder, and score them: "
        "search and train in one go. Mode prune.",
        check=_folder,
        unset="not kept",
    )

    def __post_init__(self) -> None:
        check_options(self)
        object.__setattr__(self, "mode", named_mode(self.mode, self.save))
        if self.save is not None and self.mode != "prune":
            raise ConfigError(
                f"save: expected mode 'prune', whose weights are those of its final structure, found {self.mode!r}; "
                "tune trains what other modes find (its save=)"
            )
        if self.mode == "exact" and self.device_map is not None:
            raise ConfigError(
                "mode: expected another than 'exact' with device_map: its graph of gradients would hold all weights"
            )
        if self.gradient_checkpointing and not self.dropout:
            raise ConfigError(
                "gradient_checkpointing: expected dropout on, found it off (layers checkpoint in training mode only)"
            )
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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SearchConfig:
        """From `to_dict`'s form.

        Raises:
            ConfigError: an unknown or missing field, or a value that cannot be used.
        """
        known = options_of(cls)
        for name, default in REMOVED.items():
            if name in data and (type(data[name]), data[name]) != (type(default), default):
                found = short(data[name])
                raise ConfigError(f"{name}: was removed; expected its default {default!r}, or nothing, found {found}")
        data = {name: value for name, value in data.items() if name not in REMOVED}
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ConfigError(f"search config: unknown field {unknown[0]!r} (expected {', '.join(sorted(known))})")
        missing = sorted(name for name in known if known[name].default is REQUIRED and name not in data)
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


#: Options that say how task and backbone are loaded.
LOADING = tuple(name for name, one in options_of(SearchConfig).items() if one.loads)
