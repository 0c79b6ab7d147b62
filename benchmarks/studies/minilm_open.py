"""MiniLM on real tasks, searched from open gates: does the search learn where it did not?

    python benchmarks/studies/minilm_open.py --data path/to/datasets     # run what is missing, then print
    python benchmarks/studies/minilm_open.py --print                       # print what is there

Searches begin with every gate open at a rate at which that trains, and the budget shrinks after (`open_steps`,
`shrink_steps`). Everything else, and the rows to compare with, are those of `benchmarks/studies/minilm.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from minilm import COMMON, MIDDLE, PER_TASK
from studies_common import STUDIES, ends_of_losses, keep_runs, point_at, portable, report

import s3pet_viz as s3
from s3pet_viz.analysis.statistics import differences, sentence, summary

#: Found on stsb, seed 0: with every gate open, 3e-3 stays at the loss of one answer to every row; 1e-3 and 3e-4 leave it.
OPEN = {"steps": 400, "open_steps": 150, "shrink_steps": 150, "lr": 1e-3, "head_lr": 3e-3}

#: (task, seeds), in the order of running.
STAGES = [("stsb", (0,)), ("qnli", (0,)), ("sst2", (0, 1, 2)), ("stsb", (1, 2)), ("qnli", (1, 2)), ("mrpc", (0, 1, 2))]
STUDY, BEFORE = STUDIES / "minilm-open", STUDIES / "minilm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("path/to/datasets"), help="the folder with sst2, stsb, ...")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--stages", nargs="*", type=int, default=range(len(STAGES)), help="their numbers, from 0")
    parser.add_argument("--print", action="store_true", help="run nothing")
    args = parser.parse_args()
    point_at(STUDY, args.data)
    for stage in () if args.print else args.stages:
        task, seeds = STAGES[stage]
        study = s3.sweep(
            tasks=[args.data.resolve() / task], backbone="minilm", budgets=[MIDDLE], seeds=seeds, methods=("searched",),
            split="holdout", device="cpu", out=STUDY, workers=args.workers, on_cell=report,
            per_task={task: PER_TASK[task]} if task in PER_TASK else {}, search=OPEN, **COMMON,
        )  # fmt: skip
        keep_runs(study, "minilm-open-", (0,), args.data)
    portable(STUDY, args.data)
    before, after = s3.open_study(BEFORE).table(), s3.open_study(STUDY).table()
    before["method"] = before["method"].replace("searched", "searched before")
    table = pd.concat([before, after], ignore_index=True)
    table = table[table["task"].isin(set(after["task"])) & (table["budget"].isin([MIDDLE, None]) | table["budget"].isna())]
    print("| task | method | n | score x 100 | held-out loss |\n|---|---|---|---|---|")
    for row in summary(table).sort_values(["task", "method"]).to_dict("records"):
        spread = f" ± {100 * row['spread']:.1f}" if row["n"] > 1 else ""
        print(f"| {row['task']} | {row['method']} | {row['n']} | {100 * row['score']:.1f}{spread} | {row['loss']:.3f} |")
    print()
    for other in ("random", "searched before", "gradient"):
        for value, scale in (("score", "points"), ("loss", "raw")):
            for _, row in differences(table, a="searched", b=other, value=value, scale=scale).iterrows():
                print(f"- {row['task']} ({value}): {sentence(row)}")
    print("\n| search | training loss, mean over the last fifth | before |\n|---|---|---|")
    then, now = ends_of_losses(s3.open_study(BEFORE)), ends_of_losses(s3.open_study(STUDY))
    for key, loss in now.items():
        print(f"| {key} | {loss:.3f} | {f'{then[key]:.3f}' if key in then else '–'} |")


if __name__ == "__main__":
    main()
