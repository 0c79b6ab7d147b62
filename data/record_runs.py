"""Record the searches on the embedded backbone that the notebooks open: gate traces and structures, no text.

    python data/record_runs.py

Writes data/runs/<task>-<budget>-s<seed>/, without the checkpoint. A run that is there already is kept; an unfinished
one is made anew.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

import s3pet_viz as s3
from s3pet_viz.errors import RunError

HERE = Path(__file__).parent
TASKS = ("sentiment", "entailment", "similarity", "paraphrase", "acceptability")
BUDGETS = ("0.1%", "0.2%", "0.5%")
SEEDS = (0, 1, 2)
#: The other budgets come after this one.
MIDDLE = "0.2%"
#: What a run needs only while it is being written.
WORKING_FILES = ("checkpoint", "lock", "log.txt", "control.json")


def wanted() -> list[tuple[str, str, int]]:
    made = [(t, b, s) for s in SEEDS for b in BUDGETS for t in TASKS]
    return sorted(made, key=lambda run: run[1] != MIDDLE)


def finished(folder: Path) -> bool:
    try:
        return s3.open_run(folder).status == "finished"
    except RunError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=HERE / "runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for task, budget, seed in wanted():
        folder = args.out / f"{task}-{budget.replace('%', 'pct')}-s{seed}"
        if finished(folder):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        run = s3.search(
            task=task, backbone="tiny-t5", budget=budget, steps=args.steps, seed=seed, eval_every=25, device="cpu", out=folder
        )  # fmt: skip
        for name in WORKING_FILES:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        print(f"{run!r}: {run.steps()['seconds'].sum():.0f} s", flush=True)


if __name__ == "__main__":
    main()
