"""``s3pet show``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3pet_viz.cli import _common as c
from s3pet_viz.config.checks import among
from s3pet_viz.errors import ConfigError

if TYPE_CHECKING:
    from s3pet_viz.runs import Run

Target = Annotated[str, typer.Argument(metavar="RUN_OR_STRUCTURE", help="A run or a structure file.")]
Budget = Annotated[str | None, c.option("Solve the run again at this budget: 0.1%, 1e-3 or 8404.")]
Html = Annotated[Path | None, c.option("Write the heatmap as a page of its own, which needs no network.")]
Save = Annotated[Path | None, c.option("Write the structure (at --budget) as JSON.")]
Annotate = Annotated[
    str | None, c.option("What stands in the cells of a run: rank, importance (after s3pet explain), alpha or params.")
]
Gates = Annotated[bool, typer.Option("--gates", help="List every chosen gate.")]


def show(
    target: Target,
    budget: Budget = None,
    html: Html = None,
    save: Save = None,
    gates: Gates = False,
    annotate: Annotate = None,
    state: c.ViewState = None,
    force: c.Force = False,
) -> None:
    """Show a run or a structure as a text heatmap.

    With its facts, at any budget, and as a page of its own if asked for.
    """
    from s3pet_viz.cli import _output as o
    from s3pet_viz.runs import Run
    from s3pet_viz.sources import open_source, structure_of
    from s3pet_viz.structure import Structure

    c.check_free(html, ending=".html", force=force)
    c.check_free(save, ending=".json", force=force)
    source = open_source(target)
    if annotate is not None:
        among("annotate", annotate, ("rank", "importance", "alpha", "params"))
        if not isinstance(source, Run):
            raise ConfigError(f"annotate: expected a run, found {target!r}")
    if state is not None and (html is None or not isinstance(source, Run)):
        raise ConfigError(f"--state: expected a run and --html, which opens with it, found {target!r}")
    view = c.view_state(state)
    bare = isinstance(source, Run) and not source.n_steps
    structure = None if bare else structure_of(source, budget)
    if isinstance(source, Run):
        facts = _facts_of_run(source)
    else:
        said = source.source if isinstance(source, Structure) else {}
        known = {name: said[name] for name in ("task", "mode", "seed") if name in said}
        facts = {"structure": target, "backbone": source.backbone or None, **known}
    if structure is None and (save is not None or html is not None):
        raise ConfigError(f"{target}: no steps recorded yet, so there is no structure to write")

    drawn: Any = source if isinstance(source, Run) else structure
    c.say(o.heatmap_text(drawn, c.console().width, budget, annotate), "")
    c.say(o.facts_table(facts | (o.structure_facts(structure) if structure is not None else {})))
    if gates and structure is not None:
        c.say(o.gates_table(drawn, budget, most=None))
    if save is not None and structure is not None:
        c.save_json(save, structure.to_dict(), force)
        c.say(f"structure: {save}")
    if html is not None:
        c.save_text(html, o.heatmap_page(drawn, budget, view), force)
        c.say(f"page: {html}")


def _facts_of_run(run: Run) -> dict[str, object]:
    from s3pet_viz.cli import _output as o
    from s3pet_viz.runs.status import said_status

    info, config = run.info, run.config
    total = f" of {info['steps_total']:,}" if info["steps_total"] else ""
    scores = run.scores() or {}
    tuned = scores.get("metrics", {}).get("score")
    return {
        "run": run.path,
        "status": f"{run.status}: {info['error']}" if info.get("error") else said_status(run.status, run.early_stop),
        "task": config.get("task"),
        "backbone": info["backbone"],
        "mode, seed": f"{config.get('mode')}, {config.get('seed')}" if "mode" in config else None,
        "steps": f"{run.n_steps:,}{total}",
        "alpha from": o.start_said(run),
        "tuned": f"score {tuned:.4f} on {scores.get('task')}" if tuned is not None else None,
    }
