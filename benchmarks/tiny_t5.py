"""The embedded backbone on its five tasks: the study behind docs/results.md and notebooks 03 and 04.

    python benchmarks/tiny_t5.py

The searches are those of data/runs (data/record_runs.py); they are taken over as finished cells where their options are
the plan's. Every training is a cell, done once; start it again to go on.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import s3pet_viz as s3
from s3pet_viz.files import write_json_atomic
from s3pet_viz.study.cells import Cell

TASKS = ("sentiment", "entailment", "similarity", "paraphrase", "acceptability")
BUDGETS = ("0.1%", "0.2%", "0.5%")
MIDDLE = "0.2%"
COMMON = {"steps": 200, "tune_steps": 400, "evaluations": 3, "eval_every": 25}
RECORDED = Path(__file__).parent.parent / "data" / "runs"
WORKING_FILES = ("checkpoint", "lock", "log.txt", "control.json")

STAGES = {
    "budgets": {"methods": ("searched", "random", "gradient"), "budgets": BUDGETS},
    "manual": {"methods": ("full", "LoRA", "BitFit", "untouched"), "budgets": (MIDDLE,)},
    "rivals": {"methods": ("fisher", "sensitivity", "gradient/param"), "budgets": (MIDDLE,)},
    "resolved": {"methods": ("resolved",), "budgets": BUDGETS, "search_budget": MIDDLE},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/measured/tiny-t5"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stages", nargs="*", default=[*STAGES, "transfer"], choices=[*STAGES, "transfer"])
    parser.add_argument("--workers", type=int, default=None)
    args = parser.parse_args()
    shared = {
        "backbone": "tiny-t5", "seeds": args.seeds, "device": "cpu", "out": args.out, "workers": args.workers,
        "on_cell": report, **COMMON,
    }  # fmt: skip
    take_over(args.out, args.seeds)
    for stage in args.stages:
        if stage == "transfer":
            print(repr(s3.transfer(targets=TASKS, budget=MIDDLE, references=("random", "full"), **shared)), flush=True)
        else:
            print(stage, repr(s3.sweep(tasks=TASKS, **STAGES[stage], **shared)), flush=True)


def take_over(out: Path, seeds: int) -> None:
    """Recorded searches as finished cells of the study. A run whose options are not the plan's is refused."""
    from s3pet_viz.study.plan import make_ground

    ground = make_ground(
        {t: t for t in TASKS}, "tiny-t5", space="S3PET-M", options=COMMON, per_task=None, split="paper", device="cpu",
        precision="fp32", load=None,
    )  # fmt: skip
    for task in TASKS:
        for budget in BUDGETS:
            for seed in range(seeds):
                cell: Cell = ground.search(task, budget, "fast", seed)
                result, folder = out / "cells" / f"{cell.key}.json", out / "runs" / cell.key
                source = RECORDED / f"{task}-{budget.replace('%', 'pct')}-s{seed}"
                if result.exists() or not source.is_dir():
                    continue
                run = s3.open_run(source)
                other = {k: run.config.get(k) for k, v in cell.what.items() if run.config.get(k) != v}
                if other:
                    raise SystemExit(f"{source}: recorded with other options than the study's: {other}")
                shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*WORKING_FILES))
                seconds = float(run.steps()["seconds"].sum())
                write_json_atomic(
                    result,
                    {
                        "status": "done", "key": cell.key, "attempts": 1, "row": {"seconds": seconds},
                        "structure": run.structure().to_dict(), "started": time.time(), "seconds": 0.0,
                        "note": f"taken over from data/runs/{source.name}",
                    },
                )  # fmt: skip


def report(cell, result) -> None:
    row = result.get("row", {})
    said = f"score {row['score']:.4f}, loss {row['loss']:.4f}" if "score" in row else result.get("error", "")
    print(f"{time.strftime('%H:%M:%S')} {cell.key}: {result['status']} {said} ({result['seconds']:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
