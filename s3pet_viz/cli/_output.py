"""What the commands print: heatmaps, gates, scores, tables; and the HTML page of a heatmap."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from s3pet_viz.errors import printable

if TYPE_CHECKING:
    import pandas as pd

    from s3pet_viz.runs import Run
    from s3pet_viz.runs.reader import Budget
    from s3pet_viz.structure import Structure
    from s3pet_viz.training.scores import Scores

_MOST_GATES = 24


def cell(value: object) -> Text:
    """What may come from a file of a stranger's."""
    return Text(printable(value))


def plain_table(*columns: str, right: int = 0) -> Table:
    """A table; the last `right` columns are numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        number = i >= len(columns) - right
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=number)
    return table


def facts_table(facts: dict[str, object]) -> Table:
    """Two columns: what, value. None is left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None:
            table.add_row(Text(name), cell(value))
    return table


def share(params: int, backbone_params: int) -> str:
    return f"{params:,} parameters" + (f" = {params / backbone_params:.4%} of the backbone" if backbone_params else "")


def heatmap_text(
    source: Run | Structure, width: int, budget: Budget | None = None, annotate: str | None = None
) -> RenderableType:
    """The text heatmap of a run (at its own or another budget) or of a structure. annotate: as in `figures.heatmap`."""
    from s3pet_viz.runs import Run
    from s3pet_viz.viewer.text import text_heatmap

    if not isinstance(source, Run):
        return text_heatmap(source.gates, None, [True] * len(source), width=width)
    if not source.n_steps:
        return Text("no steps recorded yet")
    chosen = source.structure(budget=budget).keys
    selected = [g.key in chosen for g in source.gates_list]
    texts, legend = None, ""
    if annotate is not None:
        from s3pet_viz.analysis.annotate import annotation
        from s3pet_viz.structure import ranks

        count, alpha = [int(on) for on in selected], source.alpha()
        numbers: dict[str, Any] = {"alpha": alpha, "rank": ranks(alpha), "count": count, "runs": [1] * len(count)}
        texts, legend = annotation(annotate, source.gates_list, explained=source, **numbers)
    pinned = (source.pinned_in, source.pinned_out)
    made = text_heatmap(source.gates_list, source.p(budget=budget), selected, pinned=pinned, texts=texts, width=width)
    made.renderables.extend([Text(legend)] if legend else [])
    return made


def gates_table(source: Run | Structure, budget: Budget | None = None, most: int | None = _MOST_GATES) -> Table:
    """Chosen gates: layer, module, PET type, parameters and, of a run, p; the likeliest first."""
    from s3pet_viz.runs import Run

    run = source if isinstance(source, Run) else None
    gates = list(source.structure(budget=budget).gates if isinstance(source, Run) else source.gates)
    p: dict[tuple[str, str], float] = {}
    if run is not None:
        p = {gate.key: float(value) for gate, value in zip(run.gates_list, run.p(budget=budget), strict=True)}
        gates.sort(key=lambda g: -p.get(g.key, 2.0))  # those pinned in, which have none, come first
    table = plain_table("layer", "module", "PET type", "parameters", *(["p"] if run else []), right=2 if run else 1)
    for gate in gates[:most]:
        cells = [gate.column, gate.module, gate.pet_type, f"{gate.n_params:,}"]
        table.add_row(*map(cell, [*cells, *([f"{p[gate.key]:.3f}" if gate.key in p else "pinned"] if run else [])]))
    if most is not None and len(gates) > most:
        table.add_row(Text("..."), Text(f"and {len(gates) - most} more"))
    return table


def structure_facts(structure: Structure) -> dict[str, object]:
    """Size of a structure, and how it divides between PET types."""
    types: dict[str, int] = {}
    for gate in structure.gates:
        types[gate.pet_type] = types.get(gate.pet_type, 0) + gate.n_params
    return {
        "budget": share(structure.budget, structure.backbone_params) if structure.budget else None,
        "chosen": f"{len(structure):,} gates, {share(structure.n_params, structure.backbone_params)}",
        "by PET type": ", ".join(f"{name} {n:,}" for name, n in sorted(types.items(), key=lambda kv: -kv[1])),
        "task": (structure.source or {}).get("task_learned"),
    }


def start_said(run: Run) -> str | None:
    """Which run a search started from; None where alpha started at 0."""
    start = run.info.get("start_from")
    if not isinstance(start, dict):
        return None
    return f"{start.get('run')}, step {start.get('step')} ({start.get('matched')} of {start.get('gates')} gates)"


def scores_table(scores: Scores) -> Table:
    """One structure's scores; PET and head parameters counted apart."""
    rest = {k: v for k, v in scores.metrics.items() if k not in ("score", "loss")}
    validation = scores.validation["score"]
    facts: dict[str, object] = {
        "task": scores.task,
        "backbone": scores.backbone,
        "score": f"{scores.score:.4f}  ({', '.join(f'{k} {v:.4f}' for k, v in rest.items())}) on held-out rows",
        "loss": f"{scores.metrics['loss']:.4f}",
        "validation": f"{validation:.4f} (chose the weights of step {scores.best_step:,} of {scores.steps_taken:,}; "
        f"{scores.decided_on})",
        "PET": share(scores.pet_params, scores.backbone_params),
        "head": f"{scores.head_params:,} parameters, trained too, counted apart" if scores.head_params else None,
        "pooler": {"frozen": "frozen", "trained": "trained, counted with the head"}.get(scores.pooler),
        "time": f"{scores.seconds:.1f} s",
    }
    if scores.learned is False:
        facts["task"] = f"{scores.task}, NOT LEARNED: the validation loss is about that of one answer to every row"
    if scores.method == "full":
        facts["trained"] = facts.pop("PET")
    return facts_table(facts)


def steps_said(scores: Scores) -> str:
    """How a training of ``auto`` steps ended."""
    if scores.cap_reached and scores.learned is False:
        return f"{scores.steps_taken:,} steps: the cap was reached and the task is NOT LEARNED (--max-steps)"
    if scores.cap_reached:
        return f"{scores.steps_taken:,} steps: the cap was reached while the held-out loss still fell (--max-steps)"
    return f"{scores.steps_taken:,} steps: the held-out loss fell no further, the cap was not reached"


def summary_table(summary: pd.DataFrame) -> Table:
    """Mean and spread by method; PET and head parameters counted apart."""
    heads = bool((summary["head_params"] > 0).any())
    names = [
        "method",
        "score",
        "spread",
        "n",
        "loss",
        "PET\nparams",
        "% of\nbackbone",
        "passes\nbefore",
        *(["head\nparams"] if heads else []),
    ]
    table = plain_table(*names, right=len(names) - 1)
    for row in summary.to_dict("records"):
        cells = [
            str(row["method"]),
            f"{row['score']:.4f}",
            "–" if math.isnan(row["spread"]) else f"± {row['spread']:.4f}",
            str(int(row["runs"])),
            f"{row['loss']:.4f}",
            f"{'all ' if row['method'] == 'full' else ''}{row['pet_params']:,.0f}",
            f"{row['percent']:.4g}",
            "–" if row["passes"] is None or math.isnan(row["passes"]) else f"{row['passes']:,.0f}",
            *([f"{row['head_params']:,.0f}"] if heads else []),
        ]
        table.add_row(*map(cell, cells))
    return table


def heatmap_page(source: Run | Structure, budget: Budget | None = None, state: Any = None) -> str:
    """A page that stands alone: the viewer of a run or the heatmap of a structure, and the chosen gates. state: of a
    view of the run.
    """
    from s3pet_viz.figures import heatmap
    from s3pet_viz.runs import Run
    from s3pet_viz.viewer.page import run_state, standing_page

    if isinstance(source, Run):
        structure = source.structure(budget=budget)
        more = f"{source._repr_html_()}<h2>Chosen gates</h2>{structure._repr_html_()}"
        at = structure.budget if budget is not None else None
        return standing_page(source.name, run_state(source, key="run", budget=at, view=state), more)
    drawn = heatmap(source).to_html(full_html=False, include_plotlyjs=True)
    return page(source.backbone or "structure", f"{drawn}\n<h2>Chosen gates</h2>{source._repr_html_()}")


def page(title: str, body: str) -> str:
    """An HTML file. `title`: text. `body`: HTML."""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title>"
        "<style>body{font:15px/1.5 system-ui,sans-serif;margin:24px auto;max-width:1200px;padding:0 16px}"
        "table{border-collapse:collapse}td,th{padding:2px 10px 2px 0}</style></head><body>\n"
        f"{body}\n</body></html>\n"
    )
