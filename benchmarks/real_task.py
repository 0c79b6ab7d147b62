"""Search, tune and compare on one real task; prints the table of docs/results.md.

    python benchmarks/real_task.py --task ../shared/datasets/sst2 --out out/sst2

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

from s3pet_viz.backbones import positions
from s3pet_viz.pet import candidate_gates, load_space
from s3pet_viz.runs import open_run
from s3pet_viz.search import search
from s3pet_viz.structure import Structure, parse_budget
from s3pet_viz.tuning import Workbench, summary
from s3pet_viz.tuning.api import make_config
from s3pet_viz.tuning.baselines import MANUAL, random_structure


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
    config = make_config(steps=args.tune_steps, lr=args.lr, evaluations=4)
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
            from s3pet_viz.tuning.baselines import manual_structure

            method: str | Structure = manual_structure(name, bench.backbone)
        else:
            method = name
        for seed in range(args.seeds):
            tune(name, 0, method, seed)
    table = summary(pd.DataFrame(done))
    print(table.to_markdown(index=False, floatfmt=".4f") if _has_tabulate() else table.to_string(index=False))


def _has_tabulate() -> bool:
    import importlib.util

    return importlib.util.find_spec("tabulate") is not None


if __name__ == "__main__":
    main()
