"""``s3pet search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from s3pet_viz.cli import _common as c
from s3pet_viz.errors import ConfigError

if TYPE_CHECKING:
    from s3pet_viz.runs import Run

Mode = Annotated[str | None, c.option("fast, paper, first-order, single-level or exact. [default: fast]")]
Out = Annotated[Path | None, c.option("The run folder to make. [default: a new one under runs/]")]
AlphaLr = Annotated[float | None, c.option("Learning rate of the structure parameters. [default: 0.1]")]
Warmup = Annotated[int | None, c.option("Steps at the start that move only the weights. [default: 0]", min=0)]
Resume = Annotated[Path | None, c.option("Continue this run; then every other option is the run's own.")]
CheckpointEvery = Annotated[int | None, c.option("In steps. [default: 100]", min=1)]
EvalEvery = Annotated[int | None, c.option("In steps; 0 turns evaluations off. [default: 0]", min=0)]


def search(
    task: c.Task = None,
    backbone: c.Backbone = None,
    budget: c.Budget = None,
    space: c.Space = None,
    steps: c.Steps = None,
    seed: c.Seed = None,
    mode: Mode = None,
    out: Out = None,
    device: c.Device = None,
    precision: c.Precision = None,
    lr: c.Lr = None,
    head_lr: c.HeadLr = None,
    alpha_lr: AlphaLr = None,
    batch_size: c.BatchSize = None,
    warmup: Warmup = None,
    resume: Resume = None,
    checkpoint_every: CheckpointEvery = None,
    eval_every: EvalEvery = None,
    split: c.Split = None,
    max_rows: c.MaxRows = None,
    revision: c.Revision = None,
    task_revision: c.TaskRevision = None,
    threads: c.Threads = None,
    quiet: c.Quiet = False,
) -> None:
    """Search a structure for a task under a budget.

    The run folder holds everything that happens; an interrupted search is continued with --resume.
    """
    if resume is None:
        _required(task, budget)
        backbone = backbone or c.DEFAULT_BACKBONE
    c.use_threads(threads)

    import s3pet_viz as s3

    class Watch(s3.Callback):
        """Remembers the run folder, for the message after Ctrl-C."""

        path: Path | None = None

        def on_search_begin(self, search: object) -> None:
            self.path = search.writer.path  # type: ignore[attr-defined]

    watch = Watch()
    try:
        run = s3.search(
            task=task,
            backbone=backbone,
            budget=budget,
            out=out,
            resume=resume,
            callbacks=[watch],
            progress=not quiet,
            **c.given(
                space=space,
                steps=steps,
                seed=seed,
                mode=mode,
                device=device,
                precision=precision,
                lr=lr,
                head_lr=head_lr,
                alpha_lr=alpha_lr,
                batch_size=batch_size,
                warmup=warmup,
                checkpoint_every=checkpoint_every,
                eval_every=eval_every,
                split=split,
                max_rows=max_rows,
                revision=revision,
                task_revision=task_revision,
            ),
        )
    except KeyboardInterrupt as interrupt:
        if watch.path is not None:
            from s3pet_viz.cli._output import quoted

            c.complain("interrupted", f"the run is saved; continue it with: s3pet search --resume {quoted(watch.path)}")
            interrupt.explained = True  # type: ignore[attr-defined]
        raise
    _report(run)


def _required(task: str | None, budget: str | None) -> None:
    if task is None:
        raise ConfigError(f"--task: expected a task, found none. {c.TASK_HELP}")
    if budget is None:
        raise ConfigError("--budget: expected a budget such as 0.1% or 8404, found none")


def _report(run: Run) -> None:
    from s3pet_viz.cli import _output as o

    structure = run.structure()
    c.say("")
    c.say(o.heatmap_text(run, c.console().width))
    c.say("\nchosen gates, the likeliest first")
    c.say(o.gates_table(run))
    c.say(o.facts_table({"run": run.path, "status": run.status, **o.structure_facts(structure)}))
    done = run.status == "finished"
    again = f"s3pet tune {o.quoted(run.path)}" if done else f"s3pet search --resume {o.quoted(run.path)}"
    c.say(f"\nnext: {again}")
