"""``s3pet tune``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

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
Save = Annotated[
    Path | None, c.option("Keep the trained weights in this folder, for `s3pet export` and Adapter.from_pretrained.")
]


A = TypeVar("A", bound="Asked")


@dataclass
class Asked:
    """Options of the commands that train what a run or a file holds."""

    task: Annotated[str | None, c.option(f"{c.TASK_HELP} [default: the run's]")] = None
    backbone: Annotated[str | None, c.option(f"{c.BACKBONE_HELP} [default: the run's or structure's]")] = None
    threads: c.Threads = None
    quiet: c.Quiet = False
    force: c.Force = False


@dataclass
class Trained(Asked):
    """Options of the commands that train one structure: which, and where the result goes."""

    budget: Annotated[str | None, c.option("Take the structure that the run gives at this budget.")] = None
    out: Annotated[Path | None, c.option("Write the result as JSON to this file too.")] = None

    def open(self, target: str, words: tuple[str, ...] = ()) -> tuple[Any, Any, Run | None]:
        """Source (None of one of these words), structure, and the run whose folder the result belongs in.

        Raises:
            S3PETError: one of its kinds, for what could only fail after the training.
        """
        from s3pet_viz.runs import Run, RunWriter
        from s3pet_viz.sources import A_SOURCE, is_recorded, open_source, structure_of

        c.check_free(self.out, ending=".json", force=self.force)
        if target in words:
            if self.budget is not None:
                raise ConfigError(f"budget: expected a run, whose structure it chooses, found {target!r}")
            return None, target, None
        wanted = f"one of {', '.join(words)}, {A_SOURCE}" if words else ""
        source = open_source(target, wanted=wanted, backbone=self.backbone)
        structure = structure_of(source, self.budget)
        own = isinstance(source, Run) and not is_recorded(source)
        if not own or (self.task, self.backbone, self.budget) != (None, None, None):
            return source, structure, None
        RunWriter.attach(source.path).close()  # busy? better now than after training
        return source, structure, source


def split_asked(kind: type[A], given: dict[str, Any]) -> tuple[A, dict[str, Any]]:
    """What a command was given: the options of that kind, and the fields of the configurations."""
    names = {one.name for one in dataclasses.fields(kind)}
    fields = {name: value for name, value in given.items() if name not in names}
    return kind(**{name: value for name, value in given.items() if name in names}), fields


@c.takes_fields(search=c.LOADED, tune=c.TUNE_FIELDS)
@c.takes_options_of(Trained)
def tune(target: Target, save: Save = None, **given: Any) -> None:
    """Train a structure from scratch and score it.

    The scores of a run's own structure on its own task are kept in the run folder.
    """
    asked, fields = split_asked(Trained, given)
    source, structure, run = asked.open(target, _WORDS)
    where = defaults_of(source, asked.task, asked.backbone)
    c.use_threads(asked.threads)

    import s3pet_viz as s3
    from s3pet_viz.cli import _output as o
    from s3pet_viz.runs import RunWriter

    options, load = c.split_load(fields)
    load = {**where.pop("load"), **load}
    options = {**where, **options, "save": save, "overwrite": asked.force, "progress": not asked.quiet}
    scores = s3.tune(structure, load=load, **options)
    c.say(o.scores_table(scores))
    if run is not None:
        with RunWriter.attach(run.path) as writer:
            writer.write_scores(scores.to_dict())
            c.say(f"\nscores: {writer.path / 'scores.json'}")
    if save is not None:
        c.say(f"\nadapter: {save}")
    if asked.out is not None:
        c.save_json(asked.out, scores.to_dict(), asked.force)
        c.say(f"\nscores: {asked.out}")
    if scores.steps == "auto":
        c.say(f"\n{o.steps_said(scores)}")


def defaults_of(source: Any, task: str | None, backbone: str | None) -> dict[str, Any]:
    """Task, backbone and how they were loaded, as the run or structure says, where nothing else is given."""
    from s3pet_viz.tasks.taskfile import recalled
    from s3pet_viz.tuning.origin import origin_of

    found = origin_of(source, task, backbone)
    found["load"] = recalled(found["load"], {})
    if source is None:
        found["backbone"] = backbone or c.DEFAULT_BACKBONE
    if found["task"] is None:
        raise ConfigError(f"--task: expected a task, found none. {c.TASK_HELP}")
    if found["backbone"] is None:
        raise ConfigError(f"--backbone: expected a backbone, found none. {c.BACKBONE_HELP}")
    return found
