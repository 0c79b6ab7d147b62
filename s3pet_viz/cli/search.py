"""``s3pet search``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3pet_viz.cli import _common as c
from s3pet_viz.errors import ConfigError
from s3pet_viz.files import located, name_or_folder

if TYPE_CHECKING:
    from s3pet_viz.runs import Run

Out = Annotated[Path | None, c.option("The run folder to make. [default: a new one under runs/]")]
Resume = Annotated[Path | None, c.option("Continue this run; then every other option is the run's own.")]
Track = Annotated[
    list[str] | None,
    c.option("Also log to tensorboard, wandb, ... (names as in accelerate). May be repeated.", metavar="TRACKER"),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        show_default=False,
        help="Any of these fields, its value as JSON: --set second_order_cap=null. May be repeated.",
    ),
]
PinIn = Annotated[
    list[str] | None,
    c.option("Gates that are in the structure beforehand: a pattern of --pin. May be repeated.", metavar="PATTERN"),
]
PinOut = Annotated[
    list[str] | None, c.option("Gates that are kept out of it: a pattern. May be repeated.", metavar="PATTERN")
]
Detach = Annotated[bool, typer.Option("--detach", help="Search in a process of its own and return once it has begun.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Only check all this, and show the gates and the memory it takes; read no weights."),
]


@c.takes_fields(search=c.SEARCH_FIELDS)
def search(
    backbone: c.Backbone = None,
    out: Out = None,
    resume: Resume = None,
    track: Track = None,
    pin_in: PinIn = None,
    pin_out: PinOut = None,
    set_: Set = None,
    threads: c.Threads = None,
    detach: Detach = False,
    dry_run: DryRun = False,
    quiet: c.Quiet = False,
    **fields: Any,
) -> None:
    """Search a structure for a task under a budget.

    The run folder holds everything that happens; an interrupted search is continued with --resume. With --detach the
    search goes on when this terminal closes: see it with `s3pet watch`, ask it with `s3pet pause | resume | stop`.
    """
    if resume is None:
        if fields["task"] is None:
            raise ConfigError(f"--task: expected a task, found none. {c.TASK_HELP}")
        if fields["budget"] is None:
            raise ConfigError("--budget: expected a budget such as 0.1% or 8404, found none")
        backbone = backbone or c.DEFAULT_BACKBONE
    sides = {side: patterns for side, patterns in (("in", pin_in), ("out", pin_out)) if patterns}
    if sides and fields["pin"] is not None:
        raise ConfigError("--pin: cannot be used with --pin-in and --pin-out")
    options = c.given(**fields, backbone=backbone, out=out, track=track or None)
    options |= {"pin": sides} if sides else {}
    for name, value in _set_options(set_).items():
        if name in options:
            raise ConfigError(f"--set {name}: given twice, as an option too")
        options[name] = value
    if dry_run:
        if resume is not None or detach:
            raise ConfigError(f"--dry-run: cannot be used with --{'detach' if detach else 'resume'}")
        _check_first(options)
        _say_estimate({name: value for name, value in options.items() if name not in ("out", "track")})
        return
    if detach:
        _detach(options, resume, threads)
        return
    if resume is None and os.environ.get("RANK", "0") == "0":
        _check_first(options)
    c.use_threads(threads)

    import s3pet_viz as s3

    class Watch(s3.Callback):
        """Remembers the run folder, for the message after Ctrl-C."""

        path: Path | None = None

        def on_search_begin(self, search: object) -> None:
            self.path = search.writer.path  # type: ignore[attr-defined]

    watch = Watch()
    try:
        run = s3.search(resume=resume, callbacks=[watch], progress=not quiet, **options)
    except KeyboardInterrupt as interrupt:
        if watch.path is not None:
            c.complain("interrupted", f"the run is {_next_of(s3.open_run(watch.path))}")
            interrupt.explained = True  # type: ignore[attr-defined]
        raise
    from s3pet_viz.runs.process import LAUNCHED

    # Launched: nobody is there to read it, and the log is for what goes wrong. Of several processes, one says it.
    if not os.environ.get(LAUNCHED) and os.environ.get("RANK", "0") == "0":
        _report(run)


def _next_of(run: Run) -> str:
    """What an interrupted run is, and what can be done with it: it may have come to its end first."""
    if run.status == "finished":
        return f"whole; see it with: s3pet show {c.quoted(run.path)}"
    return f"saved; continue it with: s3pet search --resume {c.quoted(run.path)}"


def _check_first(options: Mapping[str, Any]) -> None:
    """What the search would refuse too, but after the seconds in which torch is loaded: where it writes, and its task.

    Raises:
        RunError: the run folder is not free, or cannot be written. ConfigError: ``save`` is in its way.
        TaskError: there is no task of this name.
    """
    from s3pet_viz.runs.place import check_apart, check_place
    from s3pet_viz.tasks.load import check_name

    out = located(options["out"]) if isinstance(options.get("out"), (str, Path)) else None
    if out is not None:
        check_place(out)
    if isinstance(options.get("save"), str) and options["save"]:
        check_apart(options["save"], out)
    if isinstance(options["task"], str):
        check_name(name_or_folder(options["task"]))


def _say_estimate(options: Mapping[str, Any]) -> None:
    import s3pet_viz as s3
    from s3pet_viz.cli import _output as o

    made = s3.estimate(**options)
    table = o.plain_table("module", "PET type", "gates", "parameters each", "together", right=3)
    for row in made.table().to_dict("records"):
        least, most = row["smallest"], row["largest"]
        each = f"{least:,}" + (f" to {most:,}" if most > least else "")
        table.add_row(*map(o.cell, (row["module"], row["pet_type"], row["gates"], each, f"{row['parameters']:,}")))
    c.say(table, o.facts_table(dict(made.facts())))


def _set_options(given: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE pairs; a value that is no JSON is text.

    Raises:
        ConfigError: no =, or a name twice.
    """
    options: dict[str, Any] = {}
    for pair in given or []:
        name, equals, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not (equals and name.isidentifier()):
            raise ConfigError(f"--set: expected NAME=VALUE such as tau=0.5, found {pair!r}")
        if name in options:
            raise ConfigError(f"--set {name}: given twice")
        try:
            options[name] = json.loads(text)
        except (ValueError, RecursionError):
            options[name] = text
    return options


def _detach(options: dict[str, Any], resume: Path | None, threads: int | None) -> None:
    from s3pet_viz.launcher import launch, relaunch

    run = launch(**options, threads=threads) if resume is None else relaunch(resume, **options, threads=threads)
    path = c.quoted(run.path)
    c.say(f"searching in process {run.info['pid']}: {run.path}")
    c.say(f"see it: s3pet watch {path}\nask it: s3pet pause | resume | stop {path}")


def _report(run: Run) -> None:
    from s3pet_viz.cli import _output as o
    from s3pet_viz.runs.status import said_status

    structure = run.structure()
    c.say("")
    c.say(o.heatmap_text(run, c.console().width))
    c.say("\nchosen gates, the likeliest first")
    c.say(o.gates_table(run))
    facts = {"run": run.path, "status": said_status(run.status, run.early_stop), "alpha from": o.start_said(run)}
    c.say(o.facts_table(facts | o.structure_facts(structure)))
    scores = run.scores()
    if scores is not None:
        c.say(f"\n{scores['task']}: score {scores['metrics']['score']:.4f}, loss {scores['metrics']['loss']:.4f}")
        c.say(f"adapter: {run.config['save']}")
        return
    done = run.status == "finished"
    again = f"s3pet tune {c.quoted(run.path)}" if done else f"s3pet search --resume {c.quoted(run.path)}"
    c.say(f"\nnext: {again}")
