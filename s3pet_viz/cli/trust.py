"""``s3pet trust``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s3pet_viz.cli import _common as c

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...", help="Runs (folders or recorded names), a folder of runs, or a study.", show_default=False
    ),
]
Draws = Annotated[int, typer.Option(help="Random structures that agreement is held against.", min=1)]
Parts = Annotated[bool, typer.Option("--parts", help="Each task and budget apart, too.")]
Table = Annotated[Path | None, c.option("Write the numbers as CSV, one row per answer.")]


def trust(
    sources: Sources, draws: Draws = 999, parts: Parts = False, table: Table = None, force: c.Force = False
) -> None:
    """Can a result be trusted? In words, with its numbers, and what would answer what is not known.

    Did the search learn, would another seed say the same, do likelier gates matter more, and, of a study, how do the
    searched structures score against random ones, one pass of gradients, LoRA everywhere and full fine-tuning.
    """
    c.check_free(table, force=force)
    from rich.text import Text

    from s3pet_viz.analysis.answers import CODES
    from s3pet_viz.analysis.trust import trust as judge
    from s3pet_viz.cli import _output as o

    made = judge(sources[0] if len(sources) == 1 else sources, draws=draws)
    colours = {"good": "green", "note": "dim", "warning": "yellow", "problem": "bold red"}
    shown = o.plain_table("question", "answer", "in words")
    for answer, (question, code, verdict) in zip(made.answers, made.rows(), strict=True):
        shown.add_row(o.cell(question), Text(code, style=colours[CODES[answer.code]]), o.cell(verdict))
    c.say(o.cell(f"{made.name}: {made.verdict}."), shown)
    if parts and made.details:
        apart = o.plain_table("question", "about", "answer", "in words")
        for row in made.parts():
            apart.add_row(*map(o.cell, row))
        c.say(apart)
    for problem in made.problems:
        c.say(o.cell(f"left out: {problem}"))
    for name, command, took in made.remedies():
        c.say(f"to find out: {name}{took and ', ' + took}", f"  {command}")
    if table is not None:
        c.save_text(table, made.table.to_csv(index=False), force)
        c.say(f"table: {table}")
