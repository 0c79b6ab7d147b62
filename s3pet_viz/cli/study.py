"""``s3pet sweep`` and ``s3pet transfer``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3pet_viz.cli import _common as c
from s3pet_viz.errors import ConfigError

if TYPE_CHECKING:
    from s3pet_viz.analysis import Study, Transfer

Steps = Annotated[int | None, c.option("Steps of each search. [default: 200]", min=1)]
TuneSteps = Annotated[str | None, c.option("Steps of each training, or auto. [default: 300]")]
Out = Annotated[
    Path | None, c.option("The study's folder; one that is there goes on. [default: a new one under studies/]")
]
Seeds = Annotated[int, typer.Option(help="Seeds 0, 1, ...", min=1)]
Random = Annotated[int, typer.Option("--random", help="Random structures per budget and seed.", min=1)]
Workers = Annotated[int | None, c.option("Processes. [default: one a core, or one where there is a GPU]", min=1)]
Retry = Annotated[bool, typer.Option("--retry", help="Do failed cells again.")]
Table = Annotated[Path | None, c.option("Write the table of all trainings to this CSV file.")]


def _shared(
    *,
    backbone: c.Backbone = None,
    seeds: Seeds = 3,
    n_random: Random = 1,
    space: c.Space = None,
    steps: Steps = None,
    tune_steps: TuneSteps = None,
    lr: c.Lr = None,
    batch_size: c.BatchSize = None,
    split: c.Split = None,
    max_rows: c.MaxRows = None,
    device: c.Device = None,
    precision: c.Precision = None,
    out: Out = None,
    workers: Workers = None,
    retry: Retry = False,
    quiet: c.Quiet = False,
) -> dict[str, Any]:
    """Keywords of `s3.sweep` and `s3.transfer` from the options that both commands have."""
    some = {"space": space, "steps": steps, "tune_steps": tune_steps, "lr": lr, "batch_size": batch_size}
    some |= {"split": split, "device": device, "precision": precision, "out": out, "workers": workers}
    always = {"backbone": backbone or c.DEFAULT_BACKBONE, "seeds": seeds, "n_random": n_random}
    return {**always, "retry": retry, "progress": not quiet, "load": c.given(max_rows=max_rows), **c.given(**some)}


@c.takes_options_of(_shared)
def sweep(
    tasks: Annotated[str | None, c.option("Tasks, separated by commas: names or folders.")] = None,
    budgets: Annotated[str, typer.Option(help="Budgets, separated by commas.")] = "0.1%",
    modes: Annotated[str, typer.Option(help="Modes of the search, separated by commas.")] = "fast",
    methods: Annotated[
        str,
        typer.Option(
            help="searched, resolved, random, gradient, fisher, sensitivity (also .../param), gora, plop, domlora, "
            "eva, LoRA-everywhere, AdaLoRA, LoRA, BitFit, full, ..."
        ),
    ] = "searched,random",
    search_budget: Annotated[
        str | None, c.option("The searches' budget that 'resolved' reads. [default: the largest]")
    ] = None,
    table: Table = None,
    force: c.Force = False,
    **shared: Any,
) -> None:
    """Search and train over tasks, budgets, seeds and modes. The same line again goes on where it ended."""
    c.check_free(table, ending=".csv", force=force)
    if tasks is None:
        raise ConfigError(f"--tasks: expected at least one, found none. {c.TASK_HELP}")
    import s3pet_viz as s3

    study = s3.sweep(
        tasks=c.words(tasks),
        budgets=c.words(budgets),
        modes=c.words(modes),
        methods=c.words(methods),
        **c.given(search_budget=search_budget),
        **_shared(**shared),
    )
    _say_study(study)
    rows = study.table()
    if {"searched", "random"} <= set(rows["method"]):
        from s3pet_viz.analysis.statistics import scale_of, sentence

        for _, row in study.differences(scale=scale_of(rows["score"])).iterrows():
            where = (row[name] for name in ("task", "budget", "mode") if row.get(name))
            c.say(f"{' '.join(map(str, where))}: {sentence(row)}")
    _end(study, table, force)


@c.takes_options_of(_shared)
def transfer(
    targets: Annotated[str | None, c.option("Target tasks, separated by commas.")] = None,
    sources: Annotated[
        str | None, c.option("Tasks, run folders, structure files, consensus. [default: the targets and consensus]")
    ] = None,
    budget: Annotated[str, typer.Option(help=c.BUDGET_HELP)] = "0.1%",
    mode: Annotated[str | None, c.option("Mode of the search. [default: fast]")] = None,
    references: Annotated[
        str, typer.Option(help="What the matrix is held against: random, full, head, gradient, LoRA, ...")
    ] = "random,full",
    table: Table = None,
    html: Annotated[Path | None, c.option("Write the matrix as an HTML page.")] = None,
    force: c.Force = False,
    **shared: Any,
) -> None:
    """Train the structures of source tasks on target tasks. The same line again goes on where it ended."""
    c.check_free(table, ending=".csv", force=force)
    c.check_free(html, ending=".html", force=force)
    if targets is None:
        raise ConfigError(f"--targets: expected at least one task, found none. {c.TASK_HELP}")
    import s3pet_viz as s3

    made = s3.transfer(
        targets=c.words(targets),
        budget=budget,
        references=c.words(references),
        **c.given(sources=None if sources is None else c.words(sources), mode=mode),
        **_shared(**shared),
    )
    _say_failed(made.study)
    c.say(f"\nscore on held-out rows at {budget}; rows: where the structure comes from, columns: where it is trained")
    c.say(_matrix(made))
    if html is not None:
        c.save_text(html, s3.figures.transfer(made).to_html(include_plotlyjs=True), force)
        c.say(f"matrix: {html}")
    _end(made.study, table, force)


def _say_study(study: Study) -> None:
    from s3pet_viz.cli import _output as o

    made = o.plain_table("task", "budget", "method", "n", "score", "loss", "parameters", right=4)
    for row in study.summary().to_dict("records"):
        spread = "" if row["spread"] != row["spread"] else f" ±{row['spread']:.4f}"
        method = f"{row['method']} ({row['mode']})" if row["mode"] else str(row["method"])
        numbers = (f"{row['n']}", f"{row['score']:.4f}{spread}", f"{row['loss']:.4f}", f"{row['pet_params']:,.0f}")
        made.add_row(*(o.cell(w) for w in (row["task"], row["budget"], method, *numbers)))
    _say_failed(study)
    c.say("", made)


def _say_failed(study: Study) -> None:
    for row in study.failed().to_dict("records"):
        c.complain("failed", f"{row['key']}: {row['error']}")


def _matrix(made: Transfer) -> Any:
    from s3pet_viz.cli import _output as o

    numbers, spread, counts = made.matrix(), made.spread(), made.counts()
    table = o.plain_table("", *made.targets, right=len(made.targets))
    for name in numbers.index:
        cells = []
        for target in made.targets:
            mean, n = numbers.loc[name, target], counts.loc[name, target]
            std = f" ±{spread.loc[name, target]:.4f}" if n > 1 else ""
            cells.append("–" if mean != mean else f"{mean:.4f}{std}")
        table.add_row(*(o.cell(w) for w in (name, *cells)))
    return table


def _end(study: Study, table: Path | None, force: bool) -> None:
    if table is not None:
        c.save_text(table, study.table().to_csv(index=False), force)
        c.say(f"table: {table}")
    c.say(f"{study!r}: {study.path}")
    if study.status()["failed"]:
        c.say("Failed cells are done again with --retry.")
