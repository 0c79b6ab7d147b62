"""``s3pet demo``: a whole study in miniature."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from s3pet_viz.cli import _common as c

# Chosen so that the demo takes less than 3 minutes; with one thread it prints the same numbers on like machines.
TASK = "similarity"
BACKBONE = c.DEFAULT_BACKBONE
BUDGET = "0.2%"
SEARCH_STEPS = 150
TUNE_STEPS = 160
N_RANDOM = 2
METHODS = ("random", "LoRA", "untouched", "full")
OUT = Path("out/demo")

NOTES = {
    "searched": "the structure found above",
    "random": f"{N_RANDOM} random structures of the same budget",
    "LoRA": "by hand: LoRA on every query and value",
    "untouched": "the backbone as it is, nothing trained",
    "full": "every weight of the backbone trained",
}

Task = Annotated[str, typer.Option(help=c.TASK_HELP)]
Backbone = Annotated[str, typer.Option(help=c.BACKBONE_HELP)]
Budget = Annotated[str, typer.Option(help=c.BUDGET_HELP)]
Steps = Annotated[int, typer.Option(help="Search steps.", min=1)]
TuneSteps = Annotated[int, typer.Option("--tune-steps", help="Steps of each training in the table.", min=1)]
Seed = Annotated[int, typer.Option(min=0)]
Out = Annotated[Path, typer.Option(help="A new folder; where it exists, a number is added.")]


def demo(
    task: Task = TASK,
    backbone: Backbone = BACKBONE,
    budget: Budget = BUDGET,
    steps: Steps = SEARCH_STEPS,
    tune_steps: TuneSteps = TUNE_STEPS,
    seed: Seed = 0,
    out: Out = OUT,
    threads: c.Threads = 1,
    quiet: c.Quiet = False,
) -> None:
    """A whole study in miniature, in a few minutes.

    Searches a structure on a small task, shows it, and compares it with others.
    """
    began = time.perf_counter()
    c.use_threads(threads)

    import s3pet_viz as s3
    from s3pet_viz.cli import _output as o
    from s3pet_viz.runs import RunWriter
    from s3pet_viz.tuning import summary

    folder = _new_folder(out)
    c.say(
        f"1. Search: {task} on {backbone}. Every place where a small trainable module could go is a gate; the\n"
        f"   search learns which gates help, while their expected size stays at the budget, {budget}."
    )
    run = s3.search(
        task=task, backbone=backbone, budget=budget, steps=steps, seed=seed, out=folder / "run", progress=not quiet
    )
    structure = run.structure()
    c.say("\n2. What it found. Rows are modules and PET types, columns are layers; ● marks a chosen gate.\n")
    c.say(o.heatmap_text(run, c.console().width))
    c.say("")
    c.say(o.facts_table(o.structure_facts(structure)))

    c.say("\n3. Is it any good? Each of these is trained from scratch on the same rows and scored on rows kept apart.")
    page = folder / "heatmap.html"

    def keep(scores: s3.Scores) -> None:
        if scores.method == "searched":
            with RunWriter.attach(run.path) as writer:
                writer.write_scores(scores.to_dict())

    table = s3.baselines(
        task=task,
        backbone=backbone,
        budget=budget,
        seeds=[seed],
        methods=METHODS,
        n_random=N_RANDOM,
        structures={"searched": structure},
        steps=tune_steps,
        evaluations=1,
        progress=not quiet,
        on_scores=keep,
    )
    c.save_text(folder / "table.csv", table.to_csv(index=False))
    c.save_text(page, o.heatmap_page(run))
    c.say(o.summary_table(summary(table)), o.facts_table(dict(NOTES)), "")
    c.say(
        o.facts_table(
            {
                "heatmap": f"{page} (open it in a browser)",
                "table": folder / "table.csv",
                "run": f"{run.path} (look again: s3pet show {c.quoted(run.path)})",
                "time": f"{time.perf_counter() - began:.0f} s",
            }
        )
    )


def _new_folder(out: Path) -> Path:
    """`out`, or with a number where it exists."""
    folder, number = out, 2
    while folder.exists():
        folder, number = out.with_name(f"{out.name}-{number}"), number + 1
    return folder
