"""The command line, ``s3pet``. One file per command.

Nothing here imports torch, pandas or plotly before a command runs, so that ``s3pet --help`` answers at once.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from s3pet_viz.cli import (
    baselines,
    control,
    cut,
    dashboard,
    demo,
    difference,
    exchange,
    explain,
    fit,
    positions,
    report,
    runs,
    score,
    search,
    show,
    study,
    trust,
    tune,
    watch,
    ways,
)
from s3pet_viz.cli._common import command

app = typer.Typer(
    name="s3pet",
    help="Search where PET modules belong in a pretrained transformer, under an exact parameter budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _function in (
    demo.demo,
    search.search,
    tune.tune,
    score.score,
    baselines.baselines,
    study.sweep,
    study.transfer,
    show.show,
    runs.runs,
    dashboard.dashboard,
    positions.positions,
    trust.trust,
    difference.difference,
    difference.forest,
    ways.ways,
    explain.explain,
    cut.cut,
    cut.why_not,
    fit.fit,
    watch.watch,
    report.report,
    control.pause,
    control.resume,
    control.stop,
):
    app.command()(command(_function))
app.command("import")(command(exchange.import_))
app.command("export")(command(exchange.export))


def _version(wanted: bool) -> None:
    if wanted:
        import s3pet_viz

        typer.echo(f"s3pet_viz {s3pet_viz.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Search where PET modules belong in a pretrained transformer, under an exact parameter budget."""


def main() -> None:
    """Entry point of ``s3pet`` and of ``python -m s3pet_viz``. Exit codes: 2 wrong input, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without the heatmap's signs shows ? for them
    try:
        app(prog_name="s3pet")
    except KeyboardInterrupt:  # before a command began
        sys.exit(130)
