"""``s3pet cut`` and ``s3pet why-not``: the gates at the budget's edge, and why others were not chosen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3pet_viz.cli import _common as c
from s3pet_viz.cli.tune import Trained, defaults_of, split_trained
from s3pet_viz.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or a recorded run's name.")]
Seeds = Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs of other seeds.")]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[GATE]...", help="Names or patterns. [default: all that are not chosen]")
]
Each = Annotated[int, typer.Option("--n", "-n", min=1, help="So many gates of each side.")]
Measure = Annotated[
    int | None,
    c.option("Train the structure and so many of the swaps (or gates put in), and compare their losses.", min=1),
]
Trainings = Annotated[int | None, c.option("Seeds of these trainings. [default: 1, which cannot tell noise]", min=1)]
Table = Annotated[Path | None, c.option("Write the table as CSV.")]
Scored = Annotated[
    bool, typer.Option("--score", help="Take gains from one pass of gradients (s3pet score), where the run has none.")
]


@c.takes_fields(search=c.LOADED, tune=tuple(name for name in c.TUNE_FIELDS if name != "seed"))
@c.takes_options_of(Trained)
def cut(
    run: RunName,
    seeds: Seeds = None,
    n: Each = 8,
    score: Scored = False,
    measure: Measure = None,
    trainings: Trainings = None,
    table: Table = None,
    **given: Any,
) -> None:
    """Show the last gates that the budget took and the first that it did not, and what a swap would cost."""
    asked, fields = split_trained(given)
    source = _opened(run, asked, table)

    from s3pet_viz.figures import cut_table

    found = cut_table(source, n=n, seeds=list(seeds or ()), scores=_scores(source, asked, fields) if score else None)
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
    _save(found, table, asked.force)
    if measure is not None:
        swaps = [row for row in found.to_dict("records") if row["side"] == "out" and row["swap_for"]][:measure]
        changes = [{"add": row["name"], "remove": row["swap_for"].split(" + ")} for row in swaps]
        _measure(source, changes, trainings, asked, fields)


@c.takes_fields(search=c.LOADED, tune=tuple(name for name in c.TUNE_FIELDS if name != "seed"))
@c.takes_options_of(Trained)
def why_not(
    run: RunName,
    gates: Names = None,
    score: Scored = False,
    measure: Measure = None,
    trainings: Trainings = None,
    table: Table = None,
    **given: Any,
) -> None:
    """Say why gates were not chosen: too large, too dear for what they give, or unimportant."""
    asked, fields = split_trained(given)
    source = _opened(run, asked, table)

    from s3pet_viz.analysis.why_not import why_not as reasons

    found = reasons(source, list(gates) if gates else None, scores=_scores(source, asked, fields) if score else None)
    rows = [[r["name"], r["reason"], _number(r["gain"]), r["why"]] for r in found.to_dict("records")]
    _print(["gate", "reason", "gain", "why"], rows)
    c.say(f"gain: {found.attrs['gain']}")
    _save(found, table, asked.force)
    if measure is not None:
        outside = found[~found["reason"].isin(["chosen", "pinned in", "cannot help"])]
        _measure(source, [{"add": name} for name in outside["name"][:measure]], trainings, asked, fields)


def _opened(run: str, asked: Trained, table: Path | None) -> Any:
    from s3pet_viz.sources import RUN, open_source

    if asked.out is not None or asked.budget is not None:
        given = "--out" if asked.out is not None else "--budget"
        raise ConfigError(f"{given}: cannot be used here; expected --table, and the run's own budget")
    c.check_free(table, ending=".csv", force=asked.force)
    return open_source(run, allow=RUN)


def _scores(source: Any, asked: Trained, fields: dict[str, Any]) -> Any:
    import s3pet_viz as s3

    where = defaults_of(source, asked.task, asked.backbone)
    c.use_threads(asked.threads)
    load = {**where.pop("load"), **c.split_load(fields)[1]}
    where.pop("max_source_length", None)
    space = source.config.get("space", "S3PET-M")
    return s3.score(**where, space=space, load=load, progress=not asked.quiet)


def _measure(
    source: Any, changes: list[dict[str, Any]], trainings: int | None, asked: Trained, fields: dict[str, Any]
) -> None:
    if not changes:
        c.say("\nnothing to measure: no such gate")
        return
    defaults_of(source, asked.task, asked.backbone)  # says which option is missing
    c.use_threads(asked.threads)

    import s3pet_viz as s3

    options, load = c.split_load({"task": asked.task, "backbone": asked.backbone, **fields})
    made = s3.what_if(source, changes, seeds=trainings or 1, load=load, progress=not asked.quiet, **options)
    rows = []
    for row in made.to_dict("records"):
        difference = (_number(row["loss_change"]), _number(row["loss_change_se"], ""))
        rows.append([row["change"], f"{row['n_params']:,}", f"{row['over']:,}", f"{row['loss']:.4f}", *difference])
    c.say("")
    _print(["measured", "params", "over budget", "loss", "change", "±"], rows)
    error = made["se_of"].iloc[0]
    c.say(f"± standard error over {error}" + ("" if error == "seeds" else "; more --trainings tell it from noise"))


def _number(value: float, sign: str = "+") -> str:
    return "–" if value is None or value != value else format(value, f"{sign}.3g")


def _print(columns: list[str], rows: list[list[str]]) -> None:
    from s3pet_viz.cli import _output as o

    made = o.plain_table(*columns)
    for row in rows:
        made.add_row(*map(o.cell, row))
    c.say(made)


def _save(found: pd.DataFrame, table: Path | None, force: bool) -> None:
    if table is not None:
        c.save_text(table, found.to_csv(index=False), force)
        c.say(f"table: {table}")
