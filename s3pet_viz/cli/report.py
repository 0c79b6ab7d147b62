"""``s3pet report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s3pet_viz.cli import _common as c

Runs = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Run folders, or names of recorded runs.", show_default=False)
]
Out = Annotated[Path, typer.Option(help="The file to write.")]
Title = Annotated[str | None, c.option("Title of the page. [default: the run's name]")]


def report(
    runs: Runs, out: Out = Path("report.html"), title: Title = None, state: c.ViewState = None, force: c.Force = False
) -> None:
    """Write one HTML file about a search, or about several side by side.

    It holds all figures and tables, and opens without a network.
    """
    from s3pet_viz.reports import report as write

    c.check_free(out, ending=".html", force=force)
    c.say(f"report: {write(runs, out, title=title, state=c.view_state(state))}")
