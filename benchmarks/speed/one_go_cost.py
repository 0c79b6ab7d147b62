"""What searching and training in one go costs, over plain training of as many steps with the structure it ends with.

    python benchmarks/speed/one_go_cost.py                      # tiny-t5 on sentiment
    python benchmarks/speed/one_go_cost.py --backbone minilm --task path/to/datasets/sst2 --budget 0.0139%
    python benchmarks/speed/one_go_cost.py --size t5-small --steps 100 --pairs 1      # random weights of that size

Each pair is a prune search that hands out its adapter (``save=``) and a `tune` of its structure, both of the same steps,
batch and evaluations, one after the other in one process; CPU seconds, so that other work on the machine counts little.
Beside the ratio: CPU milliseconds of a step, by what the gates do in it (the median).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from step_cost import SIZES

import s3pet_viz as s3


def random_backbone(size: str, folder: Path) -> Path:
    """A T5 of this size with random weights and the embedded tokenizer. It learns nothing: every gate stays open for as
    long as the mode lets it, which costs most.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    T5ForConditionalGeneration(T5Config(**SIZES[size], decoder_start_token_id=0)).save_pretrained(folder)
    s3.load_backbone("tiny-t5").tokenizer.save_pretrained(folder)
    return folder


class Phases(s3.Callback):
    """CPU seconds of each step, by phase."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}
        self.last = time.process_time()

    def on_search_begin(self, search: Any) -> None:
        self.last = time.process_time()

    def on_step_end(self, search: Any, step: int, result: Any) -> None:
        now, pruning = time.process_time(), search.state.pruning
        if pruning.opened is None or step < pruning.opened:
            phase = "open"
        elif pruning.at_budget is None or step < pruning.at_budget:
            phase = "shrinking"
        else:
            phase = "standing still" if pruning.stands_still(step) else "at the budget"
        self.spent.setdefault(phase, []).append(now - self.last)
        self.last = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tiny-t5")
    parser.add_argument("--size", choices=SIZES, help="instead of --backbone: a T5 of this size, random weights")
    parser.add_argument("--task", default="sentiment")
    parser.add_argument("--budget", default="0.2%")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        compare(args, str(random_backbone(args.size, Path(folder))) if args.size else args.backbone)


def compare(args: argparse.Namespace, backbone: str) -> None:
    given = {"task": args.task, "backbone": backbone, "device": "cpu", "steps": args.steps, "progress": False}
    ratios = []
    for seed in range(args.pairs):
        with tempfile.TemporaryDirectory() as folder:
            began, phases = time.process_time(), Phases()
            run = s3.search(
                mode="prune", budget=args.budget, seed=seed, out=Path(folder) / "run", save=Path(folder) / "adapter",
                callbacks=[phases], **given
            )  # fmt: skip
            middle = time.process_time()
            steps = {name: (len(some), statistics.median(some)) for name, some in phases.spent.items()}
            print("; ".join(f"{name}: {n} steps of {1000 * each:.0f} ms" for name, (n, each) in steps.items()), flush=True)
            s3.tune(run.structure(), seed=seed, save=Path(folder) / "plain", **given)
            ended = time.process_time()
        ratios.append((middle - began) / (ended - middle))
        print(f"seed {seed}: in one go {middle - began:.1f} s, plain {ended - middle:.1f} s, {ratios[-1]:.2f}", flush=True)
    print(f"median {statistics.median(ratios):.2f} of plain training, {args.steps} steps, {args.size or args.backbone}, {args.threads} threads")


if __name__ == "__main__":
    main()
