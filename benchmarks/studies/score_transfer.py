"""Does the agreement of one-pass scores between tasks foretell where structures transfer?

    python benchmarks/studies/score_transfer.py                              # tiny-t5: beside its recorded matrix
    python benchmarks/studies/score_transfer.py --data path/to/datasets      # MiniLM: agreement alone (no matrix recorded)

Prints, for each method, the rank correlation (Spearman) of the scores between tasks, and how well it foretells the
recorded matrix: for each target the rank correlation, over the four other tasks, of their agreement with the target and
what their structures score there; mean over targets and 95 % interval.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import s3pet_viz as s3
from s3pet_viz.analysis.one_pass import TaskScores

METHODS = ("gradient", "fisher", "gora", "plop")
REAL = ("sst2", "mrpc", "qnli", "stsb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of GLUE tasks; MiniLM is scored on them")
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas")
    parser.add_argument("--rows", type=int, help="training rows to score; default: the method's own")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.data is not None:
        for method in args.methods.split(","):
            tasks = [str(args.data / name) for name in REAL]
            made = s3.score(tasks=tasks, backbone="minilm", method=method, rows=args.rows, progress=False)
            show(made)
        return
    matrix = s3.Transfer("tiny-t5")
    print(f"{matrix!r}, score on held-out rows\n")
    print(table(matrix.matrix().loc[matrix.sources]))
    print(flush=True)
    made = {}
    for method in args.methods.split(","):
        one = s3.score(tasks=matrix.targets, backbone="tiny-t5", method=method, rows=args.rows, progress=False)
        show(one)
        made[method] = one
    for row in matrix.foretold(made).to_dict("records"):
        between = f"{row['between_low']:.2f} to {row['between_high']:.2f} between tasks"
        print(f"{row['by']} ({between}), {row['value']}: {row['says']}", flush=True)


def show(made: TaskScores) -> None:
    agreement = made.correlation()
    off = agreement.to_numpy()[~np.eye(len(agreement), dtype=bool)]
    first = next(iter(made.values()))
    print(
        f"{first.kind}: {off.min():.2f} to {off.max():.2f} between tasks; {first.steps} passes a task, "
        f"{sum(one.seconds for one in made.values()):.0f} s in all\n"
    )
    print(table(agreement))
    for task, one in made.items():
        best = int(np.argmax(one.score))
        gate, share = one.gates[best], one.score[best] / one.score.sum()
        print(f"highest on {task}: {gate.column} {gate.row}, {share:.0%} of the sum", flush=True)


def table(numbers: pd.DataFrame) -> str:
    lines = ["| | " + " | ".join(map(str, numbers.columns)) + " |", "|---" * (numbers.shape[1] + 1) + "|"]
    for name, row in zip(numbers.index, numbers.to_numpy(), strict=True):
        lines.append(f"| {name} | " + " | ".join(f"{v:.2f}" for v in row) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
