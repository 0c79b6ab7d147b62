"""What it costs a search to be saved: the step log, checkpoints with their fsync, a tracker; as shares of a step.

    python benchmarks/speed/saving_cost.py --steps 100
    python benchmarks/speed/saving_cost.py --backbone minilm --task sentiment
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

import s3pet_viz as s3
from s3pet_viz.engine.loop import Search
from s3pet_viz.engine.tracking import Tracking
from s3pet_viz.runs.writer import RunWriter

CALLS = ((RunWriter, "append", "append"), (RunWriter, "sync", "fsync of the step log"),
         (Search, "checkpoint", "checkpoint, with that fsync"), (Tracking, "on_step_end", "tensorboard"))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="tiny-t5")
    parser.add_argument("--task", default="sentiment")
    parser.add_argument("--budget", default="0.2%")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--checkpoint-every", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None, help="On the disk to measure. [default: the system's temporary]")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    spent: dict[str, list[float]] = defaultdict(list)
    for owner, name, label in CALLS:
        setattr(owner, name, timed(getattr(owner, name), spent[label]))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        run = s3.search(
            task=args.task, backbone=args.backbone, budget=args.budget, steps=args.steps, track="tensorboard",
            checkpoint_every=args.checkpoint_every, out=Path(folder) / "run", progress=False,
        )  # fmt: skip
        step = float(run.steps()["seconds"].median())
        size = sum(p.stat().st_size for p in (run.path / "checkpoint").iterdir())
    print(f"{args.backbone}, {len(run.gates_list)} gates, step {step * 1e3:.1f} ms (median), checkpoint of {size / 1e3:.0f} kB, "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    every = {"append": 1, "tensorboard": 1}
    for label, seconds in spent.items():
        share = median(seconds) / every.get(label, 100) / step
        how = "of every step" if label in every else "with a checkpoint every 100 steps"
        print(f"{label}: {median(seconds) * 1e3:.2f} ms (median of {len(seconds)}), {share:.2%} {how}")


def timed(inner: Any, spent: list[float]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            spent.append(time.perf_counter() - began)

    return call


if __name__ == "__main__":
    main()
