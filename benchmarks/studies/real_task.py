"""Search, tune and compare on one real task; prints the table of docs/results.md.

    python benchmarks/studies/real_task.py --task path/to/datasets/sst2 --out out/sst2

Each training run is appended to OUT/rows.jsonl as soon as it is done, and is not repeated when the script is
started again. Searches go to OUT/search-s<seed>.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import ttest_ind

from s3pet_viz.backbones import positions
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.engine import search
from s3pet_viz.pet import candidate_gates, load_space
from s3pet_viz.runs import open_run
from s3pet_viz.structure import Structure, parse_budget
from s3pet_viz.tuning import Workbench, summary
from s3pet_viz.tuning.baselines import MANUAL, manual_structure, random_structure


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--budget", default="0.0139%")
    parser.add_argument("--space", default="S3PET-M")
    parser.add_argument("--split", default="holdout", help="holdout: scores on the whole validation file")
    parser.add_argument("--mode", default="fast")
    parser.add_argument("--search-steps", type=int, default=300)
    parser.add_argument("--tune-steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--search-option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the search; each structure is tuned with its seed")
    parser.add_argument("--random", type=int, default=5, help="random structures, tuned with seed k %% seeds")
    parser.add_argument("--baseline-seeds", type=int, default=2, help="seeds of each of --methods")
    parser.add_argument("--methods", nargs="*", default=["head", "BitFit", "LoRA", "full"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "rows.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    config = TuneConfig(steps=args.tune_steps, lr=args.lr, evaluations=4)
    bench = Workbench.open(args.task, args.backbone, split=args.split)

    def tune(name: str, which: int, method: str | Structure, seed: int) -> None:
        if any((r["method"], r["structure"], r["seed"]) == (name, which, seed) for r in done):
            return
        scores = bench.run(method, replace(config, seed=seed), label=name)
        row = {**scores.row(), "structure": which}
        with log.open("a") as f:
            f.write(json.dumps(row) + "\n")
        done.append(row)
        print(f"{time.strftime('%H:%M:%S')} {scores}", flush=True)

    options = dict(option.split("=", 1) for option in args.search_option)
    for seed in range(args.seeds):
        folder = args.out / f"search-s{seed}"
        if not (folder / "structure.json").exists():
            search(
                task=args.task, backbone=args.backbone, budget=args.budget, space=args.space, mode=args.mode,
                steps=args.search_steps, lr=args.lr, seed=seed, split=args.split, out=folder,
                **{k: json.loads(v) for k, v in options.items()},
            )  # fmt: skip
        run = open_run(folder)
        print(f"search seed {seed}: {run.steps()['seconds'].sum():.0f} s, {run.structure()}", flush=True)
        tune("searched", seed, run.structure(), seed)

    gates, _ = candidate_gates(positions(bench.backbone.model), load_space(args.space))
    budget = parse_budget(args.budget, bench.backbone.n_params)
    for k in range(args.random):
        tune("random", k, random_structure(gates, budget, bench.backbone, k), k % args.seeds)
    for name in args.methods:
        if name in MANUAL:
            method: str | Structure = manual_structure(name, bench.backbone)
        else:
            method = name
        for seed in range(args.baseline_seeds):
            tune(name, 0, method, seed)
    print(markdown(summary(pd.DataFrame(done)), args))
    print(difference(pd.DataFrame(done)))


def difference(rows: pd.DataFrame) -> str:
    """Searched minus random with Welch's 95 % interval, for the score and for the held-out loss."""
    lines = []
    for column, scale in (("score", 100), ("loss", 1)):
        a, b = (rows[rows["method"] == m][column].to_numpy() * scale for m in ("searched", "random"))
        if min(len(a), len(b)) < 2:
            return ""
        interval = ttest_ind(a, b, equal_var=False).confidence_interval()
        lines.append(
            f"- {column}: searched - random = {a.mean() - b.mean():+.4g} "
            f"(95 % interval {interval.low:+.4g} to {interval.high:+.4g}; n = {len(a)} and {len(b)})"
        )
    return "\n".join(lines)


def markdown(table: pd.DataFrame, args: argparse.Namespace) -> str:
    """The table of docs/results.md: mean and standard deviation over runs."""
    lines = [
        "| method | score | held-out loss | runs | PET parameters | % of backbone | head parameters | seconds a run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table.sort_values("score", ascending=False).itertuples():
        spread = f" ± {100 * row.spread:.1f}" if row.runs > 1 else ""
        lines.append(
            f"| {row.method} | {100 * row.score:.1f}{spread} | {row.loss:.4f} | {row.runs} | {row.pet_params:,.0f} "
            f"| {row.percent:.4f} | {row.head_params:,} | {row.seconds / row.runs:.0f} |"
        )
    searches = [open_run(args.out / f"search-s{k}") for k in range(args.seeds)]
    seconds = [float(r.steps()["seconds"].sum()) for r in searches]
    lines.append(f"\nSearches: {', '.join(f'{s:.0f} s' for s in seconds)} for {args.search_steps} steps of {args.mode}.")
    for run in searches:
        gates = ", ".join(f"{g.column} {g.row}" for g in run.structure().gates)
        lines.append(f"- {run.name}: {gates}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
