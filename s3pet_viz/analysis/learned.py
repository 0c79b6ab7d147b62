"""Did a search learn its task? Rules of `health`: what the losses say, and the phases of a search in mode ``prune``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from s3pet_viz.analysis.findings import Seen, found
from s3pet_viz.runs.reader import Run
from s3pet_viz.runs.status import pruning

#: The task was not learned where the training loss ends above this share of what one answer to every row would have.
UNLEARNED = 0.95


def is_learned(loss: float, constant: float | None) -> bool | None:
    """Whether a loss says that the task is learned; None where what one answer to every row costs is not known."""
    return loss <= UNLEARNED * constant if constant else None


#: A loss fell at once where its first few values are above the last fifth by so many standard errors.
_EARLY = 4


def losses(run: Run) -> Iterator[Seen]:
    steps = run.steps()
    # A shrinking budget raises the loss by itself: such a search is judged from where the budget stays.
    shrunk = sum(open_start(run))
    train, loss = (steps[name].to_numpy() for name in ("train_loss", "val_loss"))
    # A step that does not measure the validation loss has NaN.
    for which, values, wrong in (("training", train, ~np.isfinite(train)), ("validation", loss, np.isinf(loss))):
        if wrong.any():
            at = int(wrong.argmax())
            yield found(
                "loss-not-finite",
                f"The {which} loss was {values[at]:g} at step {int(steps['step'].iloc[at]):,}, so alpha follows noise "
                "from there. Lower the learning rate.",
            )
            return
    loss = loss[shrunk:]
    known = loss[~np.isnan(loss)]
    fifth = len(known) // 5
    if fifth < 4:
        return
    first, last = known[:fifth], known[-fifth:]
    noise = 2 * np.sqrt(first.var(ddof=1) / fifth + last.var(ddof=1) / fifth)  # two standard errors of the difference
    of = f"steps from {shrunk:,} on, where the budget stays" if shrunk else "search" if run.ended else "steps so far"
    before, after = _apart(first.mean(), last.mean())
    told = f"It was {before} in the first fifth of the {of}, and {after} in the last"
    start = known[: max(4, fifth // 5)]
    if last.mean() > first.mean() + noise:
        yield found("loss-rose", f"{told}. Lower the learning rate, or stop earlier.")
    elif last.mean() < first.mean() - noise:
        yield f"fell from {before} to {after}"
    elif shrunk:
        yield f"{before} where the budget came to stay, {after} at the end"
    elif last.mean() < start.mean() - _EARLY * last.std(ddof=1) * np.sqrt(1 / len(start) + 1 / fifth):
        yield "fell from {} to {} within the first fifth".format(*_apart(start.mean(), last.mean()))
    else:
        ended, constant = last_loss(run)
        why = "The PET weights have learned little: raise the learning rate or the steps."
        if constant and ended <= UNLEARNED * constant:
            why = (
                f"The training loss is {ended:.3g}, below the {constant:.3g} of one answer to every row: what was "
                "learned was learned in the first fifth, or before the search."
            )
        yield found("loss-did-not-fall", f"{told}: no fall beyond its noise. {why}")


def _apart(a: float, b: float) -> tuple[str, str]:
    """Two numbers as text, with as many digits as tell them apart."""
    for digits in range(3, 9):
        texts = f"{a:.{digits}g}", f"{b:.{digits}g}"
        if texts[0] != texts[1]:
            break
    return texts


def last_loss(run: Run) -> tuple[float, float | None]:
    """Mean training loss of the last fifth, and that of one answer to every row where it is recorded."""
    loss = run.steps()["train_loss"].to_numpy()
    constant = run.info.get("constant_loss")
    return float(loss[-max(1, len(loss) // 5) :].mean()), constant or None


def unlearned(run: Run) -> Iterator[Seen]:
    if pruned := list(_pruned(run)):
        yield from pruned
        return
    last, constant = last_loss(run)
    if not constant and run.info.get("own"):
        yield f"training loss {last:.3g}; what one answer to every row would have is not known of a loss of your own"
    if not constant or run.n_steps < 20:
        return
    if last <= UNLEARNED * constant:
        yield f"training loss {last:.3g}, below the {constant:.3g} of one answer to every row"
        return
    ended = "ended at" if run.ended else "is at"
    if last > constant / UNLEARNED:
        so = "So the search has not even learned which answers there are"
    else:
        so = "So the search learned which answers there are and not which is right"
    how = "" if sum(open_start(run)) else ", or from open gates (open_steps and shrink_steps)"
    yield found(
        "not-learned",
        f"The training loss {ended} {last:.3g}; one answer to every row would have {constant:.3g}. {so}, and its gates "
        f"are chosen for that. Search longer, at another learning rate{how}.",
    )


def _pruned(run: Run) -> Iterator[Seen]:
    """A finding where the gates were pruned for a task that was not learned, or that was lost since."""
    told = pruning(run.info)
    loss, constant, task = told.get("held_out_loss"), told.get("held_out_constant"), told.get("task")
    said = ""
    if isinstance(loss, float) and isinstance(constant, float):
        said = f" The held-out loss was {loss:.3g} at the last look; one answer to every row would have {constant:.3g}."
    if task == "not learned":
        yield found(
            "pruned-unlearned",
            f"It was not learned in the {told.get('open_steps')} steps with every gate open, so the gates' scores "
            f"say little of it.{said} Search with more steps, or at another learning rate.",
        )
    elif task == "lost":
        yield found(
            "pruned-lost",
            f"The task was learned with every gate open, and is not with those that are left.{said} Search with more "
            "steps, or for a larger budget.",
        )


def at_budget_from(run: Run) -> int | None:
    """The first step at the budget, which shrinks as the loss allows; all steps so far where it has not come to it.
    None: another mode."""
    if run.config.get("mode") != "prune":
        return None
    at = pruning(run.info).get("at_budget")
    return at if type(at) is int else run.n_steps


def open_start(run: Run) -> list[int]:
    """Its `open_steps` and `shrink_steps`; 0 for what is no number of steps."""
    if (at := at_budget_from(run)) is not None:
        return [at, 0]
    given = [run.config.get(name) for name in ("open_steps", "shrink_steps")]
    return [v if type(v) is int and v > 0 else 0 for v in given]
