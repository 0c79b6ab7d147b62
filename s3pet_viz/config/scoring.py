"""Everything that decides one pass of scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from s3pet_viz.config.names import LAYER_SCORES, ONE_PASS_METHODS
from s3pet_viz.config.options import check_options, described, like, option
from s3pet_viz.config.search import SearchConfig
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import ConfigError

#: Training rows that the scores read, unless said otherwise. A mean over n rows leaves 1/n of the rows' variance in a
#: squared gradient, and on MiniLM and sst2 that variance is 60 times the squared gradient, summed over all gates.
ROWS = {"gradient": 2048, "fisher": 512, "sensitivity": 2048, "gora": 2048, "plop": 256, "domlora": 2048, "eva": 256}

#: Steps of PET training before the scores are taken, unless said otherwise.
WARM_STEPS = {"gradient": 0, "fisher": 0, "sensitivity": 50, "gora": 0, "plop": 0, "domlora": 0, "eva": 0}

#: Rows to a pass, unless said otherwise. Fisher information needs the gradient of each row apart.
BATCH_SIZE = {"gradient": 32, "fisher": 1, "sensitivity": 32, "gora": 32, "plop": 32, "domlora": 32, "eva": 32}


def warm_steps_of(kind: str, given: int | None) -> int:
    """Steps of training before the scores of `kind` are taken.

    Raises:
        ConfigError: a number that this method cannot have.
    """
    steps = WARM_STEPS[kind] if given is None else given
    if kind == "sensitivity" and steps == 0:
        raise ConfigError(
            "warm_steps: expected at least 1 for 'sensitivity', found 0; "
            "the deltas of LoRA, BitFit and LNFit are zero at the start, and so is dL/dz"
        )
    if kind in LAYER_SCORES and steps:
        raise ConfigError(f"warm_steps: expected 0 for {kind!r}, which is of untrained modules, found {steps}")
    return steps


def _said(numbers: dict[str, int]) -> str:
    """``2048; fisher 512``: the first one's number, and whose differ."""
    first, *others = numbers.items()
    return "; ".join([str(first[1]), *(f"{name} {n}" for name, n in others if n != first[1])])


@described
@dataclass(frozen=True)
class ScoreConfig:
    """How every gate of a search space is scored."""

    method: str = option("gradient", help="Whose scores, see docs/method.md.", choices=ONE_PASS_METHODS)
    seed: int = like(TuneConfig, "seed")
    rows: int | None = option(None, help="At most so many training rows, drawn.", unset=_said(ROWS), least=1)
    batch_size: int | None = option(None, help="Rows to a pass.", unset=_said(BATCH_SIZE), least=1)
    warm_steps: int | None = option(
        None, help="Steps of training all gates before the scores are taken.", unset=_said(WARM_STEPS), least=0
    )
    max_source_length: int | None = like(TuneConfig, "max_source_length")
    pin: dict[str, Any] | None = like(SearchConfig, "pin")  # noqa: RUF009

    def __post_init__(self) -> None:
        check_options(self)
        warm_steps_of(self.method.removesuffix("/param"), self.warm_steps)
