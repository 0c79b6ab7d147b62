"""MiniLM on real tasks: the studies behind docs/results.md, stage by stage.

    python benchmarks/studies/minilm.py --data path/to/datasets

Every training is a cell of one study, done once; start it again to go on. The budgets and recipes below were fixed before
the runs. `--stages` picks some of the stages; the default is all, in an order in which each makes the table larger.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from studies_common import STUDIES, keep_runs, point_at, portable, report

import s3pet_viz as s3

#: 0.0139 % is the published budget; S3PET-M's whole space on MiniLM is 0.381 %.
BUDGETS = ("0.0035%", "0.0139%", "0.1%")
MIDDLE = "0.0139%"
MANUAL = ("LoRA", "BitFit", "LNFit", "LowRankAdapter")

#: PET weights and head at 3e-3, full fine-tuning at 1e-4; the best of four weights by held-out training rows.
COMMON = {"steps": 300, "tune_steps": 400, "lr": 3e-3, "batch_size": 16, "evaluations": 4, "checkpoint_every": 50}
PER_TASK = {"sst2": {"batch_size": 32}, "stsb": {"tune_steps": 800}, "mrpc": {"tune_steps": 800}, "cola": {"tune_steps": 800}}

#: Stage -> (tasks, seeds, methods). ``searched`` is at the middle budget, ``resolved`` solves those searches again at the
#: two others.
STAGES = {
    "middle": [("sst2 stsb", (0, 1, 2), ("searched", "random", "gradient"))],
    "sst2-budgets": [("sst2", (0, 1, 2), ("resolved", "random", "gradient"))],
    "sst2-manual": [("sst2", (0, 1, 2), ("LoRA", "BitFit", "full", "head")), ("sst2", (0,), ("LNFit", "LowRankAdapter"))],
    "stsb-budgets": [("stsb", (0, 1, 2), ("resolved", "random"))],
    "stsb-manual": [("stsb", (0, 1, 2), ("full", "head", "LoRA", "BitFit")), ("stsb", (0,), ("LNFit", "LowRankAdapter"))],
    "stsb-random": [("stsb", (0, 1, 2), ("random",))],
    "qnli-random": [("qnli", (0, 1, 2), ("random",))],
    "mrpc": [("mrpc", (0, 1, 2), ("searched", "random")), ("mrpc", (0,), ("full", "head", *MANUAL))],
    "mrpc-budgets": [("mrpc", (0, 1, 2), ("resolved", "random"))],
    "qnli": [("qnli", (0,), ("searched", "random", "full", "head", *MANUAL))],
    "rte-cola": [("rte cola", (0,), ("full", "head", "LoRA", "searched", "random"))],
    "qnli-seeds": [("qnli", (0, 1, 2), ("searched", "random"))],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with sst2, stsb, ...")
    parser.add_argument("--out", type=Path, default=STUDIES / "minilm")
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--workers", type=int, default=None)
    args = parser.parse_args()
    point_at(args.out, args.data)
    for stage in args.stages:
        for tasks, seeds, methods in STAGES[stage]:
            names = tasks.split()
            study = s3.sweep(
                tasks=[args.data.resolve() / t for t in names], backbone="minilm",
                budgets=BUDGETS if "resolved" in methods else [MIDDLE], search_budget=MIDDLE, seeds=seeds, methods=methods,
                split="holdout", device="cpu", out=args.out, workers=args.workers,
                per_task={t: PER_TASK[t] for t in names if t in PER_TASK}, on_cell=report, **COMMON,
            )  # fmt: skip
            print(f"{stage}: {study!r}", flush=True)
            keep_runs(study, "minilm-", (0,), args.data)
    portable(args.out, args.data)


if __name__ == "__main__":
    main()
