"""The embedded backbone on its five tasks: the study behind docs/results.md, notebooks 03 and 04, and data/runs.

    python benchmarks/studies/tiny_t5.py

Every search and training is a cell, done once; start it again to go on. Finished searches move to data/runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from studies_common import STUDIES, keep_runs, portable, report

import s3pet_viz as s3

TASKS = ("sentiment", "entailment", "similarity", "paraphrase", "acceptability")
BUDGETS = ("0.1%", "0.2%", "0.5%")
MIDDLE = "0.2%"
COMMON = {"steps": 200, "tune_steps": 400, "evaluations": 3, "eval_every": 25}

#: In an order in which each makes the table larger.
STAGES = {
    "middle": {"methods": ("searched", "random", "full"), "budgets": (MIDDLE,)},
    "transfer": {},
    "budgets": {"methods": ("searched", "random"), "budgets": BUDGETS},
    "manual": {"methods": ("LoRA", "BitFit", "LNFit", "LowRankAdapter", "untouched"), "budgets": (MIDDLE,)},
    "gradient": {"methods": ("gradient",), "budgets": BUDGETS},
    "resolved": {"methods": ("resolved",), "budgets": BUDGETS, "search_budget": MIDDLE},
    "rivals": {"methods": ("fisher", "sensitivity", "gradient/param"), "budgets": (MIDDLE,)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=STUDIES / "tiny-t5")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--workers", type=int, default=None)
    args = parser.parse_args()
    shared = {
        "backbone": "tiny-t5", "seeds": args.seeds, "device": "cpu", "out": args.out, "workers": args.workers,
        "on_cell": report, **COMMON,
    }  # fmt: skip
    for stage in args.stages:
        if stage == "transfer":
            study = s3.transfer(targets=TASKS, budget=MIDDLE, references=("random", "full"), **shared).study
        else:
            study = s3.sweep(tasks=TASKS, **STAGES[stage], **shared)
        print(stage, repr(study), flush=True)
        keep_runs(study)
    portable(args.out)


if __name__ == "__main__":
    main()
