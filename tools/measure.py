"""Measure that the embedded tasks make structure matter; prints the table of data/README.md.

    python tools/measure.py --write

For each task: the untouched backbone, full fine-tuning, ten random structures of one budget (one training seed),
and one of them with several training seeds. Rows go to data/measured.jsonl as they come, and are not
repeated when the script is started again; delete the file to measure anew.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from s3pet_viz.backbones import positions
from s3pet_viz.config.tuning import TuneConfig, make_config
from s3pet_viz.pet import candidate_gates, load_space
from s3pet_viz.structure import Structure, parse_budget
from s3pet_viz.tuning import Workbench
from s3pet_viz.tuning.baselines import random_structure

DATA = Path(__file__).parents[1] / "data"
TASKS = ("sentiment", "acceptability", "paraphrase", "entailment", "similarity")
CHANCE = {"similarity": 0.0}
#: Budget, steps and learning rate of the PET weights. On acceptability learning sets in late: at the others' 250 steps of
#: 2e-2 one structure's seeds differed more than structures do.
SETTINGS = {"acceptability": ("0.05%", 1000, 1e-2)}
USUAL = ("0.2%", 250, 2e-2)


def measure(args: argparse.Namespace) -> pd.DataFrame:
    log = DATA / "measured.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    full = make_config(steps=args.full_steps, full_lr=7e-4, evaluations=4)

    def run(bench: Workbench, kind: str, which: int, method: str | Structure, options: TuneConfig) -> None:
        task = bench.splits.data.task.name
        key = (task, kind, which, options.seed)
        if any((r["task"], r["kind"], r["which"], r["seed"]) == key for r in rows):
            return
        scores = bench.run(method, options, label=kind)
        row = {
            "task": task, "kind": kind, "which": which, "seed": options.seed, "budget": share,
            "steps": options.steps, "lr": options.lr, "score": scores.score, "loss": scores.metrics["loss"],
            "pet_params": scores.pet_params, "seconds": round(scores.seconds, 1),
        }  # fmt: skip
        rows.append(row)
        with log.open("a") as f:
            f.write(json.dumps(row) + "\n")
        print(f"{task:14} {kind:9} {which} seed {options.seed}: {scores.score:.3f}, {scores.seconds:.0f} s", flush=True)

    for task in args.tasks:
        share, steps, lr = SETTINGS.get(task, USUAL)
        config = make_config(steps=steps, lr=lr, evaluations=1)
        bench = Workbench.open(task, "tiny-t5")
        gates, _ = candidate_gates(positions(bench.backbone.model), load_space("S3PET-M"))
        budget = parse_budget(share, bench.backbone.n_params)
        run(bench, "untouched", 0, "untouched", config)
        run(bench, "full", 0, "full", full)
        for k in range(args.random):
            run(bench, "random", k, random_structure(gates, budget, bench.backbone, k), config)
        for seed in range(1, args.seeds):
            again = random_structure(gates, budget, bench.backbone, 0)
            run(bench, "random", 0, again, replace(config, seed=seed))
    return pd.DataFrame(rows)


def table(rows: pd.DataFrame) -> str:
    """Markdown; standard deviations of the score (accuracy, or mean of Pearson and Spearman)."""
    lines = [
        "| task | chance | untouched | full fine-tuning | budget | steps | random structures: mean (min to max) "
        "| spread between structures | spread between seeds of one | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task in dict.fromkeys(rows["task"]):
        mine = rows[rows["task"] == task]
        pick = lambda kind: mine[mine["kind"] == kind]  # noqa: B023, E731
        random = pick("random")
        structures, seeds = random[random["seed"] == 0]["score"], random[random["which"] == 0]["score"]
        cells = [
            task,
            f"{CHANCE.get(task, 0.5):.2f}",
            f"{pick('untouched')['score'].mean():.3f}",
            f"{pick('full')['score'].mean():.3f}",
            str(random["budget"].iloc[0]) if len(random) else "-",
            f"{random['steps'].iloc[0]}, rate {random['lr'].iloc[0]:g}" if len(random) else "-",
        ]
        if len(structures) > 1 and len(seeds) > 1:
            between, within = np.std(structures, ddof=1), np.std(seeds, ddof=1)
            cells += [
                f"{structures.mean():.3f} ({structures.min():.3f} to {structures.max():.3f}), n = {len(structures)}",
                f"{between:.3f}",
                f"{within:.3f}, n = {len(seeds)}",
                f"{between / max(within, 1e-9):.1f}",
            ]
        else:
            cells += ["not measured yet"] + ["-"] * 3
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--full-steps", type=int, default=700)
    parser.add_argument("--random", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table-only", action="store_true", help="no training: the table of what has been measured")
    parser.add_argument("--write", action="store_true", help="put the table into data/README.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = pd.read_json(DATA / "measured.jsonl", lines=True) if args.table_only else measure(args)
    text = table(rows)
    print(text)
    if args.write:
        readme = DATA / "README.md"
        pattern = r"(<!-- table:measure -->\n).*?(<!-- /table:measure -->)"
        readme.write_text(
            re.sub(pattern, lambda m: f"{m[1]}{text}\n{m[2]}", readme.read_text(), flags=re.DOTALL)
        )


if __name__ == "__main__":
    main()
