"""Learning rates of steps="auto" for the embedded backbone, chosen on two tasks that no study reports.

    python benchmarks/studies/choosing_rates.py            # train what is missing, then print the table

The tasks are drawn from the grammar of the embedded ones, by other rules and from another seed. The held-out loss of
the validation rows decides; test rows are not looked at. One JSON line a training goes to the file --out.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import make_tasks
from grammar import Grammar
from pairs import Row, altered, pair_clause, respell

from s3pet_viz.backbones import positions
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.pet import candidate_gates, load_space
from s3pet_viz.structure.budget import Budget
from s3pet_viz.tuning import Workbench
from s3pet_viz.tuning.baselines import random_structure

#: Rates that are tried, of a random structure at 0.2 % and of all weights.
RATES = {"random": (5e-3, 1e-2, 2.5e-3), "full": (7e-4, 3.5e-4, 1.4e-3)}


def order(rng: random.Random, label: int) -> Row:
    """Sentences of which half have words in a wrong order, none of their verb, or a word twice."""
    grammar = Grammar(rng, plain=True)
    how = rng.choice((make_tasks.break_order, make_tasks.break_missing, make_tasks.break_double))
    while True:
        clause = grammar.clause(depth=0, extras=0.5)
        broken = how(rng, clause)
        if broken and broken != clause.text():
            return {"text": (clause.text() if label else broken) + "."}


def parts(rng: random.Random, label: int) -> Row:
    """Two sentences in the same voice and order that say the same, or differ in two parts of their meaning."""
    grammar = Grammar(rng, plain=True)
    while True:
        clause = pair_clause(grammar, 0.6)
        first, second = clause.text(), respell(grammar, clause if label else altered(grammar, clause), 0.3).text()
        if first != second:
            return {"sentence1": first + ".", "sentence2": second + "."}


#: Task -> how a row is made, and the embedded task whose fields, label words and prefix it has.
TASKS = {"order": (order, "acceptability"), "parts": (parts, "paraphrase")}


def write_tasks(folder: Path, seed: int = 1000) -> None:
    for name, (maker, like) in TASKS.items():
        make_tasks.META[name], make_tasks.MAKERS[name] = make_tasks.META[like], maker
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "task.json").write_text(json.dumps(make_tasks.task_json(name) | {"prefix": like}))
        for split, rows in make_tasks.make_task(name, seed).items():
            (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(bench: Workbench, method: str, rate: float, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    gates, _ = candidate_gates(positions(bench.backbone.model), load_space("S3PET-M"))
    size = Budget.parse("0.2%").parameters(bench.backbone.n_params)
    what = "full" if method == "full" else random_structure(gates, size, bench.backbone, seed)
    config = TuneConfig(steps="auto", seed=seed, **{"full_lr" if method == "full" else "lr": rate}, **options)
    scores = bench.run(what, config, progress=False)
    return {
        "loss": scores.validation["loss"], "steps_taken": scores.steps_taken, "cap_reached": scores.cap_reached,
        "best_step": scores.best_step, "seconds": scores.seconds, "history": scores.history,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/rates.jsonl"))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="*", default=list(RATES), choices=list(RATES))
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(r["task"], r["method"], r["rate"], r["seed"]) for r in rows}
    with tempfile.TemporaryDirectory() as folder, args.out.open("a") as out:
        write_tasks(Path(folder))
        for task in args.tasks:
            bench = Workbench.open(Path(folder) / task, "tiny-t5", device="cpu")
            for seed in range(args.seeds):
                for method, rate in ((m, rate) for m in args.methods for rate in RATES[m]):
                    if (task, method, rate, seed) not in done:
                        row = {"task": task, "method": method, "rate": rate, "seed": seed}
                        rows.append(row | train(bench, method, rate, seed, {}))
                        out.write(json.dumps(rows[-1]) + "\n")
                        out.flush()
                        print({k: v for k, v in rows[-1].items() if k != "history"}, flush=True)
    print(pd.DataFrame(rows).pivot_table(index=["method", "rate"], columns="task", values="loss").round(4).to_markdown())


if __name__ == "__main__":
    main()
