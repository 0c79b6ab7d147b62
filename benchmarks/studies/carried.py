"""Does a structure that was found on a shallow model serve a deeper one? `Structure.fit_to`, measured.

    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/studies/carried.py

The deeper model is tiny-t5 (4 + 4 layers). The shallow one is every other layer of it, all of whose weights are then
trained on three of the embedded tasks. On the two other tasks, the shallow model is searched at 0.2 %, the structure is
carried to tiny-t5 at the same share, and trained there; so are two random structures of that size with the same seed,
and the recorded structure that was searched on tiny-t5 itself. One row per training goes to
benchmarks/measured/carried.jsonl; rows that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student
from transformers import T5ForConditionalGeneration

import s3pet_viz as s3
from s3pet_viz.backbones import load_backbone, positions
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.pet import candidate_gates, load_space
from s3pet_viz.tasks import load_task
from s3pet_viz.training.batches import Features
from s3pet_viz.tuning import Workbench
from s3pet_viz.tuning.baselines import random_structure

ROOT = Path(__file__).resolve().parents[2]
LEARNED, TARGETS = ("similarity", "paraphrase", "acceptability"), ("sentiment", "entailment")
KEPT, BUDGET, SEEDS, RANDOM = (0, 2), "0.2%", (0, 1, 2), 2
METHODS = ("carried", "own search", *(f"random {k}" for k in range(RANDOM)))


def shallow(folder: Path, steps: int) -> Path:
    """Every other layer of tiny-t5, trained on `LEARNED` in turn; saved once."""
    if (folder / "config.json").exists():
        return folder
    made = load_backbone("tiny-t5")
    config = made.model.config.to_dict() | {"num_layers": len(KEPT), "num_decoder_layers": len(KEPT)}
    model = T5ForConditionalGeneration(type(made.model.config)(**config))
    own, theirs = model.state_dict(), made.model.state_dict()
    for name in own:
        parts = name.split(".")
        if "block" in parts:
            parts[2] = str(KEPT[int(parts[2])])
        own[name] = theirs[".".join(parts)]
    model.load_state_dict(own)
    parts = []
    for name in LEARNED:
        data = load_task(name, form="text")
        parts.append(Features(data.train, made, data.task))
    optimiser = torch.optim.AdamW(model.parameters(), lr=7e-4, weight_decay=0.0)
    draw = np.random.default_rng(0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 7e-4 * (1 - step / steps)
        features = parts[step % len(parts)]
        loss = model(**features.batch(draw.choice(len(features), 32, replace=False), "cpu"), use_cache=False).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if step % 100 < len(parts):
            print(f"shallow: step {step}, {LEARNED[step % len(parts)]} loss {float(loss):.3f}", flush=True)
    model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "carried")
    parser.add_argument("--rows", type=Path, default=ROOT / "benchmarks" / "measured" / "carried.jsonl")
    parser.add_argument("--pretrain-steps", type=int, default=600)
    parser.add_argument("--search-steps", type=int, default=200)
    parser.add_argument("--tune-steps", type=int, default=400)
    parser.add_argument("--report", action="store_true", help="only the table of the rows that are there")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.rows.read_text().splitlines()] if args.rows.exists() else []
    if args.report:
        report(rows)
        return
    done = {(r["task"], r["seed"], r["method"]) for r in rows}
    small = shallow(args.work / "shallow", args.pretrain_steps)
    for task in TARGETS:
        bench = Workbench.open(task, "tiny-t5", device="cpu")
        gates, _ = candidate_gates(positions(bench.backbone.model), load_space("S3PET-M"))
        for seed in SEEDS:
            if all((task, seed, method) in done for method in METHODS):
                continue
            out = args.work / f"{task}-s{seed}"
            if out.exists():
                run = s3.search(resume=out, progress=False) if s3.open_run(out).status != "finished" else s3.open_run(out)
            else:
                run = s3.search(
                    task=task, backbone=small, budget=BUDGET, steps=args.search_steps, seed=seed, device="cpu", out=out,
                    progress=False,
                )  # fmt: skip
            carried = run.structure().fit_to(bench.backbone)
            found = {"carried": carried, "own search": s3.open_run(f"{task}-0.2pct-s{seed}").structure()}
            for k in range(RANDOM):
                found[f"random {k}"] = random_structure(gates, carried.budget or 0, bench.backbone, 100 * k + seed)
            for method, structure in found.items():
                if (task, seed, method) in done:
                    continue
                began = time.perf_counter()
                scores = bench.run(structure, TuneConfig(steps=args.tune_steps, evaluations=3, seed=seed), progress=False)
                row = {
                    "task": task, "seed": seed, "method": method, "score": scores.score, "loss": scores.metrics["loss"],
                    "pet_params": scores.pet_params, "gates": scores.n_gates, "seconds": round(time.perf_counter() - began, 1),
                    "left_out": len(carried.source["fit"]["left_out"]) if method == "carried" else None,
                }  # fmt: skip
                rows.append(row)
                print(row, flush=True)
                with args.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    report(rows)


def report(rows: list[dict]) -> None:
    """Means per task, and carried minus each other, paired by task and seed (random: the mean of two)."""
    table: dict[tuple[str, int, str], list[dict]] = {}
    for row in rows:
        table.setdefault((row["task"], row["seed"], row["method"].split(" ")[0]), []).append(row)
    pairs = sorted({key[:2] for key in table if all((*key[:2], m) in table for m in ("carried", "own", "random"))})
    mean = lambda key, what: float(np.mean([r[what] for r in table[key]]))  # noqa: E731
    print("\n| task | method | score | held-out loss | PET parameters |\n|---|---|---|---|---|")
    for task in dict.fromkeys(task for task, _ in pairs):
        for method in ("carried", "own", "random"):
            keys = [(t, seed, method) for t, seed in pairs if t == task]
            score, loss, size = (np.mean([mean(k, what) for k in keys]) for what in ("score", "loss", "pet_params"))
            print(f"| {task} | {method} | {100 * score:.1f} | {loss:.4f} | {size:,.0f} |")
    for other in ("random", "own"):
        for what in ("score", "loss"):
            gaps = [mean((t, s, "carried"), what) - mean((t, s, other), what) for t, s in pairs]
            half = student.ppf(0.975, len(gaps) - 1) * np.std(gaps, ddof=1) / len(gaps) ** 0.5
            middle = np.mean(gaps)
            print(f"{what}: carried - {other} = {middle:+.3f} ({middle - half:+.3f} to {middle + half:+.3f}, n = {len(gaps)})")


if __name__ == "__main__":
    main()
