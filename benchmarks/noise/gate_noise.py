"""Does a backbone learn a task while its gates are drawn anew in every step?

    python benchmarks/noise/gate_noise.py --task path/to/datasets/stsb --backbone minilm

Weights alone, alpha at 0, so that every gate is open with the same p; mean training loss of the last 50 steps. It is
about noise: a gate that is open in every step can be relied on by the others, one that is drawn anew cannot.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import s3pet_viz as s3

#: (share of the backbone, rates). 0.38 % is all of S3PET-M on MiniLM, 0.0139 % the published budget.
CASES = [("0.38%", (3e-3, 1e-3, 3e-4)), ("0.19%", (1e-3,)), ("0.0139%", (3e-3,))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, help="a task, or the folder of one")
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| budget | p of every gate | rate | training loss, last 50 steps | of one answer to every row |\n|---|---|---|---|---|")
    for budget, rates in CASES:
        for rate in rates:
            with tempfile.TemporaryDirectory() as folder:
                run = s3.search(
                    task=args.task, backbone=args.backbone, budget=budget, steps=args.steps, warmup=args.steps - 1,
                    mode="single-level", lr=rate, head_lr=3e-3, schedule="constant", batch_size=16, seed=args.seed,
                    split="holdout", device="cpu", out=Path(folder) / "run",
                )  # fmt: skip
                loss = run.steps()["train_loss"].to_numpy()[-50:].mean()
                constant = run.info.get("constant_loss") or float("nan")
                print(f"| {budget} | {run.p(0).mean():.3f} | {rate:g} | {loss:.2f} | {constant:.2f} |", flush=True)


if __name__ == "__main__":
    main()
