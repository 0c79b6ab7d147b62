"""``s3pet baselines``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3pet_viz.cli import _common as c
from s3pet_viz.config.names import LAYER_SCORES
from s3pet_viz.errors import ConfigError

if TYPE_CHECKING:
    from s3pet_viz.structure import Structure
    from s3pet_viz.training.scores import Scores

DEFAULT_BUDGET = "0.1%"

Budget = Annotated[
    str | None,
    c.option(
        "Of the random structures, one-pass scores, LoRA-everywhere and AdaLoRA: 0.1%, 1e-3 or 8404. "
        "[default: as --structure, or 0.1%]"
    ),
]
Seeds = Annotated[int, typer.Option(help="Train each so many times, with seeds 0, 1, ...", min=1)]
Random = Annotated[int, typer.Option("--n-random", help="How many random structures.", min=1)]
Methods = Annotated[
    str | None,
    c.option(
        "With commas, of: untouched, head, LoRA, Adapter, LowRankAdapter, Compacter, BitFit, LNFit, random, full "
        "[default: these], and the one-pass scores gradient, fisher, sensitivity, gradient/param, fisher/param, "
        f"sensitivity/param; in a space of LoRA alone {', '.join(LAYER_SCORES)}; LoRA-everywhere, on "
        "every linear layer at the rank nearest to the budget; AdaLoRA (needs PEFT)."
    ),
]
With = Annotated[
    list[str] | None, c.option("Compare a run or structure file too; may be repeated.", metavar="STRUCTURE_OR_RUN")
]
Out = Annotated[Path | None, c.option("Write the table as CSV, one row per training.")]


@c.takes_fields(search=("space", "pin", *c.LOADED), tune=(name for name in c.TUNE_FIELDS if name != "seed"))
def baselines(
    task: c.Task = None,
    backbone: c.Backbone = None,
    budget: Budget = None,
    methods: Methods = None,
    n_random: Random = 3,
    seeds: Seeds = 3,
    structure: With = None,
    out: Out = None,
    threads: c.Threads = None,
    quiet: c.Quiet = False,
    force: c.Force = False,
    **fields: Any,
) -> None:
    """Train what a searched structure is compared with.

    Structures set by hand, random structures of the same budget, all weights, and none; if asked for, one-pass scores:
    structures of the same budget that are picked without a search, by one pass of scores over all gates.
    """
    c.check_free(out, ending=".csv", force=force)
    if task is None:
        raise ConfigError(f"--task: expected a task, found none. {c.TASK_HELP}")
    compared = _structures(structure or [])
    budgets = [made.budget for made in compared.values() if made.budget]
    c.use_threads(threads)

    import s3pet_viz as s3
    from s3pet_viz.cli import _output as o
    from s3pet_viz.tuning import summary

    def line(scores: Scores) -> None:
        c.say(f"{scores.method}, seed {scores.seed}: score {scores.score:.4f} ({scores.seconds:.0f} s)")

    options, load = c.split_load(fields)
    table = s3.baselines(
        task=task,
        backbone=backbone or c.DEFAULT_BACKBONE,
        budget=budget or (budgets[0] if budgets else DEFAULT_BUDGET),
        seeds=seeds,
        n_random=n_random,
        structures=compared,
        load=load,
        progress=not quiet,
        on_scores=None if quiet else line,
        **c.given(methods=None if methods is None else c.words(methods)),
        **options,
    )
    made = summary(table)
    c.say(f"\n{task}: score on held-out rows, mean ± spread over n trainings", o.summary_table(made))
    for method, words in table.loc[table["words"] != "", ["method", "words"]].drop_duplicates().itertuples(index=False):
        c.say(f"{method}: {words}.")
    if (made["head_params"] > 0).any():
        c.say("The head is trained too and counted apart; the pooler is frozen except in full fine-tuning.")
    if out is not None:
        c.save_text(out, table.to_csv(index=False), force)
        c.say(f"table: {out}")


def _structures(paths: list[str]) -> dict[str, Structure]:
    from s3pet_viz.runs import Run
    from s3pet_viz.sources import open_source, structure_of

    made: dict[str, Structure] = {}
    for path in paths:
        source = open_source(path, what="structure")
        name = source.name if isinstance(source, Run) else Path(path).stem
        if name in made:
            name = str(path)
        made[name] = structure_of(source)
    return made
