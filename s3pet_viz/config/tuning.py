"""Everything that decides how a fixed structure is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from s3pet_viz.config.checks import whole
from s3pet_viz.config.options import check_options, described, option
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


def _steps(name: str, value: Any) -> int | str:
    if isinstance(value, str) and value == "auto":
        return value
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:  # of the command line
        value = int(value)
    try:
        return whole(name, value, 1)
    except ConfigError as error:
        raise ConfigError(str(error).replace("expected a whole", "expected auto or a whole")) from None


@described
@dataclass(frozen=True)
class TuneConfig:
    """How a fixed structure is trained."""

    steps: int | str = option(
        500,
        help="Training steps; the learning rates decay to 0 over them. auto: until the held-out loss of the validation "
        "rows falls no further, see max_steps and patience.",
        check=_steps,
    )
    max_steps: int = option(1200, help="Steps of steps=auto at most.", least=1)
    patience: int = option(
        6,
        help="steps=auto: so many evaluations in a row without a lower held-out loss, once the task is learned, then "
        "the rates decay to 0 and training ends.",
        least=1,
    )
    batch_size: int = option(32, help="Rows of a batch, in each process.", least=1)
    lr: float | None = option(
        None, help="Learning rate of the PET weights.", unset="3e-4 as published, more for small backbones"
    )
    head_lr: float | None = option(None, help="Learning rate of an encoder's head.", unset="as lr")
    full_lr: float | None = option(
        None, help="Learning rate of full fine-tuning.", unset="1e-4, more for small backbones"
    )
    clip: float = option(2.0, help="Largest joint L2 norm of a gradient; 0: no limit.", zero="off")
    evaluations: int | None = option(
        None,
        help="How often the validation split is scored, at equal distances; the best weights seen are kept.",
        unset="5; 24 over max_steps with steps=auto",
        least=1,
    )
    eval_batch_size: int = option(100, help="Rows of a batch where nothing is trained.", least=1)
    seed: int = option(0, help="Of every random draw.")
    max_source_length: int | None = option(
        None, help="Longer inputs are cut to so many tokens.", unset="the task's", least=1
    )
    train_pooler: bool = option(False, help="Train an encoder's pooler too; frozen otherwise, counted with the head.")

    def __post_init__(self) -> None:
        check_options(self)
        if self.steps == "auto" and self.patience >= self.looks:
            raise ConfigError(f"patience: expected fewer than the {self.looks} evaluations, found {self.patience}")

    @property
    def looks(self) -> int:
        """`evaluations`, or what it is where none was given."""
        return self.evaluations or (24 if self.steps == "auto" else 5)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
