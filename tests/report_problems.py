"""Runs for the report and the watcher: known numbers, and text that tries to be a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from s3pet_viz.runs import Run, RunWriter, open_run
from s3pet_viz.structure import Gate, probabilities, solve_shift

BUDGET = 40
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--"


def space(evil: str = "") -> list[Gate]:
    """Fourteen gates of an encoder-decoder; `evil` is put into what a file may say of a gate."""
    gates: list[Gate] = []
    for stack in ("encoder", "decoder"):
        for layer in range(2):
            for module, pet, size in (("SelfAttn.Q", "LoRA", 10), ("SelfAttn.Q", "BitFit", 5), ("FFN", "LowRankAdapter", 8)):
                gates.append(
                    Gate(len(gates), f"{stack}.{layer}.{module}{evil}", stack, layer, module + evil, pet, size, {"r": 1})
                )
        gates.append(Gate(len(gates), f"{stack}.final{evil}", stack, 2, "Final.LN", "LNFit", 5))
    return gates


def write_run(
    path: Path, n_steps: int = 60, *, status: str | None = "finished", evil: str = "", seed: int = 0, **extra: Any
) -> Run:
    """alpha of gate i at step t is t sin(i + seed) / 20."""
    gates = space(evil)
    counts = np.array([g.n_params for g in gates])
    config = {"task": f"mood{evil}", "mode": "fast", "seed": seed, "steps": n_steps, f"key{evil}": [f"value{evil}"]}
    facts = {
        "name": f"{path.name}{evil}", "backbone": f"tiny{evil}", "backbone_params": 10_000, "budget": BUDGET,
        "steps_total": max(n_steps, 1), "versions": {"torch": f"2.x{evil}"}, **extra,
    }  # fmt: skip
    writer = RunWriter.create(path, gates=gates, config=config, extra=facts)
    for step in range(n_steps):
        alpha = step * np.sin(np.arange(len(gates)) + seed) / 20
        zeta = solve_shift(alpha, counts, BUDGET)
        writer.append(
            step=step, seconds=0.5, zeta=zeta, train_loss=2 / (step + 1), val_loss=3 / (step + 1), lr=1e-3,
            alpha=alpha, p=probabilities(alpha, zeta),
        )  # fmt: skip
    if status is not None:
        if n_steps:
            writer.write_structure(open_run(path).structure())
        writer.set_status(status, **({"error": f"it broke{evil}"} if status == "failed" else {}))
    writer.close()
    return open_run(path)
