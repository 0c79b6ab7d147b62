"""``s3pet explain``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3pet_viz.cli import _common as c
from s3pet_viz.cli.tune import Trained, defaults_of, split_asked
from s3pet_viz.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from s3pet_viz.analysis.explanation import Explanation

Target = Annotated[str, typer.Argument(metavar="RUN_OR_STRUCTURE", help="A run or a structure file.")]
Rows = Annotated[int | None, c.option("Measure at most so many validation rows. [default: all]", min=1)]
NoMetric = Annotated[bool, typer.Option("--no-metric", help="Leave out the change of the task's score; faster.")]


@c.takes_fields(search=c.LOADED, tune=c.TUNE_FIELDS)
@c.takes_options_of(Trained)
def explain(target: Target, rows: Rows = None, no_metric: NoMetric = False, **given: Any) -> None:
    """Tune a structure, then close its gates one at a time and see how much the validation loss rises.

    The result for a run's own structure on its own task is kept in the run folder, as explain.json.
    """
    asked, fields = split_asked(Trained, given)
    source, _, run = asked.open(target)
    defaults_of(source, asked.task, asked.backbone)  # says which option is missing
    c.use_threads(asked.threads)

    from s3pet_viz.cli import _output as o
    from s3pet_viz.tuning.explain import explain as measure

    own = {name: getattr(asked, name) for name in ("task", "backbone", "budget")}
    options, load = c.split_load({**own, "rows": rows, **fields})
    made = measure(source, metric=not no_metric, load=load, progress=not asked.quiet, **options)
    c.say(effects_table(made), made.summary, "")
    facts: dict[str, object] = {
        "all gates open": f"loss {made.loss:.4f} {made.unit}"
        + ("" if no_metric else f", score {made.score:.4f} ({', '.join(made.metrics)})")
        + f", {made.n_rows:,} validation {made.measured} of {made.task}",
        "tuned": f"{made.steps:,} steps, weights of step {made.best_step:,}, seed {made.seed}",
        "loss +": f"mean rise of the loss when this gate alone is closed, in {made.unit}; ± its standard error",
        "score": None if no_metric else "change of the score when this gate alone is closed",
        "gradient": "the first-order estimate of that, -dL/dz; nears 0 as training converges",
    }
    c.say(o.facts_table(facts))
    if run is not None:
        c.say(f"\nexplanation: {made.save(run)}")
    if asked.out is not None:
        c.check_free(asked.out, force=asked.force)
        try:
            made.save(asked.out)
        except OSError as error:
            raise ConfigError(f"{asked.out}: cannot be written ({error.strerror})") from None
        c.say(f"\nexplanation: {asked.out}")


def effects_table(made: Explanation) -> Table:
    """One row per gate, the one that matters most first."""
    from rich.text import Text

    from s3pet_viz.cli._output import plain_table

    names = ("p", "rank", "loss +", "±", "score", "gradient")
    table = plain_table("gate", *names, right=len(names))
    for e in sorted(made.effects, key=lambda e: -e.loss_increase):
        cells = (f"{e.gate.column} {e.gate.module} {e.gate.key[1]}", *e.texts())
        table.add_row(*map(Text, cells), style="" if e.clear else "dim")
    return table
