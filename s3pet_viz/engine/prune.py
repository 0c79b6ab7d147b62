"""Pruning from open gates: which gates are open at a step, and at which rate. Source: docs/method.md, "Pruning".

Scores are an exponential mean of ``|dL/dz|`` of the one train pass a step. Phases: every gate is open until the task is
learned (or a cap); the budget held shrinks while what was learned is kept; the rest is spent at the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from s3pet_viz.analysis.learned import is_learned
from s3pet_viz.engine.optim import AdamW
from s3pet_viz.structure import select
from s3pet_viz.structure.budget import budget_at

#: Of the exponential means of ``|dL/dz|`` and of the training loss.
DECAY = 0.9
#: Scores start at 0, their logarithm does not.
FLOOR = 1e-30
#: Shares: of the steps that the open phase takes at most; of the steps after it that shrinking takes, and that are
#: spent at the budget at least; of all steps between two looks at the held-out loss.
CAP, SHRINK, SETTLE, LOOK = 0.6, 0.5, 0.2, 0.05
#: Share of the steps at the budget, at their end, in which the gates stand still: what is handed out was trained.
FIXED = 0.5
#: Held-out batches of one look, always the same.
BATCHES = 4
#: The open phase ends once a look finds the task learned and lower than the look before by less than this share of
#: what one answer costs.
GAIN = 0.02
#: The budget waits while the training loss has lost this share of what it had gained over one answer at its lowest.
KEPT = 0.5
#: Looks without a gain before the task is learned after which the rate is halved, and how often at most.
_STUCK, _HALVINGS = 3, 3


class Pruning:
    """The scores of the gates and the phase that the search is in; a function of what `see` was told alone.

    Args:
        counts: parameters of each gate.
        budget: in parameters.
        steps: of the search.
        open_steps: the most steps of the open phase; 0: `CAP` of all.
        shrink_steps: steps over which the budget shrinks where it never waits; 0: `SHRINK` of those that are left.
        constant_loss: of one answer to every row that is trained on; None: not known, then the open phase lasts up to
            its cap, the budget does not wait, and nothing is claimed.
        held_out_constant: of one answer to every row that is looked at; None: the same.

    Attributes:
        scores: float64, shape (n_gates,).
        opened: steps of the open phase; None while it lasts.
        learned: whether the task was learned before the budget began to shrink; None: not known (yet).
        at_budget: the first step at the budget; None before.
        held_out: held-out loss of the last look.
    """

    def __init__(
        self,
        counts: Sequence[int],
        budget: float,
        steps: int,
        *,
        open_steps: int = 0,
        shrink_steps: int = 0,
        constant_loss: float | None = None,
        held_out_constant: float | None = None,
    ) -> None:
        self.counts, self.budget, self.steps = list(counts), budget, steps
        self.constant = constant_loss or None
        self.held_out_constant = self.constant and (held_out_constant or self.constant)
        self.cap = min(open_steps or math.ceil(CAP * steps), steps - 1)
        self._shrink = shrink_steps
        self.every = max(1, round(LOOK * steps))
        self.scores = torch.zeros(len(self.counts), dtype=torch.float64)
        self.opened: int | None = None if self.cap else 0
        self.learned: bool | None = None
        self.at_budget: int | None = None if self.cap else 0
        self.shrunk = 0
        self.loss = self.best = self.low = self.held_out = math.inf
        self.stuck = self.halvings = 0

    # -- what holds in the present step ------------------------------------------------------------------

    @property
    def shrink_steps(self) -> int:
        """Steps that the budget shrinks over, those not counted in which it waits."""
        left = self.steps - (self.opened or 0)
        return min(self._shrink or int(SHRINK * left), left - 1)

    @property
    def held(self) -> float:
        """The budget held, in parameters."""
        total = float(sum(self.counts))
        if self.opened is None:
            return max(total, self.budget)
        return budget_at(self.shrunk, self.budget, total, 0, self.shrink_steps)

    @property
    def alpha(self) -> Tensor:
        """Logarithm of the scores, shape (n_gates,)."""
        return self.scores.clamp(min=FLOOR).log()

    def mask(self) -> Tensor:
        """The gates that are open, 0 or 1, shape (n_gates,): what is selected at the budget held."""
        # From alpha as the step log keeps it, as the structure.
        made = torch.zeros_like(self.scores)
        made[select(self.alpha.float().numpy(), self.counts, self.held)] = 1
        return made

    @property
    def factor(self) -> float:
        """Of the rate that suits gates at the budget: AdamW steps add up as the root of the weights taking them."""
        return min(1.0, math.sqrt(self.budget / self.held)) * 0.5**self.halvings

    def decay(self, step: int) -> float:
        """What is left of the rate at a step: all of it while every gate is open, then linearly down to 0."""
        return 1.0 if self.opened is None else (self.steps - step) / (self.steps - self.opened)

    def looks(self, step: int) -> bool:
        """Whether the held-out loss is asked for after this step, its training loss seen."""
        taken = step + 1
        if self.opened is None:
            # What is not learned on the rows that it trains on is not learned on others.
            return taken == self.cap or (taken % self.every == 0 and is_learned(self.loss, self.constant) is not False)
        return taken == self.steps or (self.at_budget is not None and taken % self.every == 0)

    def stands_still(self, step: int) -> bool:
        """Whether the gates do, from this step to the last."""
        return self.at_budget is not None and step >= self.steps - int(FIXED * (self.steps - self.at_budget))

    # -- what a step brings ------------------------------------------------------------------------------

    def see(self, loss: float, dz: Tensor | None) -> None:
        """Take in a train pass; no `dz` where the gates stand still."""
        self.loss = loss if math.isinf(self.loss) else DECAY * self.loss + (1 - DECAY) * loss
        self.low = min(self.low, self.loss)
        if dz is not None:
            self.scores = DECAY * self.scores + (1 - DECAY) * dz.abs()

    def advance(self, step: int, held_out: float | None) -> None:
        """Choose what holds in the next step, from the held-out loss where this step was looked at."""
        taken, before = step + 1, self.held_out
        if held_out is not None:
            self.held_out = held_out
        if self.opened is None:
            self._open(taken, before, held_out)
        elif self.shrunk < self.shrink_steps and not self._waits(taken):
            self.shrunk += 1
        if self.opened is not None and self.at_budget is None and self.shrunk >= self.shrink_steps:
            self.at_budget = taken

    def _open(self, taken: int, before: float, held_out: float | None) -> None:
        learned = held_out is not None and is_learned(held_out, self.held_out_constant) is not False
        if taken >= self.cap or (learned and self.held_out > before - GAIN * (self.held_out_constant or 0)):
            self.learned = learned if self.constant else None
            self.opened, self.shrunk = taken, 1 if self.shrink_steps else 0
        elif taken % self.every == 0 and self.constant and not learned:
            gained = self.loss < self.best - GAIN * self.constant
            self.best, self.stuck = min(self.best, self.loss), 0 if gained else self.stuck + 1
            if self.stuck == _STUCK and self.halvings < _HALVINGS:
                self.halvings, self.stuck = self.halvings + 1, 0

    def _waits(self, taken: int) -> bool:
        left = self.steps - (self.opened or 0)
        latest = self.steps - math.ceil(SETTLE * left) - (self.shrink_steps - self.shrunk)
        return self._lost and taken <= latest

    @property
    def _lost(self) -> bool:
        """Whether what was learned is lost in part: then the budget waits, and gradients say nothing of the task."""
        if self.constant is None or not is_learned(self.low, self.constant):
            return False
        return self.loss > self.constant - KEPT * (self.constant - self.low)

    # -- what others are told ----------------------------------------------------------------------------

    @property
    def phase(self) -> str:
        """For the progress line."""
        if self.opened is None:
            return "every gate open"
        said = "" if self.learned is not False else ", TASK NOT LEARNED"
        return f"budget x {self.held / self.budget:.3g}{said}"

    @property
    def verdict(self) -> str:
        """``learned``, ``not learned`` (before the gates were pruned), ``lost`` since, or ``unknown``."""
        if self.constant is None or self.learned is None:
            return "unknown"
        if not self.learned:
            return "not learned"
        return "learned" if is_learned(self.held_out, self.held_out_constant) else "lost"

    def report(self) -> dict[str, Any]:
        """For run.json; JSON values."""
        return {
            "task": self.verdict,
            "open_steps": self.opened,
            "at_budget": self.at_budget,
            "held_out_constant": self.held_out_constant,
            "held_out_loss": self.held_out if math.isfinite(self.held_out) else None,
            "rate": self.factor,
        }

    _KEPT = ("opened", "learned", "at_budget", "shrunk", "loss", "best", "low", "held_out", "stuck", "halvings")

    def state(self) -> dict[str, Any]:
        """For a checkpoint, beside the scores; JSON values."""
        values = {name: getattr(self, name) for name in self._KEPT}
        return {name: None if value == math.inf else value for name, value in values.items()}  # JSON has no infinity

    def load(self, state: Mapping[str, Any], scores: Tensor) -> None:
        """Take up `state` again.

        Raises:
            KeyError, TypeError, ValueError: it is not of `state`'s form.
        """
        for name in self._KEPT:
            value, like = state[name], getattr(self, name)
            if name == "learned":
                fits = value is None or isinstance(value, bool)
            elif isinstance(like, float):
                value = math.inf if value is None else value
                fits = isinstance(value, float)
            else:
                absent = value is None and name in ("opened", "at_budget")
                fits = absent or (type(value) is int and 0 <= value <= self.steps)
            if not fits:
                raise ValueError(f"{name} {value!r:.20}")
            setattr(self, name, value)
        if scores.shape != self.scores.shape or (scores < 0).any():
            raise ValueError("scores")
        self.scores = scores.to(self.scores)


class PausingAdamW(AdamW):
    """`AdamW` in which the weights of closed gates and their moments stand still; each weight counts its own steps.

    Attributes:
        moving: which weights take the next step, bool, flat.
    """

    def __init__(self, like: Tensor, sizes: Sequence[int] | None = None) -> None:
        super().__init__(like, sizes)
        self.ages = torch.zeros_like(like, dtype=torch.float64)
        self.moving = torch.ones_like(like, dtype=torch.bool)

    def update(self, w: Tensor, g: Tensor, lr: Tensor | float) -> Tensor:
        m, v = self._next(g)
        on = self.moving
        self.ages = self.ages + on
        first, second = (1 - beta**self.ages for beta in (self.beta1, self.beta2))
        stepped = w - lr * (m / first.to(w)) / (v.sqrt() / second.sqrt().to(w) + self.eps)
        self.m, self.v = torch.where(on, m, self.m), torch.where(on, v, self.v)
        self.t += 1
        return torch.where(on, stepped, w)

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "ages.t": self.ages}

    def load(self, state: dict[str, Tensor]) -> None:
        super().load(state)
        self.ages = state["ages.t"].to(self.ages)
