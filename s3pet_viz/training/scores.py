"""What a trained structure scored."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from s3pet_viz.structure import Structure


@dataclass(frozen=True)
class Scores:
    """What a tuned structure scores on the held-out split.

    Attributes:
        method: ``structure`` or a baseline's name.
        metrics: on the held-out split; ``score`` is the task's main one, ``loss`` the mean loss.
        validation: the same on the split that chose the best weights.
        steps: as asked for, a number or ``auto`` (0: nothing was trained). steps_taken: those that were.
        cap_reached: whether ``max_steps`` ended a training of ``auto`` steps: the held-out loss still fell, or the task
            was not learned yet.
        learned: whether the loss on the split that chose the weights is below 95 % of what one answer to every row
            costs; None where nobody can tell that (free texts, an own loss), or nothing was trained.
        decided_on: the rows that chose the best weights, and ended a training of ``auto`` steps.
        pet_params: trained PET parameters (all weights for ``full``). head_params: trained parameters of an
            encoder's head (and pooler, if asked for): they are needed by every method and counted apart.
        backbone_params: of the backbone without head.
        structure: what was trained; None of a method without one. It is not written to files.
    """

    method: str
    task: str
    backbone: str
    metrics: dict[str, float]
    validation: dict[str, float]
    pet_params: int
    head_params: int
    backbone_params: int
    seed: int
    steps: int | str
    best_step: int
    seconds: float
    steps_taken: int = 0
    cap_reached: bool = False
    learned: bool | None = None
    decided_on: str = ""
    n_gates: int = 0
    pooler: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    structure: Structure | None = field(default=None, compare=False)

    @property
    def score(self) -> float:
        return self.metrics["score"]

    @property
    def fraction(self) -> float:
        return self.pet_params / self.backbone_params

    def to_dict(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(replace(self, structure=None)).items() if k != "structure"}

    def row(self) -> dict[str, Any]:
        """One tidy row of a table."""
        return {
            "method": self.method,
            "task": self.task,
            "seed": self.seed,
            "score": self.score,
            "loss": self.metrics["loss"],
            "validation": self.validation["score"],
            "pet_params": self.pet_params,
            "percent": 100 * self.fraction,
            "head_params": self.head_params,
            "n_gates": self.n_gates,
            "best_step": self.best_step,
            "steps_taken": self.steps_taken,
            "cap_reached": self.cap_reached,
            "learned": self.learned,
            "seconds": self.seconds,
            **{k: v for k, v in self.metrics.items() if k not in ("score", "loss")},
        }

    def __repr__(self) -> str:
        head = f" + {self.head_params:,} of the head" if self.head_params else ""
        said = ", NOT LEARNED" if self.learned is False else ""
        return (
            f"Scores({self.method} on {self.task}: {self.score:.4f}, loss {self.metrics['loss']:.4f}{said}, "
            f"{self.pet_params:,} PET parameters{head})"
        )
