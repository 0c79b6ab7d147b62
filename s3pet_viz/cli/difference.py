"""``s3pet difference`` and ``s3pet forest``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3pet_viz.cli import _common as c

if TYPE_CHECKING:
    import pandas as pd

RunsA = Annotated[str, typer.Argument(metavar="RUNS_A", help="Runs of several seeds, separated by commas.")]
RunsB = Annotated[str, typer.Argument(metavar="RUNS_B", help="The others; they differ in task, budget or mode.")]
Budget = Annotated[str | None, c.option("Solve all runs again at this budget: 0.1%, 1e-3 or 8404.")]
Table = Annotated[Path | None, c.option("Write the numbers as CSV.")]
Html = Annotated[Path | None, c.option("Write the figure as a page of its own, which needs no network.")]
_MOST_GATES = 20


def difference(
    runs_a: RunsA, runs_b: RunsB, budget: Budget = None, table: Table = None, html: Html = None, force: c.Force = False
) -> None:
    """Which gates differ between two sets of seeds by more than seeds alone would make them?

    Lists the gates that remain after correction for the number of gates, the largest difference of p first.
    """
    c.check_free(table, html, force=force)
    from s3pet_viz import figures
    from s3pet_viz.cli import _output as o
    from s3pet_viz.figures.difference import told

    sides = c.words(runs_a), c.words(runs_b)
    made = figures.difference_table(*sides, budget=budget)
    c.say(told(made))
    found = made[made["remains"]].sort_values("difference", key=abs, ascending=False)
    if len(found):
        shown = o.plain_table("layer", "module, PET type", "p in A", "p in B", "difference", "log-odds", "q", right=5)
        for row in found.head(_MOST_GATES).to_dict("records"):
            numbers = (f"{row['p_a']:.3f}", f"{row['p_b']:.3f}", f"{row['difference']:+.3f}")
            interval = f"{row['log_odds']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
            shown.add_row(*map(o.cell, (row["column"], row["row"], *numbers, interval, f"{row['q']:.2g}")))
        if len(found) > _MOST_GATES:
            shown.add_row("...", f"and {len(found) - _MOST_GATES} more")
        c.say(shown)
    _write(made, lambda: figures.difference(*sides, budget=budget), table, html, force)


Study = Annotated[str, typer.Argument(metavar="STUDY", help="A study's folder, or a recorded study's name.")]
Method = Annotated[str, typer.Option(help="A method of the study, or the task whose structures others trained.")]
Against = Annotated[str, typer.Option(help="What it is held against; several with commas.")]
Loss = Annotated[bool, typer.Option("--loss", help="Of the held-out loss in place of the score.")]


def forest(
    study: Study,
    method: Method = "searched",
    against: Against = "random",
    loss: Loss = False,
    table: Table = None,
    html: Html = None,
    force: c.Force = False,
) -> None:
    """Paired differences of a study: a row a task, and one for all of them, with intervals."""
    c.check_free(table, html, force=force)
    from s3pet_viz import figures
    from s3pet_viz.cli import _output as o
    from s3pet_viz.figures.forest import said

    asked: dict[str, Any] = {"method": method, "against": c.words(against), "value": "loss" if loss else "score"}
    made = figures.forest_table(study, **asked)
    shown = o.plain_table("task", f"{method} less", "difference (95 %)", "settled", "n", right=1)
    for row in made.to_dict("records"):
        unit = " points" if row["unit"] == "points" and row["difference"] == row["difference"] else ""
        other = row["b"] + (f", at {row['nearest']}" if row["nearest"] else "")
        cells = (row["label"], other, said(row) + unit, "yes" if row["settled"] else "no")
        shown.add_row(*map(o.cell, (*cells, int(row["n_pairs"]) or f"{row['n_a']}/{row['n_b']}")))
    c.say(shown)
    _write(made, lambda: figures.forest(study, **asked), table, html, force)


def _write(made: pd.DataFrame, draw: Any, table: Path | None, html: Path | None, force: bool) -> None:
    if table is not None:
        c.save_text(table, made.to_csv(index=False), force)
        c.say(f"table: {table}")
    if html is not None:
        c.save_text(html, draw().to_html(include_plotlyjs=True), force)
        c.say(f"figure: {html}")
