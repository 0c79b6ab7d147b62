"""``s3pet cut`` and ``s3pet why-not``: the gates at the budget's edge, and why others were not chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3pet_viz.cli import _common as c
from s3pet_viz.cli.tune import Asked, defaults_of, split_asked

if TYPE_CHECKING:
    import pandas as pd

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or a recorded run's name.")]
Seeds = Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs of other seeds.")]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[GATE]...", help="Names or patterns. [default: all that are not chosen]")
]
Each = Annotated[int, typer.Option("--n", "-n", min=1, help="So many gates of each side.")]


@dataclass
class Measured(Asked):
    """What both commands take."""

    score: Annotated[
        bool,
        typer.Option("--score", help="Take gains from one pass of gradients (s3pet score), where the run has none."),
    ] = False
    measure: Annotated[
        int | None,
        c.option("Train the structure and so many of the swaps (or gates put in), and compare their losses.", min=1),
    ] = None
    trainings: Annotated[
        int | None, c.option("Seeds of these trainings. [default: 1, which cannot tell noise]", min=1)
    ] = None
    table: Annotated[Path | None, c.option("Write the table as CSV.")] = None

    def open(self, run: str) -> Any:
        from s3pet_viz.sources import RUN, open_source

        c.check_free(self.table, ending=".csv", force=self.force)
        return open_source(run, allow=RUN)

    def scores(self, source: Any, fields: dict[str, Any]) -> Any:
        """One pass of gradients, if asked for."""
        if not self.score:
            return None
        import s3pet_viz as s3

        where = defaults_of(source, self.task, self.backbone)
        c.use_threads(self.threads)
        load = {**where.pop("load"), **c.split_load(fields)[1]}
        where.pop("max_source_length", None)
        space = source.config.get("space", "S3PET-M")
        return s3.score(**where, space=space, load=load, progress=not self.quiet)

    def save(self, found: pd.DataFrame) -> None:
        if self.table is not None:
            c.save_text(self.table, found.to_csv(index=False), self.force)
            c.say(f"table: {self.table}")

    def train(self, source: Any, changes: list[dict[str, Any]], fields: dict[str, Any]) -> None:
        """Train the structure and its changes, and say what came of it, if asked for."""
        if self.measure is None:
            return
        if not changes:
            c.say("\nnothing to measure: no such gate")
            return
        defaults_of(source, self.task, self.backbone)  # says which option is missing
        c.use_threads(self.threads)

        import s3pet_viz as s3

        options, load = c.split_load({"task": self.task, "backbone": self.backbone, **fields})
        made = s3.what_if(
            source, changes[: self.measure], seeds=self.trainings or 1, load=load, progress=not self.quiet, **options
        )
        rows = []
        for row in made.to_dict("records"):
            difference = (_number(row["loss_change"]), _number(row["loss_change_se"], ""))
            rows.append([row["change"], f"{row['n_params']:,}", f"{row['over']:,}", f"{row['loss']:.4f}", *difference])
        c.say("")
        _print(["measured", "params", "over budget", "loss", "change", "±"], rows)
        error = made["se_of"].iloc[0]
        c.say(f"± standard error over {error}" + ("" if error == "seeds" else "; more --trainings tell it from noise"))


_FIELDS: dict[str, tuple[str, ...]] = {
    "search": c.LOADED,
    "tune": tuple(name for name in c.TUNE_FIELDS if name != "seed"),
}


@c.takes_fields(**_FIELDS)
@c.takes_options_of(Measured)
def cut(run: RunName, seeds: Seeds = None, n: Each = 8, **given: Any) -> None:
    """Show the last gates that the budget took and the first that it did not, and what a swap would cost."""
    asked, fields = split_asked(Measured, given)
    source = asked.open(run)

    from s3pet_viz.figures import cut_table

    found = cut_table(source, n=n, seeds=list(seeds or ()), scores=asked.scores(source, fields))
    many, explained = bool((found["of"] > 1).any()), bool(found["importance"].notna().any())
    columns = ["", "rank", "p", "params", *(["seeds"] if many else []), *(["loss +"] if explained else []), "gain"]
    rows = []
    for row in found.to_dict("records"):
        cells = [row["side"], f"{row['rank']:,}", f"{row['p']:.3f}", f"{row['n_params']:,}"]
        cells += [f"{row['seeds']} of {row['of']}"] if many else []
        cells += [_number(row["importance"]) + f" ± {_number(row['importance_se'], '')}"] if explained else []
        swap = f"for {row['swap_for']}: {_number(row['swap_cost'])}" if row["swap_for"] else ""
        rows.append([row["name"], *cells, _number(row["gain"]), swap])
    _print(["gate", *columns, "swap"], rows)
    c.say(f"gain: {found.attrs['gain']}; swap: the gain lost less the gain won")
    asked.save(found)
    swaps = [row for row in found.to_dict("records") if row["side"] == "out" and row["swap_for"]]
    asked.train(source, [{"add": row["name"], "remove": row["swap_for"].split(" + ")} for row in swaps], fields)


@c.takes_fields(**_FIELDS)
@c.takes_options_of(Measured)
def why_not(run: RunName, gates: Names = None, **given: Any) -> None:
    """Say why gates were not chosen: too large, too dear for what they give, or unimportant."""
    asked, fields = split_asked(Measured, given)
    source = asked.open(run)

    from s3pet_viz.analysis.why_not import why_not as reasons

    found = reasons(source, list(gates) if gates else None, scores=asked.scores(source, fields))
    rows = [[r["name"], r["reason"], _number(r["gain"]), r["why"]] for r in found.to_dict("records")]
    _print(["gate", "reason", "gain", "why"], rows)
    c.say(f"gain: {found.attrs['gain']}")
    asked.save(found)
    outside = found[~found["reason"].isin(["chosen", "pinned in", "cannot help"])]
    asked.train(source, [{"add": name} for name in outside["name"]], fields)


def _number(value: float, sign: str = "+") -> str:
    return "–" if value is None or value != value else format(value, f"{sign}.3g")


def _print(columns: list[str], rows: list[list[str]]) -> None:
    from s3pet_viz.cli import _output as o

    made = o.plain_table(*columns)
    for row in rows:
        made.add_row(*map(o.cell, row))
    c.say(made)
