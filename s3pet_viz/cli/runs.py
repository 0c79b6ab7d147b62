"""``s3pet runs``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3pet_viz.cli import _common as c
from s3pet_viz.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from s3pet_viz.analysis.run_table import RunTable

Folder = Annotated[Path, typer.Argument(help="A folder that holds run folders.")]
Sort = Annotated[str | None, c.option("Sort by a column: task, score, agreement, ...")]
Where = Annotated[str | None, c.option("Only runs with these values: task=sentiment,seed=0 (tag=... asks for a tag).")]
Archived = Annotated[bool, typer.Option("--archived", help="With those that are put away.")]
Table = Annotated[Path | None, c.option("Write the table as CSV.")]
Html = Annotated[Path | None, c.option("Write the table, with a small heatmap of each, as an HTML page.")]
On = Annotated[list[str] | None, c.option("A run, as the table names it, that the options below are about.")]
Name = Annotated[str | None, c.option("Call it so.")]
Note = Annotated[str | None, c.option("Write this on it.")]
Tags = Annotated[str | None, c.option("Its tags, between commas; all of them.")]
Archive = Annotated[bool | None, typer.Option("--archive/--restore", help="Put it away, or take it out again.")]
Delete = Annotated[bool, typer.Option("--delete", help="Delete it for good; asks twice.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
_SHOWN = ("run", "task", "backbone", "budget", "mode", "seed", "status", "score", "agreement", "tags")


def runs(
    folder: Folder = Path("runs"),
    sort: Sort = None,
    where: Where = None,
    archived: Archived = False,
    table: Table = None,
    html: Html = None,
    on: On = None,
    name: Name = None,
    note: Note = None,
    tags: Tags = None,
    archive: Archive = None,
    delete: Delete = False,
    yes: Yes = False,
    force: c.Force = False,
) -> None:
    """List the runs of a folder; name, tag, put away or delete some."""
    from s3pet_viz.analysis.run_table import open_runs

    c.check_free(table, ending=".csv", force=force)
    c.check_free(html, ending=".html", force=force)
    changes: dict[str, Any] = {"name": name, "note": note, "archived": archive}
    changes["tags"] = None if tags is None else tuple(filter(None, map(str.strip, tags.split(","))))
    changes = {key: value for key, value in changes.items() if value is not None}
    if bool(on) != bool(changes or delete):
        wanted = "a change (--name, --tags, --delete, ...)" if on else "--on RUN, the run to change"
        raise ConfigError(f"runs: expected {wanted}, found none")
    found = open_runs(folder, archived=archived or archive is False)
    if on:
        for run in on:
            found.row(run)  # before anything is changed
        for run in on if changes else ():
            found.mark(run, **changes)
        if delete:
            _delete(found, on, yes)
        c.say(f"{'deleted' if delete else 'changed'}: {', '.join(on)}")
        return
    if where is not None:
        parts = [part.partition("=") for part in where.split(",")]
        if not all(column.strip() and mark for column, mark, _ in parts):
            raise ConfigError(f"--where: expected column=value, between commas, found {where!r}")
        found = found.where(**{column.strip(): value.strip() for column, _, value in parts})
    found = found if sort is None else found.sort(sort)
    rows = found.table()
    if table is not None:
        c.save_text(table, rows.to_csv(index=False), force)
    if html is not None:
        from s3pet_viz.cli._output import page

        c.save_text(html, page(f"Runs of {folder}", found._repr_html_()), force)
    _say(found, rows)


def _delete(found: RunTable, runs: list[str], yes: bool) -> None:
    """Twice, so that a key that was hit too often deletes nothing."""
    try:
        found.delete(*runs)
    except ConfigError as asks:
        c.say(str(asks).partition(". If")[0].removeprefix("delete: "))
    if not yes:
        typer.confirm("Delete?", abort=True)
        word = typer.prompt(f"This cannot be undone. Type {len(runs)} to delete {len(runs)} run(s)")
        if str(word).strip() != str(len(runs)):
            raise ConfigError(f"delete: expected {len(runs)}, found {word!r}; nothing was deleted")
    found.delete(*runs, sure=True)


def _say(found: RunTable, rows: pd.DataFrame) -> None:
    """What all runs have in common is said once, below."""
    from rich.text import Text

    from s3pet_viz.analysis.run_table import said
    from s3pet_viz.cli._output import cell, plain_table

    texts: list[dict[str, str]] = [
        {str(key): said(value) for key, value in row.items()} for row in rows.to_dict("records")
    ]
    for row in texts:
        row["run"] += f" ({row['name']})" if row["name"] != row["run"].rpartition("/")[2] else ""
    values = {name: {row[name] for row in texts} for name in _SHOWN}
    shown = [name for name in _SHOWN if name == "run" or len(values[name]) > 1]
    made = plain_table(*shown)
    made.columns[0].no_wrap, made.columns[0].overflow = True, "fold"
    made.columns[0].min_width = max(len(row["run"]) for row in texts)
    for row in texts:
        made.add_row(*(cell(row[name]) for name in shown))
    common = [f"{name} {value}" for name in _SHOWN[1:] for value in values[name] if name not in shown and value]
    c.say(made, Text(" · ".join([f"{len(rows)} run{'s' * (len(rows) > 1)}", *common])))
    for problem in found.problems[:5]:
        c.complain("left out", problem)
