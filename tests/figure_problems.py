"""Every public figure, in forms that look different, of recorded runs and studies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import plotly.graph_objects as go
from transfer_problems import even, write_transfer

import s3pet_viz as s3
from s3pet_viz import figures
from s3pet_viz.analysis.explanation import Explanation, GateEffect

#: Names in `figures` that draw: the browser test and the themes leave none out.
DRAWING = {name for name in figures.__all__ if not name.endswith("_table")} - {"save", "caption", "consensus_structure"}


def explained(run: s3.Run) -> Explanation:
    p = run.p()
    effects = tuple(
        GateEffect(gate, float(p[gate.index]), 0.0, i + 1, 0.1 * math.cos(2 * i), 0.02, -0.01 * i, 0.05 * math.cos(2 * i))
        for i, gate in enumerate(gate for gate in run.structure().gates if gate.index < len(p))  # none that was pinned in
    )
    return Explanation(effects, "sentiment", "tiny-t5", run.name, n_rows=50, loss=0.3, score=0.9)


def every_figure(
    folder: Path, runs: Sequence[s3.Run] | None = None, others: Sequence[s3.Run] | None = None
) -> dict[str, Callable[..., go.Figure]]:
    """What draws each, given `theme` or nothing; named by the function and, after a space, the form.

    Args:
        runs, others: three seeds of a task and of another, instead of the recorded ones.
    """
    ways = partial(figures.ways, "tiny-t5", task="sentiment", methods=["searched", "gradient", "random", "LoRA"], draws=20)
    if runs is not None and others is not None:
        ways = partial(figures.ways, {"searched": list(runs), "entailment's": list(others), "one": runs[0]}, draws=20)
    else:
        runs, others = ([s3.open_run(f"{task}-0.2pct-s{seed}") for seed in range(3)] for task in ("sentiment", "entailment"))
    runs = list(runs)
    run, other = runs[:2]
    matrix = write_transfer(folder / "transfer", even)
    made = {
        "heatmap": partial(figures.heatmap, run),
        "heatmap own": partial(figures.heatmap, run, scale="own"),
        "heatmap alpha": partial(figures.heatmap, run, value="alpha"),
        "heatmap rank": partial(figures.heatmap, run, value="rank"),
        "heatmap selected": partial(figures.heatmap, run.structure()),
        "heatmap count": partial(figures.heatmap, runs, value="count"),
        "compare": partial(figures.compare, run, other),
        "difference": partial(figures.difference, runs, list(others)),
        "heatmap annotated": partial(figures.heatmap, runs, annotate="seeds"),
        "consensus": partial(figures.consensus, runs),
        "multiples": partial(figures.multiples, runs),
        "ways": ways,
        "modules": partial(figures.modules, "minilm-open", by="place"),
        "trace": partial(figures.trace, run),
        "cut": partial(figures.cut, run, seeds=[other]),
        "curves": partial(figures.curves, run),
        "curves open": partial(figures.curves, s3.open_run("minilm-open-sst2-0.0139pct-s0")),
        "sums": partial(figures.sums, run),
        "sums module": partial(figures.sums, run, by="module"),
        "sums structure": partial(figures.sums, run.structure(), by="pet_type"),
        "budget_path": partial(figures.budget_path, run),
        "overlap": partial(figures.overlap, runs),
        "overlap spearman": partial(figures.overlap, runs, by="spearman"),
        "agreement": partial(figures.agreement, runs),
        "importance": partial(figures.importance, explained(run)),
        "budgets": partial(figures.budgets, "tiny-t5"),
        "forest": partial(figures.forest, "tiny-t5"),
        "forest several": partial(figures.forest, "tiny-t5", against=["random", "gradient", "full"], value="loss"),
        "transfer": partial(figures.transfer, matrix),
        "transfer own": partial(figures.transfer, matrix, relative="own"),
    }
    assert {name.split()[0] for name in made} == DRAWING
    return made
