"""``s3pet ways``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from s3pet_viz.cli import _common as c

Study = Annotated[str, typer.Argument(metavar="STUDY", help="A study's folder, or a recorded study's name.")]
Task = Annotated[str | None, c.option("Which of its tasks, where it has several.")]
Budget = Annotated[str | None, c.option("As the study writes it: 0.2%. [default: that of most trainings]")]
Seed = Annotated[int | None, c.option("The trainings of this seed alone.")]
Methods = Annotated[str | None, c.option("Which methods, in this order, separated by commas.")]
Space = Annotated[
    str | None, c.option("A run whose search space random structures are drawn from, if the study has none.")
]
Compute = Annotated[
    bool, typer.Option("--compute", help="Score gora and plop here, where the study lacks them: a pass for each seed.")
]
By = Annotated[str, typer.Option(help="Sum over tasks by module, layer or place (with --modules).")]
Modules = Annotated[bool, typer.Option("--modules", help="Over all tasks: which module leads, and how stable that is.")]
Table = Annotated[Path | None, c.option("Write the numbers as CSV.")]
Html = Annotated[Path | None, c.option("Write the figure as a page of its own, which needs no network.")]


def ways(
    study: Study,
    task: Task = None,
    budget: Budget = None,
    seed: Seed = None,
    methods: Methods = None,
    space: Space = None,
    compute: Compute = False,
    modules: Modules = False,
    by: By = "module",
    table: Table = None,
    html: Html = None,
    force: c.Force = False,
) -> None:
    """Hold the ways to place of a study beside each other: search, scores, random, LoRA everywhere.

    Of one task and budget: what each scored, its size, and how far its gates overlap with the first's and by chance.
    """
    c.check_free(table, html, force=force)
    from s3pet_viz import figures
    from s3pet_viz.analysis.ways_gathered import ways_of
    from s3pet_viz.cli import _output as o
    from s3pet_viz.errors import ConfigError

    asked: dict[str, Any] = {"budget": budget, "methods": None if methods is None else c.words(methods)}
    alone: dict[str, Any] = {"task": task, "seed": seed, "space": space, "compute": compute or None}
    if modules:
        for name, value in alone.items():
            if value is not None:
                raise ConfigError(f"--{name}: cannot be used with --modules, which sums over all tasks and seeds")
        made = figures.modules_table(study, by=by, **asked)  # type: ignore[arg-type]
        shown = o.plain_table("method", "task", "in words")
        for row in made[made["says"] != ""].drop_duplicates(["method", "of", "task"]).to_dict("records"):
            shown.add_row(*map(o.cell, (row["method"], row["task"], row["says"])))
        c.say(shown)
    else:
        gathered = ways_of(study, **{**asked, **alone, "compute": compute})
        made = figures.ways_table(gathered)
        first = made["method"].iloc[0]
        shown = o.plain_table("method", "score (95 %)", "params", "budget", "overlap", "chance", right=5)
        for row in made.to_dict("records"):
            score = "–" if not row["n"] else f"{row['score']:.3f}"
            if row["low"] == row["low"]:
                score += f" ({row['low']:.3f} to {row['high']:.3f})"
            numbers = (_number(row["of_budget"], ".0%"), _number(row["overlap"], ".2f"), _number(row["chance"], ".2f"))
            shown.add_row(*map(o.cell, (row["method"], score, f"{row['params']:,.0f}", *numbers)))
        c.say(shown, o.cell(f"budget: the share of it; overlap: of the gates with {first}'s; chance: of random ones"))
        for name, why in made.attrs["left_out"].items():
            c.say(o.cell(f"left out: {name}, which {why}"))
        missing = made.attrs["missing"]
        for how in dict.fromkeys(missing.values()):
            c.say(o.cell(f"not there: {', '.join(name for name in missing if missing[name] == how)}; made by: {how}"))
    if table is not None:
        c.save_text(table, made.to_csv(index=False), force)
        c.say(f"table: {table}")
    if html is not None:
        figure = figures.modules(study, by=by, **asked) if modules else figures.ways(gathered)  # type: ignore[arg-type]
        c.save_text(html, figure.to_html(include_plotlyjs=True), force)
        c.say(f"figure: {html}")


def _number(value: float, form: str) -> str:
    return format(value, form) if value == value else "–"
