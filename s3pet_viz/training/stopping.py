"""When a training ends, what is left of its learning rate at each step, and which weights are its best."""

from __future__ import annotations

import math

from s3pet_viz.analysis.learned import is_learned
from s3pet_viz.config.tuning import TuneConfig

#: Steps of the decay that ends a training without a planned end, as a share of the steps before it (a fifth of all).
DECAY = 0.25
#: A held-out loss counts as lower from this share of what one answer to every row costs on.
GAIN = 5e-3


class FixedSteps:
    """So many steps; the rate falls linearly to 0 over them, and the highest score is best, then the lowest loss.

    Attributes:
        most: steps at most. cap_reached: whether they ended what would have gone on.
        scored: whether a look needs the task's metrics, or the loss alone.
    """

    scored = True
    cap_reached = False

    def __init__(self, steps: int, looks: int = 1) -> None:
        self.most = steps
        self._looks = {round((k + 1) * steps / looks) for k in range(looks)}

    def rate(self, step: int) -> float | None:
        """What is left of the rate at a step, from 1 to 0; None where there is no such step."""
        return max(0.0, 1 - step / self.most) if step < self.most else None

    def looks(self, taken: int) -> bool:
        """Whether validation is asked after so many steps."""
        return taken in self._looks

    def see(self, taken: int, loss: float) -> bool:
        """Take in the held-out loss after so many steps; whether training goes on from the best weights."""
        return False

    @staticmethod
    def rank(said: dict[str, float]) -> tuple[float, ...]:
        """The higher, the better."""
        return said["score"], -said["loss"]


class AutoSteps(FixedSteps):
    """Validation decides: the full rate until `patience` looks in a row saw no lower loss, then linearly down to 0.

    A task that is not learned yet (`is_learned`) is not given up: small tasks stay for hundreds of steps where one
    answer to every row would be.

    A schedule for an unknown end: constant, then a decay of a fifth of all steps, from the best weights so far (Hägele
    et al. 2024, arXiv 2405.18392: as good as a schedule that knew the end). The lowest held-out loss is best.

    Args:
        most: steps at most, decay included; where they begin the decay, the cap is reached.
        looks: at equal distances over `most`.
        constant_loss: of one answer to every held-out row, the scale of what counts as lower (`GAIN`); None: not
            known, then the lowest loss so far is the scale, and every look counts.
    """

    scored = False

    def __init__(self, most: int, looks: int, patience: int, constant_loss: float | None = None) -> None:
        super().__init__(most)
        self.patience, self.waited, self.lowest = patience, 0, float("inf")
        self._scale = constant_loss
        self.every = max(1, round(most / looks))
        self.begun: int | None = None  # where the decay begins
        self._hold = int(most / (1 + DECAY))
        if not self._hold:
            self._decay(0)

    def _decay(self, taken: int) -> None:
        self.begun, self.cap_reached = taken, taken >= self._hold and not self._ended
        self._end = self.most if taken >= self._hold else taken + max(1, round(DECAY * taken))

    def rate(self, step: int) -> float | None:
        if self.begun is None:
            return 1.0
        return (self._end - step) / (self._end - self.begun) if step < self._end else None

    def looks(self, taken: int) -> bool:
        return taken % self.every == 0 or taken == (self._hold if self.begun is None else self._end)

    def see(self, taken: int, loss: float) -> bool:
        self.waited += 1
        scale = abs(self.lowest) if self._scale is None else self._scale
        if math.isinf(self.lowest) or loss < self.lowest - GAIN * scale:
            self.waited, self.lowest = 0, loss
        if self.begun is not None or (not self._ended and taken < self._hold):
            return False
        self._decay(taken)
        return True

    @property
    def _ended(self) -> bool:
        return self.waited >= self.patience and is_learned(self.lowest, self._scale) is not False

    @staticmethod
    def rank(said: dict[str, float]) -> tuple[float, ...]:
        return (-said["loss"],)


def stopping(config: TuneConfig, constant_loss: float | None = None) -> FixedSteps:
    """What the options ask for."""
    if config.steps == "auto":
        return AutoSteps(config.max_steps, config.looks, config.patience, constant_loss)
    return FixedSteps(int(config.steps), config.looks)
