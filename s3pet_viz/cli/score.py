"""``s3pet score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3pet_viz.cli import _common as c
from s3pet_viz.config.names import LAYER_SCORES
from s3pet_viz.errors import ConfigError

if TYPE_CHECKING:
    from s3pet_viz.analysis.one_pass import OnePassScores, TaskScores

Task = Annotated[str | None, c.option(c.TASK_HELP)]
Tasks = Annotated[
    str | None, c.option("Several tasks, separated by commas: how far do their scores agree? No structure is made.")
]
Budget = Annotated[str, typer.Option(help=c.BUDGET_HELP)]
Space = Annotated[
    str | None,
    c.option(
        "Search space: as of `s3pet search`. [default: S3PET-M; of "
        f"{', '.join(LAYER_SCORES[:-1])}, which take LoRA alone: S3PET-L; eva: LoRA-ranks]"
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", "--output", help="Save the structure (of --tasks: the matrix as CSV) here.")
]
Table = Annotated[Path | None, c.option("Write the scores as CSV, one row per gate (of --tasks: and task).")]
Html = Annotated[Path | None, c.option("Write the heatmap as an HTML page.")]


@c.takes_fields(search=c.LOADED, score=c.SCORE_FIELDS)
def score(
    task: Task = None,
    tasks: Tasks = None,
    backbone: c.Backbone = None,
    budget: Budget = "0.1%",
    space: Space = None,
    out: Out = None,
    table: Table = None,
    html: Html = None,
    threads: c.Threads = None,
    quiet: c.Quiet = False,
    force: c.Force = False,
    **fields: Any,
) -> None:
    """Choose a structure by one pass of scores over every gate: seconds, no search."""
    c.check_free(out, ending=".json" if tasks is None else ".csv", force=force)
    c.check_free(table, ending=".csv", force=force)
    c.check_free(html, ending=".html", force=force)
    if (task is None) == (tasks is None):
        raise ConfigError(
            f"--task: expected a task, or --tasks, found {'none' if task is None else 'both'}. {c.TASK_HELP}"
        )
    c.use_threads(threads)

    import s3pet_viz as s3

    options, load = c.split_load(fields)
    which: dict[str, Any] = (
        {"task": task} if tasks is None else {"tasks": [t.strip() for t in tasks.split(",") if t.strip()]}
    )
    made = s3.score(
        **which,
        backbone=backbone or c.DEFAULT_BACKBONE,
        budget=budget,
        space=space,
        load=load,
        progress=not quiet,
        **options,
    )
    if tasks is None:
        _say_one(made, out, force)
    else:
        _say_several(made, out, force)
    if table is not None:
        c.save_text(table, _rows(made).to_csv(index=False), force)
        c.say(f"table: {table}")
    if html is not None:
        c.save_text(html, made.heatmap().to_html(include_plotlyjs=True), force)
        c.say(f"heatmap: {html}")


def _say_one(made: OnePassScores, out: Path | None, force: bool) -> None:
    from s3pet_viz.cli import _output as o
    from s3pet_viz.viewer.text import text_heatmap

    structure, told = made.structure(), made.table()
    c.say(text_heatmap(made.gates, made.p, told["chosen"].to_numpy(), width=c.console().width), "")
    facts: dict[str, object] = {
        "method": made.method,
        "task": made.task,
        "backbone": made.backbone,
        "cost": made.cost(),
    }
    c.say(o.facts_table(facts | {k: v for k, v in o.structure_facts(structure).items() if k != "task"}), "")
    gates = o.plain_table("layer", "module", "PET type", "parameters", "score", right=2)
    sizes = {gate.key: gate.n_params for gate in structure.gates}  # domlora's has another rank than the space offers
    for i in told[told["chosen"]].sort_values("rank").index[:20]:
        gate = made.gates[i]
        size = f"{sizes.get(gate.key, gate.n_params):,}"
        gates.add_row(*map(o.cell, (gate.column, gate.module, gate.pet_type, size, f"{made.score[i]:.3g}")))
    if len(structure) > 20:
        gates.add_row("...", f"and {len(structure) - 20} more")
    c.say(gates)
    if out is not None:
        c.check_free(out, force=force)
        structure.save(out)
        c.say(f"structure: {out}")


def _say_several(made: TaskScores, out: Path | None, force: bool) -> None:
    from s3pet_viz.cli import _output as o

    matrix = made.correlation()
    shown = o.plain_table("", *matrix.columns, right=len(matrix))
    for name, row in zip(matrix.index, matrix.to_numpy(), strict=True):
        shown.add_row(o.cell(name), *(o.cell(f"{v:.3f}") for v in row))
    c.say(f"{made!r}: rank correlation (Spearman) of the scores", shown)
    if out is not None:
        c.save_text(out, matrix.to_csv(), force)
        c.say(f"matrix: {out}")


def _rows(made: Any) -> Any:
    import pandas as pd

    from s3pet_viz.analysis.one_pass import TaskScores

    if not isinstance(made, TaskScores):
        return made.table()
    return pd.concat([scores.table().assign(task=name) for name, scores in made.items()])
