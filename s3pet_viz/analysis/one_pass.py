"""One-pass scores: what each gate of a search space scores, and the structure that the scores select."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from s3pet_viz.errors import ConfigError
from s3pet_viz.structure import Gate, Structure, parse_budget, ranks, select
from s3pet_viz.structure.budget import check_budget
from s3pet_viz.structure.structure import gates_by_index

#: The scores. `one_pass_scores` says what each is.
ONE_PASS = ("gradient", "fisher", "sensitivity")

#: Names of baselines: gates in the order of their score, or (``/param``) of their score per parameter.
ONE_PASS_METHODS = tuple(f"{kind}{per}" for kind in ONE_PASS for per in ("", "/param"))

Per: TypeAlias = Literal["gate", "param"]


@dataclass(frozen=True, eq=False)
class OnePassScores:
    """What one pass of scores says of every gate of a search space.

    Attributes:
        kind: one of `ONE_PASS`.
        gates: of the space, in index order.
        score: shape (n_gates,), float64, at least 0; higher is taken first.
        rows: training rows that the score is a mean over. warm_steps: training steps before it.
        steps: forward-backward passes in all: the warm steps and one for each batch of scored rows.
        seconds: wall time of all of it.
        seed, task, backbone, backbone_params: what it was measured with and on.
    """

    kind: str
    gates: tuple[Gate, ...]
    score: NDArray[np.float64]
    rows: int
    warm_steps: int
    steps: int
    seconds: float
    seed: int
    task: str
    backbone: str
    backbone_params: int

    @property
    def per_param(self) -> NDArray[np.float64]:
        """`score` over the parameters of the gate, shape (n_gates,)."""
        return self.score / np.array([g.n_params for g in self.gates])

    def table(self) -> pd.DataFrame:
        """One row per gate: position, stack, layer, module, pet_type, n_params, score, per_param, rank,
        rank_per_param (1 = highest; ties: lower index first).
        """
        columns = ("position", "stack", "layer", "module", "pet_type", "n_params")
        made = pd.DataFrame({c: [getattr(g, c) for g in self.gates] for c in columns})
        return made.assign(
            score=self.score, per_param=self.per_param, rank=ranks(self.score), rank_per_param=ranks(self.per_param)
        )

    def structure(self, budget: str | int | float, per: Per = "gate") -> Structure:
        """The gates of the highest scores that fit a budget, by the rule that makes a structure of a search's alpha.

        Args:
            budget: a fraction of the backbone or a number of parameters, see `structure.parse_budget`.
            per: ``gate`` takes gates in the order of their score, as a search does in the order of p, which favours
                large modules; ``param`` in the order of score per parameter, the greedy rule for the largest sum of
                scores under a budget.

        Raises:
            BudgetError: not a budget, or below the smallest module. ConfigError: `per` is neither.
        """
        if per not in ("gate", "param"):
            raise ConfigError(f"per: expected 'gate' or 'param', found {per!r}")
        counts = [g.n_params for g in self.gates]
        parameters = parse_budget(budget, self.backbone_params)
        check_budget(counts, parameters)
        chosen = select(self.score if per == "gate" else self.per_param, counts, parameters)
        source = {
            "baseline": self.kind if per == "gate" else f"{self.kind}/param",
            "seed": self.seed,
            "task": self.task,
            "rows": self.rows,
            "warm_steps": self.warm_steps,
            "steps": self.steps,
            "seconds": round(self.seconds, 3),
        }
        return Structure(gates_by_index(self.gates, chosen), self.backbone, self.backbone_params, parameters, source)
