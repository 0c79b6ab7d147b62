"""``s3pet fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from s3pet_viz.cli import _common as c

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="A run or a structure file.", show_default=False)]
To = Annotated[str, typer.Option("--backbone", help="The backbone to fit it to; no weights are read.")]
Out = Annotated[Path, typer.Option(help="The structure file to write.", show_default=False)]
Budget = Annotated[str | None, c.option("Of the new structure: 0.1%, 1e-3 or 8404. [default: the same share]")]
Ranks = Annotated[Literal["keep", "scale"], typer.Option(help="What becomes of LoRA's ranks.")]
Origin = Annotated[str | None, c.option("The backbone that it is for, where its name cannot be opened.")]


def fit(
    source: Source,
    backbone: To,
    out: Out,
    budget: Budget = None,
    ranks: Ranks = "keep",
    origin: Origin = None,
    force: c.Force = False,
) -> None:
    """Carry a structure to another backbone of its kind, as from a small model to a larger one."""
    from s3pet_viz.cli import _output as o
    from s3pet_viz.sources import open_source, structure_of

    c.check_free(out, ending=".json", force=force)
    before = structure_of(open_source(source))
    made = before.fit_to(backbone, budget, ranks, origin=origin)
    c.save_json(out, made.to_dict(), force)
    for gate, reason in made.source["fit"]["left_out"].items():
        c.complain("left out", f"{gate}: {reason}")
    c.say(o.facts_table({"from": source, "gates there": len(before), **o.structure_facts(made)}))
    c.say(f"structure: {out}")
