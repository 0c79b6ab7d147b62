"""Which parts of mode prune decide what it chooses? Each is changed alone, and the structure is compared.

    OMP_NUM_THREADS=1 nice -n 5 python benchmarks/studies/prune_ablation.py    # what is missing, then the tables
    python benchmarks/studies/prune_ablation.py --print                        # the tables alone

tiny-t5, S3PET-M, 0.1 %, paraphrase (which is learned in so few steps) and sentiment (which is not), two seeds, 200
search steps of 16 rows. Every structure is then trained from scratch for 200 such steps, all with the same rates, and
its loss on the test rows is taken: a short training, which compares speeds of learning as much as structures. A cell is a search and its training, one row of
benchmarks/measured/prune-ablation.jsonl; the same line goes on after Ctrl-C. No option of the package leads here: a
way to prune is a subclass of `Pruning` (or of the batches) that the search is given in this process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import s3pet_viz as s3
from s3pet_viz.analysis.measures import jaccard
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.engine import api, prepare
from s3pet_viz.engine.prune import FLOOR, Pruning
from s3pet_viz.engine.split_batches import SplitBatches
from s3pet_viz.engine.state import VAL_MASKS, Pass, State
from s3pet_viz.files import write_text_atomic
from s3pet_viz.pet import load_space
from s3pet_viz.structure import Structure, select
from s3pet_viz.structure.budget import Budget
from s3pet_viz.structure.structure import gates_by_index
from s3pet_viz.training.batches import Features
from s3pet_viz.tuning import Workbench
from s3pet_viz.tuning.baselines import random_structure

ROWS = Path(__file__).resolve().parents[2] / "benchmarks" / "measured" / "prune-ablation.jsonl"
TASKS, SEEDS, BUDGET = ("paraphrase", "sentiment"), (0, 1), "0.1%"
STEPS, TRAINED, ROWS_A_STEP = 200, 200, 16


# -- the ways: each changes one thing --------------------------------------------------------------------------


class Square(Pruning):
    """Scores are a mean of squares."""

    def see(self, loss: float, dz: Tensor | None) -> None:
        super().see(loss, None if dz is None else dz.square())


class PerParameter(Pruning):
    """Gates are ordered by their score over their size."""

    @property
    def alpha(self) -> Tensor:
        return (self.scores / torch.tensor(self.counts)).clamp(min=FLOOR).log()


class NoReturn(Pruning):
    """A gate that was closed stays so."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.left = torch.ones(len(self.counts), dtype=torch.bool)

    def mask(self) -> Tensor:
        numbers = self.left.nonzero().flatten()
        kept = select(self.alpha[numbers].float().numpy(), [self.counts[i] for i in numbers], self.held)
        made = torch.zeros_like(self.scores)
        made[numbers[torch.from_numpy(kept)]] = 1
        return made

    def advance(self, step: int, held_out: float | None) -> None:
        super().advance(step, held_out)
        if self.opened is not None:
            self.left &= self.mask() > 0


class Linear(Pruning):
    """The budget held falls by the same number of parameters each step."""

    @property
    def held(self) -> float:
        total = float(sum(self.counts))
        if self.opened is None or total <= self.budget:
            return max(total, self.budget)
        return total + (self.budget - total) * min(1.0, self.shrunk / max(1, self.shrink_steps))


class OtherHalf(SplitBatches):
    """Half of the training rows train; the other half, ``score``, has the gradients that score."""

    def _halves(self, data: Any, backbone: Any) -> dict[str, Features]:
        made = super()._halves(data, backbone)
        rows = made["train"]
        order = np.random.default_rng(self.config.seed).permutation(len(rows.examples)).tolist()
        middle = len(order) // 2
        return {**made, "train": rows.take(sorted(order[:middle])), "score": rows.take(sorted(order[middle:]))}


def run_on_two(self: State, half: Any, step: int, z: Tensor, masks: int, **how: Any) -> Pass:
    """`State.run`, whose dz is that of a second pass, over the rows of the other half."""
    if half != "train" or not how.get("closed", True):
        return _RUN(self, half, step, z, masks, **how)
    train = _RUN(self, half, step, z, masks, **{**how, "dz": False})
    scored = _RUN(self, "score", step, z, VAL_MASKS, **{**how, "dw": False})
    return Pass(train.loss, scored.dz, train.dw)


_RUN = State.run


@dataclass(frozen=True)
class Way:
    """How a cell's structure is found.

    Attributes:
        said: in a sentence, what differs from the mode as it is.
        of: the class that prunes.
        passes: a step.
    """

    said: str
    of: type[Pruning] = Pruning
    passes: int = 1
    steps: int = STEPS
    options: dict[str, Any] = field(default_factory=dict)


WAYS = {
    "as it is": Way("mode prune, unchanged"),
    "square": Way("the score is a mean of squares, not of absolute values", Square),
    "per parameter": Way("gates are ordered by score / size", PerParameter),
    "other half": Way("half of the rows train, the other half score", passes=2),
    "linear": Way("the budget falls linearly", Linear),
    "at once": Way("the budget falls in one step", options={"shrink_steps": 1}),
    "no return": Way("a closed gate stays closed", NoReturn),
    "open for 10": Way("the open phase ends after 10 steps", options={"open_steps": 10}),
    "twice as long": Way(f"{2 * STEPS} steps", steps=2 * STEPS),
    "random": Way("no search", steps=0),
}


@contextmanager
def searching(name: str) -> Iterator[list[Pruning]]:
    """Inside, a prune search goes this way; yields a list that will hold its `Pruning`."""
    made: list[Pruning] = []

    def pruning(*args: Any, **options: Any) -> Pruning:
        made.append(WAYS[name].of(*args, **options))
        return made[-1]

    with ExitStack() as changed:
        changed.enter_context(mock.patch.object(api, "Pruning", pruning))
        if name == "other half":
            changed.enter_context(mock.patch.object(prepare, "SplitBatches", OtherHalf))
            changed.enter_context(mock.patch.object(State, "run", run_on_two))
        yield made


# -- a cell ----------------------------------------------------------------------------------------------------


def placed(bench: Workbench, name: str, task: str, seed: int, **small: Any) -> tuple[Structure, dict[str, Any]]:
    """The structure that a way finds, and what its search says of itself."""
    way, space = WAYS[name], "S3PET-M"
    if not way.steps:
        size = Budget.parse(BUDGET).parameters(bench.backbone.n_params)
        return random_structure(bench.candidates(load_space(space)).gates, size, bench.backbone, seed), {}
    with tempfile.TemporaryDirectory() as folder, searching(name) as made:
        run = s3.search(
            task=task, backbone="tiny-t5", budget=BUDGET, space=space, mode="prune", steps=way.steps, seed=seed,
            device="cpu", out=Path(folder) / "run", progress=False,
            **{"batch_size": ROWS_A_STEP, **way.options, **small},
        )  # fmt: skip
        # What is open at the end: where gates may not return, the selection from all scores is another.
        at_end = made[0].mask().nonzero().flatten().tolist()
        structure = replace(run.structure(), gates=gates_by_index(run.gates_list, at_end))
        report = run.pruning
    return structure, {"verdict": report["task"], "open_steps": report["open_steps"], "at_budget": report["at_budget"]}


def cell(bench: Workbench, name: str, task: str, seed: int, trained: int = TRAINED, **small: Any) -> dict[str, Any]:
    """Search and train; one row. `small` are options of a search for tests."""
    began = time.process_time()
    structure, said = placed(bench, name, task, seed, **small)
    searched = time.process_time()
    scores = bench.run(structure, TuneConfig(steps=trained, batch_size=ROWS_A_STEP, evaluations=1, seed=seed), progress=False)
    return {
        "task": task, "seed": seed, "way": name, "passes": WAYS[name].steps * WAYS[name].passes, **said,
        "params": structure.n_params, "loss": scores.metrics["loss"], "score": scores.score,
        "one_answer": bench.splits.test.constant_loss(),
        "search_cpu_seconds": round(searched - began, 1), "train_cpu_seconds": round(time.process_time() - searched, 1),
        "structure": structure.to_dict(),
    }  # fmt: skip


# -- the tables ------------------------------------------------------------------------------------------------


def read(path: Path) -> list[dict[str, Any]]:
    """The finished cells; a line that a kill cut off is none."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def compared(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row a cell: its overlaps with mode prune as it is and with the longer search, of its own task and seed."""
    found = {(r["task"], r["seed"], r["way"]): Structure.from_dict(r["structure"]) for r in rows}
    made = []
    for row in rows:
        mine = found[row["task"], row["seed"], row["way"]]
        entry = {k: v for k, v in row.items() if k != "structure"}
        for column, other in (("default", "as it is"), ("longer", "twice as long")):
            theirs = found.get((row["task"], row["seed"], other))
            if theirs is not None and other != row["way"]:
                entry |= {column: jaccard(mine, theirs), f"{column}_weighted": mine.overlap(theirs, weighted=True)}
        made.append(entry)
    return pd.DataFrame(made)


def seeds_agree(rows: Sequence[dict[str, Any]], way: str = "as it is") -> list[float]:
    """Overlap of a way's structures of one task and two seeds: what a change has to be held against."""
    by_task: dict[str, list[Structure]] = {}
    for row in rows:
        if row["way"] == way:
            by_task.setdefault(row["task"], []).append(Structure.from_dict(row["structure"]))
    return [jaccard(a, b) for some in by_task.values() for k, a in enumerate(some) for b in some[k + 1 :]]


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a way, over tasks and seeds; held-out losses as shares of what one answer costs."""
    cells = compared(rows)
    cells["share"] = cells["loss"] / cells["one_answer"]
    base = cells[cells["way"] == "as it is"].set_index(["task", "seed"])["share"]
    lines = [
        "| what is changed | passes | overlap with prune as it is: gates (parameters) | with twice the steps "
        "| loss, % of one answer | minus prune as it is: mean (cells) | learned |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, way in WAYS.items():
        mine = cells[cells["way"] == name]
        if mine.empty:
            continue
        gap = 100 * (mine.set_index(["task", "seed"])["share"] - base).dropna().sort_index()
        said = "–" if name == "as it is" else f"{gap.mean():+.0f} ({', '.join(f'{g:+.0f}' for g in gap)})"
        verdicts = mine["verdict"].dropna() if "verdict" in mine else pd.Series(dtype=str)
        learned = "–" if verdicts.empty else f"{(verdicts == 'learned').sum()} of {len(verdicts)}"
        overlaps = [
            f"{mine[c].mean():.2f} ({mine[f'{c}_weighted'].mean():.2f})" if c in mine and mine[c].notna().any() else "–"
            for c in ("default", "longer")
        ]
        passes = f"{mine['passes'].iloc[0]:.0f}"
        lines.append(f"| {way.said} | {passes} | {' | '.join(overlaps)} | {100 * mine['share'].mean():.0f} | {said} | {learned} |")
    seeds = seeds_agree(rows)
    if seeds:
        lines += ["", f"Two seeds of prune as it is: {np.mean(seeds):.2f} ({len(seeds)} pairs of {len(rows)} cells)."]
    return "\n".join(lines)


# -- the work --------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--limit", type=int, metavar="N", help="do at most N cells now")
    parser.add_argument("--print", action="store_true", help="run nothing")
    args = parser.parse_args()
    rows = read(args.rows)
    done = {(r["task"], r["seed"], r["way"]) for r in rows}
    left = [(t, s, w) for s in SEEDS for t in TASKS for w in args.ways if (t, s, w) not in done]
    benches: dict[str, Workbench] = {}
    for task, seed, name in [] if args.print else left[: args.limit]:
        if task not in benches:
            benches = {task: Workbench.open(task, "tiny-t5", device="cpu")}
        row = cell(benches[task], name, task, seed)
        rows.append(row)
        write_text_atomic(args.rows, "".join(json.dumps(r, allow_nan=False) + "\n" for r in rows))
        took = row["search_cpu_seconds"] + row["train_cpu_seconds"]
        print(f"{task} s{seed} {name}: loss {row['loss']:.3f} ({took:.0f} CPU seconds)", flush=True)
    print(tables(rows))
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; the same line goes on", file=sys.stderr)
        sys.exit(130)
