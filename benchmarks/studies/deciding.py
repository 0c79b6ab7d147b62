"""Which way to place few parameters is worth its cost? The ways side by side, each trained until it is done.

    python benchmarks/studies/deciding.py --dry-run       # cells left, and hours from the finished ones
    python benchmarks/studies/deciding.py                 # the same line again goes on; two of them share the work
    python benchmarks/studies/deciding.py --only one-go   # some of the ways alone
    python benchmarks/studies/deciding.py --part minilm --data path/to/datasets

The parts (`PARTS`), seed by seed, so that seed 0 of everything is there first:

- tiny: tiny-t5 on its five tasks, space S3PET-M, 0.1 % and 0.2 %, seeds 0 to 2.
- minilm: MiniLM on sst2, stsb and qnli, S3PET-M, 0.0139 %, seeds 0 and 1; scored on a part of the training rows that
  is held out.
- ranks: tiny-t5, space LoRA-ranks at 1.1 %, where the ways that other people know can meet: prune, gradient, gora,
  plop, AdaLoRA, DomLoRA, LoRA on every linear layer, random, full; seeds 0 to 2.
- ranks-minilm: the same on MiniLM's sst2 at 0.2 %, seeds 0 and 1.

Each is a study of its own (data/studies/deciding, deciding-minilm, ...), and opens by that name, for instance
`s3.open_study("deciding")`. A cell is a structure and its training; it is written as a whole when it ends, and Ctrl-C
loses the one that runs. Trainings without a structure are taken over from the part before where they are the same.

THE DECISION RULE, written before the runs: the default mode is the cheapest one whose paired difference to the best
mode (same task and seed) has a 95 % lower bound above -2 points; else the best.

What is done:

- fast: 200 steps, the structures recorded in data/studies/tiny-t5 (with the seconds of that time), searched anew where
  one is missing (those had also the 8 gates that cannot help to choose from, and chose none of them). prune: 400 steps.
  gradient: one pass of 2,048 training rows. random: one draw a seed.
- LoRA (rank 1 on every query and value) and full have no budget and no search.
- one-go: a prune search that goes on training at its final structure; as many steps as prune and its training may have.
- Every training has steps="auto" with a cap of 1,200 and ends by the validation rows; the test rows are only scored.
  AdaLoRA, whose ranks go by the steps that are left, has 1,200.

The learning rates, `RATES`, were chosen by the validation loss of two tasks that no study reports (order, parts), with
steps="auto" and one seed: benchmarks/studies/choosing_rates.py. No score of the five tasks was looked at for it.
Of a random structure at 0.2 %, on order: 0.116 at 2.5e-3, 0.119 at 5e-3, 0.081 at 1e-2; on parts 0.118 at 5e-3, 0.140
at 1e-2. None is better on both, so the package's default stays, 5e-3. Of all weights, on order alone: 0.0076 at 3.5e-4,
0.0134 at 7e-4 (the package's default), 0.0107 at 1.4e-3; so 3.5e-4. The searches keep 5e-3 too, which was first
chosen on three of the five tasks (docs/results.md). MiniLM's are those of benchmarks/studies/minilm.py: the best of
four weights by held-out training rows.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from studies_common import STUDIES
from tiny_t5 import TASKS

import s3pet_viz as s3
from s3pet_viz.analysis.study import KIND, PACKED, SCHEMA_VERSION, packed
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import S3PETError, StudyError
from s3pet_viz.files import json_ready, write_json_atomic, write_text_atomic
from s3pet_viz.pet import load_space
from s3pet_viz.runs.lock import LockHeldError, WriterLock
from s3pet_viz.structure import Structure
from s3pet_viz.structure.budget import Budget
from s3pet_viz.studies.cells import Cell, key_of
from s3pet_viz.tuning import Workbench
from s3pet_viz.tuning.adalora import NAME as ADALORA
from s3pet_viz.tuning.adalora import AdaLoRA
from s3pet_viz.tuning.baselines import EVERYWHERE, against_budget, lora_everywhere, manual_structure, random_structure
from s3pet_viz.tuning.one_pass import ONE_PASS_METHODS, one_pass_structure

WITHOUT = ("LoRA", "full")  # neither budget nor search
SEARCH_STEPS = {"fast": 200, "prune": 400}
TRAINING = {"steps": "auto", "max_steps": 1200}
#: Forward and backward passes of a batch: fast takes three a step, two in the first 20; prune one (and a look at the
#: held-out loss now and then, forward only).
PASSES = {"fast": 3 * SEARCH_STEPS["fast"] - 20, "prune": SEARCH_STEPS["prune"]}


@dataclass(frozen=True)
class Part:
    """A study: every method on every task, at every budget and seed."""

    study: str
    backbone: str
    tasks: tuple[str, ...]
    budgets: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    lr: float
    full_lr: float
    space: str = "S3PET-M"
    #: A study whose searches of fast mode are taken, and one whose trainings of all weights are.
    searched: str | None = None
    trained: str | None = None

    @property
    def folder(self) -> Path:
        return STUDIES / self.study

    @property
    def training(self) -> dict[str, Any]:
        return {**TRAINING, "lr": self.lr, "full_lr": self.full_lr}

    def cells(self, only: Sequence[str] = ()) -> list[Cell]:
        """Seed by seed, task by task."""
        made = []
        for seed in self.seeds:
            for task in self.tasks:
                for method in self.methods:
                    for budget in self.budgets if method not in WITHOUT else ("",):
                        if not only or method in only:
                            made.append(self.cell(task, budget, method, seed))
        return made

    def cell(self, task: str, budget: str, method: str, seed: int) -> Cell:
        size = Budget.parse(budget).parameters(backbone_size(self.backbone)) if budget else 0
        labels = {
            "task": task, "budget": budget, "budget_params": size, "method": method, "mode": "", "source": "",
            "draw": seed if method == "random" else 0, "seed": seed,
        }  # fmt: skip
        options = self.training | ({"steps": TRAINING["max_steps"]} if method == ADALORA else {})
        what = {"options": options, "steps": SEARCH_STEPS.get(method), "space": self.space}
        return Cell(key_of(task, budget, method, f"s{seed}"), "tune", labels, what)


WAYS = ("fast", "prune", "gradient", "random", "one-go", *WITHOUT)
RANKS = ("prune", "gradient", "gora", "plop", ADALORA, "domlora", EVERYWHERE, "random", "full")
TINY = {"backbone": "tiny-t5", "tasks": TASKS, "seeds": (0, 1, 2), "lr": 5e-3, "full_lr": 3.5e-4}
MINILM = {"backbone": "minilm", "seeds": (0, 1), "lr": 3e-3, "full_lr": 1e-4}
PARTS: dict[str, Part] = {
    "tiny": Part("deciding", budgets=("0.1%", "0.2%"), methods=WAYS, searched="tiny-t5", **TINY),
    "minilm": Part("deciding-minilm", tasks=("sst2", "stsb", "qnli"), budgets=("0.0139%",), methods=WAYS, **MINILM),
    "ranks": Part("deciding-ranks", budgets=("1.1%",), methods=RANKS, space="LoRA-ranks", trained="deciding", **TINY),
    "ranks-minilm": Part(
        "deciding-ranks-minilm",
        tasks=("sst2",),
        budgets=("0.2%",),
        methods=RANKS,
        space="LoRA-ranks",
        trained="deciding-minilm",
        **MINILM,
    ),
}


@lru_cache(maxsize=1)
def backbone_size(backbone: str) -> int:
    return s3.load_backbone(backbone).n_params


def write_plan(folder: Path, part: Part, cells: list[Cell]) -> None:
    """study.json; cells that are there already stay.

    Raises:
        StudyError: they were planned with other options: one study is not made of two.
    """
    path = folder / "study.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cells": []}
    before = {cell["key"]: cell["what"] for cell in known["cells"]}
    for cell in cells:
        if before.get(cell.key, cell.what) != json.loads(json.dumps(cell.what)):
            raise StudyError(
                f"{path}: expected {cell.key} with {cell.what}, found {before[cell.key]}; give another --out"
            )
    new = [cell.to_dict() for cell in cells if cell.key not in before]
    if not new:
        return
    call = {"study": part.study, "backbone": part.backbone, "space": part.space, "training": part.training}
    call["search_steps"] = SEARCH_STEPS
    info = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "calls": [call],
    }
    write_json_atomic(path, json_ready({**info, "cells": [*known["cells"], *new]}))


# -- a cell ----------------------------------------------------------------------------------------------------


class Work:
    """The cells of a part, done.

    Args:
        data: the folder with the tasks that are not embedded.
    """

    def __init__(self, part: Part, data: Path | None = None) -> None:
        self.part, self.data = part, data
        self.bench = lru_cache(maxsize=1)(self.open_bench)

    def place(self, task: str) -> dict[str, Any]:
        """Where a task and its rows are: embedded, or a folder whose held-out rows come from its training split."""
        if self.part.backbone == "tiny-t5":
            return {"task": task}
        if self.data is None:
            raise StudyError(f"{task}: expected --data with the folder that has it")
        return {"task": str(self.data.resolve() / task), "split": "holdout"}

    def open_bench(self, task: str) -> Workbench:
        return Workbench.open(backbone=self.part.backbone, device="cpu", **self.place(task))

    def search(self, labels: dict[str, Any], out: Path, **options: Any) -> s3.Run:
        return s3.search(
            backbone=self.part.backbone, budget=labels["budget"], space=self.part.space, seed=labels["seed"],
            device="cpu", out=out, progress=False, **self.place(labels["task"]), **options,
        )  # fmt: skip

    def structure_of(self, labels: dict[str, Any], bench: Workbench) -> tuple[Any, dict[str, Any]]:
        """What is trained, and what it cost: passes and seconds to the structure."""
        part, method, seed, size = self.part, labels["method"], labels["seed"], labels["budget_params"]
        if method == "full":
            return "full", {}
        if method == "LoRA":
            return manual_structure("LoRA", bench.backbone), {}
        if method == EVERYWHERE:
            return lora_everywhere(bench.backbone, size), {}
        if method == ADALORA:
            return AdaLoRA(bench.backbone, size, self.config(labels)), {}
        if method == "random":
            return random_structure(bench.candidates(load_space(part.space)).gates, size, bench.backbone, seed), {}
        if method in ONE_PASS_METHODS:
            made = one_pass_structure(bench, method, budget=size, space=part.space, seed=seed, progress=False)
            return made, {"passes": made.source["steps"], "search_seconds": made.source["seconds"]}
        key = key_of("search", labels["task"], labels["budget"], "fast", f"s{seed}")
        if method == "fast" and part.searched and (found := recorded(part.searched).result(key)):
            return recorded(part.searched).structure(key), {
                "passes": PASSES["fast"], "search_seconds": found["row"]["seconds"],
            }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            run = self.search(labels, Path(folder) / "run", mode=method, steps=SEARCH_STEPS[method])
            facts = {"passes": PASSES[method], "search_seconds": float(run.steps()["seconds"].sum())}
            return run.structure(), facts | learned(run.structure())

    def config(self, labels: dict[str, Any]) -> TuneConfig:
        return TuneConfig(
            **self.part.cell(**{n: labels[n] for n in ("task", "budget", "method", "seed")}).what["options"],
            seed=labels["seed"],
        )

    def do(self, labels: dict[str, Any]) -> dict[str, Any]:
        """The result of a cell."""
        if labels["method"] == "full" and (known := self.trained_before(labels)):
            return known
        bench = self.bench(labels["task"])
        if labels["method"] == "one-go":
            return self.one_go(labels, bench)
        method, facts = self.structure_of(labels, bench)
        scores = bench.run(method, self.config(labels), label=labels["method"], progress=False)
        row = {k: v for k, v in scores.row().items() if k not in ("method", "task", "seed")}
        row |= {"passes": 0, "search_seconds": 0.0, "metric": bench.splits.data.task.metrics[0], **facts}
        row["one_answer"] = bench.splits.test.constant_loss()
        if labels["budget_params"]:
            stands = against_budget(scores.structure, labels["budget_params"])
            row |= {name: stands[name] for name in ("meets_budget", "words")}
        structure = {} if scores.structure is None else {"structure": scores.structure.to_dict()}
        return {"row": row, "history": scores.history, "decided_on": scores.decided_on, **structure}

    def trained_before(self, labels: dict[str, Any]) -> dict[str, Any] | None:
        """The same training of all weights, from another part that has the same options."""
        if self.part.trained is None:
            return None
        found = finished(STUDIES / self.part.trained).get(key_of(labels["task"], "", "full", f"s{labels['seed']}"))
        return None if found is None else {name: found[name] for name in ("row", "history", "decided_on")}

    def one_go(self, labels: dict[str, Any], bench: Workbench) -> dict[str, Any]:
        """A prune search of as many steps as prune and its training may have, scored with the weights it ends with."""
        steps = SEARCH_STEPS["prune"] + TRAINING["max_steps"]
        with tempfile.TemporaryDirectory() as folder:
            run = self.search(labels, Path(folder) / "run", mode="prune", steps=steps, save=Path(folder) / "adapter")
            structure, metrics = run.structure(), dict(s3.Adapter.from_pretrained(Path(folder) / "adapter").scores)
            seconds = float(run.steps()["seconds"].sum())
        size = structure.n_params
        row = {
            **metrics, "metric": bench.splits.data.task.metrics[0], "pet_params": size, "n_gates": len(structure),
            "percent": 100 * size / bench.backbone.n_params,
            "head_params": sum(p.numel() for p in bench.backbone.head.values()), "best_step": steps,
            "steps_taken": steps, "seconds": seconds, "search_seconds": seconds, "passes": steps,
            "one_answer": bench.splits.test.constant_loss(), **learned(structure),
        }  # fmt: skip
        return {"row": row, "structure": structure.to_dict()}


@lru_cache(maxsize=1)
def recorded(name: str) -> s3.Study:
    return s3.open_study(STUDIES / name)


def learned(structure: Structure) -> dict[str, bool]:
    """Whether a prune search says that it learned its task, and kept it; its own word is in the structure's source."""
    word = structure.source.get("task_learned")
    return {} if word is None else {"task_learned": word == "learned"}


# -- the work --------------------------------------------------------------------------------------------------


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Whether the lock was free; it is ours inside then, and gone afterwards."""
    try:
        lock = WriterLock(path)
    except LockHeldError:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def append(folder: Path, result: dict[str, Any]) -> None:
    """Add a cell to cells.jsonl: the file is replaced as a whole, by one process at a time."""
    while True:
        with held(folder / "append.lock") as free:
            if free:
                path = folder / PACKED
                before = path.read_text(encoding="utf-8") if path.exists() else ""
                write_text_atomic(
                    path, before + json.dumps(json_ready(result), ensure_ascii=False, allow_nan=False) + "\n"
                )
                return
        time.sleep(0.2)


def finished(folder: Path) -> dict[str, dict[str, Any]]:
    return {key: result for key, (_, result) in packed(folder).items()}


def say_left(left: list[Cell], done: dict[str, dict[str, Any]]) -> None:
    print(f"{len(left)} cells left, {len(done)} done")
    if not done:
        return
    took = pd.DataFrame(
        [(r["method"], r["seconds"], r["cpu_seconds"]) for r in done.values()], columns=["method", "wall", "cpu"]
    )
    mean, every = took.groupby("method").mean(), took[["wall", "cpu"]].mean()
    hours: Any = 0.0
    for method, count in pd.Series([cell.labels["method"] for cell in left]).value_counts().items():
        one = mean.loc[method] if method in mean.index else every
        hours = hours + count * one / 3600
        print(f"  {method}: {count} cells of {one['wall']:.0f} s ({one['cpu']:.0f} s on an idle core)")
    if left:
        print(
            f"about {hours['wall']:.1f} hours of one process ({hours['cpu']:.1f} on an idle core), from {len(done)} cells"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="tiny")
    parser.add_argument("--data", type=Path, help="the folder with sst2, stsb, ...: the parts of MiniLM need it")
    parser.add_argument("--only", nargs="+", metavar="METHOD", choices=dict.fromkeys((*WAYS, *RANKS)), default=())
    parser.add_argument("--limit", type=int, metavar="N", help="do at most N cells now")
    parser.add_argument("--dry-run", action="store_true", help="do nothing; say what is left")
    parser.add_argument("--out", type=Path, help="default: the part's study under data/studies")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    part = PARTS[args.part]
    if args.part.endswith("minilm") and args.data is None and not args.dry_run:
        parser.error(f"--part {args.part}: expected --data with the folder that has {', '.join(part.tasks)}")
    folder, cells, work = args.out or part.folder, part.cells(args.only), Work(part, args.data)
    done = finished(folder)
    if args.dry_run:
        say_left([cell for cell in cells if cell.key not in done], done)
        return 0
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    with held(folder / "append.lock") as free:
        if free:
            write_plan(folder, part, cells)
    count = failed = 0
    for cell in cells:
        if args.limit is not None and count >= args.limit:
            break
        with held(folder / "cells" / f"{cell.key}.lock") as free:
            if not free or cell.key in finished(folder):  # another process has it, or had
                continue
            count, started, began, cpu = count + 1, time.time(), time.monotonic(), time.process_time()
            try:
                made = work.do(dict(cell.labels))
            except S3PETError as error:  # the others go on; this one is tried again next time
                failed += 1
                print(f"{cell.key}: {error}", file=sys.stderr, flush=True)
                continue
            about = {"key": cell.key, "method": cell.labels["method"], "attempts": 1, "started": started}
            about |= {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
            about |= {"host": socket.gethostname(), "pid": os.getpid()}
            append(folder, {"status": "done", **about, **made})
            row = made["row"]
            said = f"score {row['score']:.4f}, loss {row['loss']:.4f}, {row['steps_taken']} steps"
            said += f"{', cap reached' if row.get('cap_reached') else ''} ({about['seconds']:.0f} s)"
            print(f"{time.strftime('%H:%M:%S')} {cell.key}: {said}", flush=True)
    print(f"{count - failed} cells done now, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; the same line goes on", file=sys.stderr)
        sys.exit(130)
