"""``s3pet positions``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s3pet_viz.cli import _common as c

Name = Annotated[str, typer.Argument(help=c.BACKBONE_HELP)]
Family = Annotated[Path | None, c.option(c.FAMILY_HELP, metavar="FILE")]
Revision = Annotated[str | None, c.option("Branch, tag or commit for a Hugging Face name.")]


def positions(name: Name, revision: Revision = None, family: Family = None) -> None:
    """List where PET modules can go in a backbone, and what is left out and why. No weights are read."""
    import s3pet_viz as s3
    from s3pet_viz.cli import _output as o

    found = s3.positions(name, revision=revision, family=family)
    made = o.plain_table(*found.table().columns, right=2)
    made.columns[0].overflow = "fold"
    for row in found.table().itertuples(index=False):
        made.add_row(*map(o.cell, row))
    c.say(repr(found), made)
    if found.left_out:
        left = o.plain_table("left out", "because")
        for at, reason in found.left_out.items():
            left.add_row(o.cell(at), o.cell(reason))
        c.say(left)
