"""What a run of mode ``prune`` says of its phases."""

from __future__ import annotations

from s3pet_viz.analysis.findings import Finding, found
from s3pet_viz.runs.reader import Run
from s3pet_viz.runs.status import pruning


def at_budget_from(run: Run) -> int | None:
    """The first step at the budget, which shrinks as the loss allows; all steps so far where it has not come to it.
    None: another mode."""
    if run.config.get("mode") != "prune":
        return None
    at = pruning(run.info).get("at_budget")
    return at if type(at) is int else run.n_steps


def unlearned(run: Run) -> Finding | None:
    """A finding where the gates were pruned for a task that was not learned, or that was lost since."""
    told = pruning(run.info)
    loss, constant, task = told.get("held_out_loss"), told.get("held_out_constant"), told.get("task")
    said = ""
    if isinstance(loss, float) and isinstance(constant, float):
        said = f" The held-out loss was {loss:.3g} at the last look; one answer to every row would have {constant:.3g}."
    if task == "not learned":
        return found(
            "pruned-unlearned",
            f"It was not learned in the {told.get('open_steps')} steps with every gate open, so the gates' scores "
            f"say little of it.{said} Search with more steps, or at another learning rate.",
        )
    if task == "lost":
        return found(
            "pruned-lost",
            f"The task was learned with every gate open, and is not with those that are left.{said} Search with more "
            "steps, or for a larger budget.",
        )
    return None
