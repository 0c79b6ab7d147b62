"""What the structure explorer shows: a run at one step and one budget, computed apart from any widget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s3pet_viz.errors import RunError
from s3pet_viz.runs import Run
from s3pet_viz.runs.grid import rows_of
from s3pet_viz.runs.reader import ranks
from s3pet_viz.structure import probabilities, select, solve_shift
from s3pet_viz.widgets.frame import MOST_POINTS, thin

#: A filter's choice of everything.
ALL = "all"


@dataclass(frozen=True)
class Query:
    """What is asked for.

    Attributes:
        row: of the step log, 0-based.
        budget: in parameters.
        stack, pet_type, module: only gates with this value, or `ALL`.
        gate: index of the gate that is looked at.
    """

    row: int
    budget: int
    stack: str = ALL
    pet_type: str = ALL
    module: str = ALL
    gate: int = 0


@dataclass(frozen=True)
class Scene:
    """The answer to a query.

    Attributes:
        step: number of the step.
        p: float64, shape (n_gates,), with the shift solved for the budget.
        alpha: float32, shape (n_gates,).
        selected, shown: bool, shape (n_gates,).
        params: parameters of the selected gates.
    """

    query: Query
    step: int
    p: np.ndarray
    alpha: np.ndarray
    selected: np.ndarray
    shown: np.ndarray
    params: int


class ExplorerModel:
    """Answers queries about a run's steps, as they were when this was made or `reload` was called.

    Attributes:
        run: the run.
        steps: step numbers, shape (n_steps,).
        labels: of the gates, as text and all different.
        smallest, total: parameters of the smallest gate and of the whole space.
        own_budget: of the run, in parameters; a tenth of the space where the run names none.

    Raises:
        RunError: the run has no steps yet.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.gates = run.gates_list
        self.counts = run.counts
        self.smallest, self.total = int(self.counts.min()), int(self.counts.sum())
        self.own_budget = int(run.info["budget"] or max(self.smallest, self.total // 10))
        self.labels = _distinct([f"{g.column} {row}" for g, row in zip(self.gates, rows_of(self.gates), strict=True)])
        self._tau = float(run.info["tau"])
        self.reload()

    def reload(self) -> None:
        """Take up steps that were written meanwhile.

        Raises:
            RunError: there are none at all, or the log is damaged.
        """
        self._alphas, self._ps = self.run.alphas(), self.run.ps()
        self.steps = self.run.steps()["step"].to_numpy()
        if not len(self.steps):
            raise RunError(f"{self.run.path}: no steps recorded yet; there is nothing to explore")

    def choices(self, name: str) -> list[str]:
        """`ALL`, and the values that gates have of ``stack``, ``pet_type`` or ``module``, in the space's order."""
        return [ALL, *dict.fromkeys(str(getattr(gate, name)) for gate in self.gates)]

    def scene(self, query: Query) -> Scene:
        """Solve the shift and choose the gates, for this step and budget."""
        alpha = self._alphas[query.row]
        p = probabilities(alpha, solve_shift(alpha, self.counts, query.budget, self._tau), self._tau)
        selected = np.zeros(len(p), dtype=bool)
        selected[select(alpha, self.counts, query.budget)] = True
        shown = np.array(
            [
                query.stack in (ALL, g.stack)
                and query.pet_type in (ALL, g.pet_type)
                and query.module in (ALL, g.module)
                for g in self.gates
            ]
        )
        params = int(self.counts[selected].sum())
        return Scene(query, int(self.steps[query.row]), p, alpha, selected, shown, params)

    def trace(self, gate: int) -> tuple[np.ndarray, np.ndarray]:
        """Step numbers and p as recorded of one gate, thinned; both of shape (n_points,)."""
        rows = thin(len(self.steps), MOST_POINTS)
        return self.steps[rows], self._ps[rows, gate]

    def facts(self, scene: Scene, gate: int) -> dict[str, str]:
        """What there is to say about one gate, as text, not as HTML."""
        g = self.gates[gate]
        recorded = float(self._ps[scene.query.row, gate])
        return {
            "position": g.position,
            "module": f"{g.module}, {g.stack} layer {g.column.partition('.')[2]}",
            "PET type": g.pet_type,
            "options": ", ".join(f"{name} = {value}" for name, value in g.options.items()) or "none",
            "parameters": f"{g.n_params:,} ({g.n_params / scene.query.budget:.2%} of the budget)",
            "p": f"{scene.p[gate]:.4g} at this budget, {recorded:.4g} as recorded",
            "alpha": f"{scene.alpha[gate]:+.4f}",
            "rank": f"{ranks(scene.alpha)[gate]:,} of {len(self.gates):,}",
            "chosen": "yes" if scene.selected[gate] else "no",
        }

    def summary(self, scene: Scene) -> str:
        """Gates chosen and parameters used, as text."""
        budget, whole = scene.query.budget, self.run.info["backbone_params"]
        words = [
            f"step {scene.step:,}",
            f"{int(scene.selected.sum()):,} of {len(self.gates):,} gates chosen",
            f"{scene.params:,} of {budget:,} parameters used ({scene.params / budget:.1%})",
        ]
        if whole:
            words.append(f"{scene.params / whole:.4%} of the backbone")
        if not scene.shown.all():
            both = int((scene.selected & scene.shown).sum())
            words.append(f"{both:,} of {int(scene.shown.sum()):,} shown gates are chosen")
        return " · ".join(words)


def _distinct(labels: list[str]) -> list[str]:
    """Labels that are all different, so that one names one gate."""
    seen: dict[str, int] = {}
    made = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        made.append(label if seen[label] == 1 else f"{label} #{seen[label]}")
    return made
