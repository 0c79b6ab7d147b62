"""The published recipe at the published scale: search in mode `paper`, train what was found, and all weights beside it.

    python benchmarks/studies/published.py --task glue/rte --dry-run          # the steps, from the task's own size
    python benchmarks/studies/published.py --task glue/rte --device cuda      # T5-large; the same line again goes on

The values are those of arXiv 2206.07382: learning rate 3e-4, of alpha 0.1, linear decay, clip 2.0, the task's batch size
and epochs, space S3PET-M at 0.0139 %. An epoch of a search is one pass over a half of the training rows, for it takes
one batch of each half a step. `--backbone`, `--budget`, `--space`, `--seed` and `--epochs` change them; what is printed
says all of it. Full fine-tuning takes the package's own rate, which is not published.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import NamedTuple

import s3pet_viz as s3
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import S3PETError
from s3pet_viz.runs import layout
from s3pet_viz.tuning import Workbench


class Recipe(NamedTuple):
    """Batch size and epochs, of the search and of the training after it."""

    batch: tuple[int, int]
    epochs: tuple[int, int]


#: By the last part of a task's name.
RECIPES = {
    "cola": Recipe((32, 32), (15, 15)), "sst2": Recipe((32, 32), (5, 5)), "mrpc": Recipe((32, 32), (20, 20)),
    "stsb": Recipe((32, 32), (15, 15)), "qqp": Recipe((32, 32), (1, 3)), "mnli": Recipe((32, 32), (1, 3)),
    "qnli": Recipe((32, 32), (4, 4)), "boolq": Recipe((16, 16), (15, 15)), "cb": Recipe((15, 16), (40, 40)),
    "copa": Recipe((16, 16), (40, 40)), "multirc": Recipe((16, 16), (40, 40)), "record": Recipe((5, 8), (1, 1)),
    "rte": Recipe((16, 16), (20, 20)), "wic": Recipe((16, 16), (15, 15)),
}  # fmt: skip


def steps_of(recipe: Recipe, rows: int) -> tuple[int, int]:
    """Steps of the search (a half of the rows is an epoch) and of the training, each with its last, smaller batch."""
    (search_batch, batch), (search_epochs, epochs) = recipe
    return search_epochs * math.ceil(rows // 2 / search_batch), epochs * math.ceil(rows / batch)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, help=f"a name or folder that ends with one of {', '.join(RECIPES)}")
    parser.add_argument("--backbone", default="t5-large")
    parser.add_argument("--budget", default="0.0139%")
    parser.add_argument("--space", default="S3PET-M")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="instead of the task's own, of both")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--dry-run", action="store_true", help="load and say the steps; no pass is made")
    parser.add_argument("--out", type=Path, help="the run directory [default: out/published-TASK-sSEED]")
    args = parser.parse_args()
    name = Path(args.task).name
    if name not in RECIPES:
        parser.error(f"--task: expected a name that ends with one of {', '.join(RECIPES)}, found {args.task!r}")
    recipe = RECIPES[name]._replace(**({"epochs": (args.epochs,) * 2} if args.epochs else {}))
    out = args.out or Path("out") / f"published-{name}-s{args.seed}"
    try:
        bench = Workbench.open(args.task, args.backbone, device=args.device, precision=args.precision)
        search_steps, steps = steps_of(recipe, len(bench.splits.train))
        print(f"{name} on {bench.backbone.name}: {len(bench.splits.train):,} training rows, batches of {recipe.batch}, "
              f"epochs {recipe.epochs}: {search_steps:,} search steps, {steps:,} training steps")  # fmt: skip
        if args.dry_run:
            return 0
        if (out / layout.RUN_JSON).exists():
            run = s3.open_run(out)
            run = run if run.status == "finished" else s3.search(resume=out)
        else:
            run = s3.search(
                task=args.task, backbone=args.backbone, budget=args.budget, space=args.space, mode="paper",
                steps=search_steps, batch_size=recipe.batch[0], lr=3e-4, alpha_lr=0.1, clip=2.0, seed=args.seed,
                device=args.device, precision=args.precision, out=out,
            )  # fmt: skip
        config = TuneConfig(steps=steps, batch_size=recipe.batch[1], lr=3e-4, clip=2.0, seed=args.seed)
        for method in (run.structure(), "full"):
            scores = bench.run(method, config)
            print(scores, flush=True)
    except S3PETError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
