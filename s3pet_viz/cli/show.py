"""``s3pet show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s3pet_viz.cli import _common as c
from s3pet_viz.errors import ConfigError

Target = Annotated[str, typer.Argument(metavar="RUN_OR_STRUCTURE", help="A run folder or a structure file.")]
Budget = c._optional(str | None, "Solve the run again at this budget: 0.1%, 1e-3 or 8404.")
Html = c._optional(Path | None, "Write the heatmap as a page of its own, which needs no network.")
Save = c._optional(Path | None, "Write the structure (at --budget) as JSON.")
Gates = Annotated[bool, typer.Option("--gates", help="List every chosen gate.")]


def show(
    target: Target,
    budget: Budget = None,
    html: Html = None,
    save: Save = None,
    gates: Gates = False,
    force: c.Force = False,
) -> None:
    """Show a run or a structure: a text heatmap, the facts, and a page with the heatmap if asked for."""
    from s3pet_viz.cli import _output as o
    from s3pet_viz.runs import Run

    c.check_free(html, force)
    c.check_free(save, force)
    source = c.open_target(target)
    run = source if isinstance(source, Run) else None
    if budget is not None and run is None:
        raise ConfigError("budget: only a run can be solved again at another budget, for it keeps its alpha")

    console = c.console()
    started = run is None or run.n_steps > 0
    structure = (run.structure(budget=budget) if started else None) if run is not None else source
    facts: dict[str, object] = {}
    if run is not None:
        info = run.info
        total = f" of {info['steps_total']:,}" if info["steps_total"] else ""
        facts |= {
            "run": run.path,
            "status": f"{run.status}{': ' + info['error'] if info.get('error') else ''}",
            "task": run.config.get("task"),
            "backbone": info["backbone"],
            "mode, seed": f"{run.config.get('mode')}, {run.config.get('seed')}" if "mode" in run.config else None,
            "steps": f"{run.n_steps:,}{total}",
        }
        scores = run.scores()
        if scores is not None and "metrics" in scores:
            facts["tuned"] = f"score {scores['metrics']['score']:.4f} on {scores.get('task')}"
    elif structure is not None:
        facts |= {"structure": target, "backbone": structure.backbone or None}  # type: ignore[union-attr]
        facts |= {name: structure.source[name] for name in ("task", "mode", "seed") if name in structure.source}  # type: ignore[union-attr]
    console.print(o.heatmap_text(source, console.width, budget))
    console.print("")
    if structure is not None:
        facts |= o.structure_facts(structure)  # type: ignore[arg-type]
    console.print(o.facts_table(facts))
    if gates and structure is not None:
        console.print(o.gates_table(source, budget, most=None))
    if save is not None:
        if structure is None:
            raise ConfigError(f"{target}: no steps recorded yet, so there is no structure to save")
        import json

        c.save_text(save, json.dumps(structure.to_dict(), indent=1) + "\n", force)  # type: ignore[union-attr]
        console.print(f"structure: {save}")
    if html is not None:
        c.save_text(html, o.heatmap_page(source, budget), force)
        console.print(f"page: {html}")
