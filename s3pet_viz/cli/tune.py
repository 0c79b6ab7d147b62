"""``s3pet tune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3pet_viz.cli import _common as c
from s3pet_viz.errors import ConfigError

if TYPE_CHECKING:
    from s3pet_viz.runs import Run

_WORDS = ("full", "head", "untouched")
Target = Annotated[
    str,
    typer.Argument(
        metavar="STRUCTURE_OR_RUN", help="A run (folder or recorded name), a structure file, or: full, head, untouched."
    ),
]
Task = Annotated[str | None, c.option(f"{c.TASK_HELP} [default: the run's]")]
Backbone = Annotated[str | None, c.option(f"{c.BACKBONE_HELP} [default: the run's or structure's]")]
Budget = Annotated[str | None, c.option("Tune the structure that the run gives at this budget.")]
Out = Annotated[Path | None, c.option("Write the scores as JSON to this file too.")]
Save = Annotated[
    Path | None, c.option("Keep the trained weights in this folder, for `s3pet export` and Adapter.from_pretrained.")
]


@c.takes_fields(search=c.LOADED, tune=c.TUNE_FIELDS)
def tune(
    target: Target,
    task: Task = None,
    backbone: Backbone = None,
    budget: Budget = None,
    out: Out = None,
    save: Save = None,
    threads: c.Threads = None,
    quiet: c.Quiet = False,
    force: c.Force = False,
    **fields: Any,
) -> None:
    """Train a structure from scratch and score it.

    The scores of a run's own structure on its own task are kept in the run folder.
    """
    from s3pet_viz.runs import RunWriter
    from s3pet_viz.sources import A_SOURCE, open_source, structure_of

    c.check_free(out, force=force)
    source = (
        None
        if target in _WORDS
        else open_source(target, wanted=f"one of {', '.join(_WORDS)}, {A_SOURCE}", backbone=backbone)
    )
    if source is None and budget is not None:
        raise ConfigError(f"budget: expected a run, whose structure it chooses, found {target!r}")
    structure: Any = target if source is None else structure_of(source, budget)
    own = own_run(source, task, backbone, budget)
    where = defaults_of(source, task, backbone)
    c.use_threads(threads)

    import s3pet_viz as s3
    from s3pet_viz.cli import _output as o

    options, load = c.split_load(fields)
    load = {**where.pop("load"), **load}
    scores = s3.tune(structure, load=load, progress=not quiet, save=save, overwrite=force, **{**where, **options})
    c.say(o.scores_table(scores))
    if own is not None:
        with RunWriter.attach(own.path) as writer:
            writer.write_scores(scores.to_dict())
            c.say(f"\nscores: {writer.path / 'scores.json'}")
    if save is not None:
        c.say(f"\nadapter: {save}")
    if out is not None:
        c.save_json(out, scores.to_dict(), force)
        c.say(f"\nscores: {out}")
    if scores.steps == "auto":
        c.say(f"\n{o.steps_said(scores)}")


def own_run(source: Any, *options: str | None) -> Run | None:
    """The run that keeps the result: `source`, where it is one, none that came with the package, and nothing else is
    asked of it. Raises RunError: it is busy; better now than after training.
    """
    from s3pet_viz.runs import Run, RunWriter
    from s3pet_viz.sources import is_recorded

    if not isinstance(source, Run) or is_recorded(source) or any(one is not None for one in options):
        return None
    RunWriter.attach(source.path).close()
    return source


def defaults_of(source: Any, task: str | None, backbone: str | None) -> dict[str, Any]:
    """Task, backbone and how they were loaded, as the run or structure says, where nothing else is given."""
    from s3pet_viz.tuning.origin import origin_of

    found = origin_of(source, task, backbone)
    if source is None:
        found["backbone"] = backbone or c.DEFAULT_BACKBONE
    if found["task"] is None:
        raise ConfigError(f"--task: expected a task, found none. {c.TASK_HELP}")
    if found["backbone"] is None:
        raise ConfigError(f"--backbone: expected a backbone, found none. {c.BACKBONE_HELP}")
    return found
