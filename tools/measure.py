"""Measure that the embedded tasks make structure matter; prints a table of data/README.md.

    python tools/measure.py --write
    python tools/measure.py --write --backbone tiny-qwen3

For each task: the untouched backbone, full fine-tuning, ten random structures of one budget. On tiny-t5 they have one
training seed, and the first of them several; on tiny-qwen3 each has several, and a one-way analysis of variance says
whether structures differ more than seeds. Rows go to data/measured.jsonl or data/measured-tiny-qwen3.jsonl as they
come, and are not repeated when the script is started again; delete the file to measure anew.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import f_oneway

from s3pet_viz.backbones import positions
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.pet import candidate_gates, load_space
from s3pet_viz.structure import Structure, parse_budget
from s3pet_viz.tuning import Workbench
from s3pet_viz.tuning.baselines import random_structure

DATA = Path(__file__).parents[1] / "data"
CHANCE = {"similarity": "0.00"} | dict.fromkeys(("sentiment", "acceptability", "paraphrase", "entailment"), "0.50")


class Setting(NamedTuple):
    """Budget, steps and learning rate of the PET weights, rows a batch."""

    budget: str
    steps: int
    lr: float
    batch: int = 32


@dataclass(frozen=True)
class Plan:
    """What is measured on a backbone.

    Attributes:
        log: file of rows. mark: of its table in data/README.md. grid: whether each structure has every seed.
        tasks: the settings of each task, in the order in which they were tried.
    """

    log: str
    mark: str
    space: str
    grid: bool
    tasks: dict[str, tuple[Setting, ...]]


PLANS = {
    # On acceptability learning sets in late: at the others' 250 steps of 2e-2 one structure's seeds differed more than
    # structures do.
    "tiny-t5": Plan(
        "measured.jsonl", "measure", "S3PET-M", False,
        dict.fromkeys(("similarity", "paraphrase", "entailment", "sentiment"), (Setting("0.2%", 250, 2e-2),))
        | {"acceptability": (Setting("0.05%", 1000, 1e-2),)},
    ),
    "tiny-qwen3": Plan(
        "measured-tiny-qwen3.jsonl", "measure-tiny-qwen3", "LoRA-ranks", True,
        {
            "sentiment": (Setting("0.2%", 150, 1e-2),),
            "acceptability": (Setting("0.2%", 150, 1e-2),),
            "topics": (Setting("0.05%", 150, 1e-2, 16),),
            "conversation": (Setting("0.05%", 150, 1e-2, 16),),
            "headline": (),
            "entities": (),
        },
    ),
}  # fmt: skip


def read_rows(log: Path) -> list[dict[str, Any]]:
    """The rows that are there; the first ones do not say how large their batches were."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [{"batch": Setting._field_defaults["batch"], **json.loads(line)} for line in lines]


def measure(args: argparse.Namespace) -> pd.DataFrame:
    plan = PLANS[args.backbone]
    log = DATA / plan.log
    rows = read_rows(log)
    full = TuneConfig(steps=args.full_steps, full_lr=7e-4, evaluations=4)

    def run(bench: Workbench, kind: str, which: int, method: str | Structure, options: TuneConfig, share: str | None) -> None:
        task = bench.splits.data.task.name
        key = (task, kind, which, options.seed, share, options.steps, options.lr, options.batch_size)
        known = ("task", "kind", "which", "seed", *(Setting._fields if share else ()))
        if any(tuple(r[name] for name in known) == key[: len(known)] for r in rows):
            return
        scores = bench.run(method, options, label=kind)
        row = {
            "task": task, "kind": kind, "which": which, "seed": options.seed, "budget": share,
            "steps": options.steps, "lr": options.lr, "batch": options.batch_size, "score": scores.score, "loss": scores.metrics["loss"],
            "pet_params": scores.pet_params, "seconds": round(scores.seconds, 1),
        }  # fmt: skip
        rows.append(row)
        with log.open("a") as f:
            f.write(json.dumps(row) + "\n")
        print(f"{task:14} {kind:9} {which} seed {options.seed}: {scores.score:.3f}, {scores.seconds:.0f} s", flush=True)

    for task in args.tasks or plan.tasks:
        bench = Workbench.open(task, args.backbone)
        gates, _ = candidate_gates(positions(bench.backbone.model), load_space(plan.space))
        run(bench, "untouched", 0, "untouched", TuneConfig(evaluations=1), None)
        run(bench, "full", 0, "full", full, None)
        for share, steps, lr, batch in plan.tasks.get(task, ()):
            config = TuneConfig(steps=steps, lr=lr, batch_size=batch, evaluations=1)
            budget = parse_budget(share, bench.backbone.n_params)
            structures = [random_structure(gates, budget, bench.backbone, k) for k in range(args.random)]
            for k, structure in enumerate(structures):
                run(bench, "random", k, structure, config, share)
            for seed in range(1, args.seeds):
                for k, structure in enumerate(structures if plan.grid else structures[:1]):
                    run(bench, "random", k, structure, replace(config, seed=seed), share)
    return pd.DataFrame(rows)


def table(rows: pd.DataFrame) -> str:
    """Markdown; standard deviations of the score (accuracy, or mean of Pearson and Spearman).

    Where every structure has every seed: the spread between structures is that of their means, the spread between
    seeds is pooled over structures, and F and p are those of a one-way analysis of variance.
    """
    grid = len(rows[(rows["kind"] == "random") & (rows["which"] > 0) & (rows["seed"] > 0)]) > 0
    heads = ["task", "chance", "untouched", "full fine-tuning", "budget", "steps"]
    heads += ["random structures: mean (min to max)", "spread between structures"]
    heads += ["spread between seeds", "F", "p"] if grid else ["spread between seeds of one", "ratio"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for task in dict.fromkeys(rows["task"]):
        mine = rows[rows["task"] == task]
        scores = mine.groupby("kind")["score"].mean()
        known = [task, CHANCE.get(task, "-"), *(f"{scores[kind]:.3f}" if kind in scores else "-" for kind in ("untouched", "full"))]
        random = mine[mine["kind"] == "random"]
        settings = random.groupby(list(Setting._fields), sort=False)
        for (budget, steps, lr, batch), drawn in settings:
            how = f"{steps}, rate {lr:g}" + (f", batch {batch}" if batch != Setting._field_defaults["batch"] else "")
            cells = [*known, str(budget), how, *_spreads(drawn, grid)]
            lines.append(f"| {' | '.join(cells)} |")
        if not len(random):
            lines.append(f"| {' | '.join([*known, *['-'] * (len(heads) - len(known))])} |")
    return "\n".join(lines)


def _spreads(random: pd.DataFrame, grid: bool) -> list[str]:
    """The cells of a task's random structures at one setting."""
    structures, seeds = random[random["seed"] == 0]["score"], random[random["which"] == 0]["score"]
    if len(structures) < 2 or len(seeds) < 2:
        return ["not measured yet", *["-"] * (4 if grid else 3)]
    if grid:
        groups = [group.to_numpy() for _, group in random.groupby("which")["score"]]
        means = np.array([group.mean() for group in groups])
        within = np.sqrt(np.mean([group.var(ddof=1) for group in groups]))
        found = f_oneway(*groups)
        return [
            f"{means.mean():.3f} ({means.min():.3f} to {means.max():.3f}), n = {len(groups)}",
            f"{means.std(ddof=1):.3f}",
            f"{within:.3f}, n = {len(seeds)}",
            f"{found.statistic:.1f}",
            f"{found.pvalue:.1g}",
        ]
    between, within = np.std(structures, ddof=1), np.std(seeds, ddof=1)
    return [
        f"{structures.mean():.3f} ({structures.min():.3f} to {structures.max():.3f}), n = {len(structures)}",
        f"{between:.3f}",
        f"{within:.3f}, n = {len(seeds)}",
        f"{between / max(within, 1e-9):.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", choices=list(PLANS), default="tiny-t5")
    parser.add_argument("--tasks", nargs="*", default=[], help="those of the backbone's plan, if not given")
    parser.add_argument("--full-steps", type=int, default=700)
    parser.add_argument("--random", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table-only", action="store_true", help="no training: the table of what has been measured")
    parser.add_argument("--write", action="store_true", help="put the table into data/README.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    plan = PLANS[args.backbone]
    rows = pd.DataFrame(read_rows(DATA / plan.log)) if args.table_only else measure(args)
    text = table(rows)
    print(text)
    if args.write:
        readme = DATA / "README.md"
        pattern = rf"(<!-- table:{plan.mark} -->\n).*?(<!-- /table:{plan.mark} -->)"
        readme.write_text(
            re.sub(pattern, lambda m: f"{m[1]}{text}\n{m[2]}", readme.read_text(), flags=re.DOTALL)
        )


if __name__ == "__main__":
    main()
