"""Runs to look at: small ones with known numbers, and the means to let one grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from s3pet_viz.runs import Run, RunWriter, open_run
from s3pet_viz.structure import Gate, probabilities, solve_shift

BUDGET = 40
#: A name that would run code wherever it were not escaped.
HOSTILE = "<img src=x onerror=alert(1)>"


def space(n_encoder: int, n_decoder: int, pets: int = 2) -> list[Gate]:
    """LoRA of 10 and BitFit of 5 parameters on SelfAttn.Q of every layer; with more `pets`, more modules."""
    gates: list[Gate] = []
    for stack, depth in (("encoder", n_encoder), ("decoder", n_decoder)):
        for layer in range(depth):
            for i in range(pets):
                module = ("SelfAttn.Q", "SelfAttn.K", "SelfAttn.V", "SelfAttn.O", "FFN.W1", "FFN.W2")[i // 2]
                pet, size = (("LoRA", 10), ("BitFit", 5))[i % 2]
                options = {"r": 1} if pet == "LoRA" else {}
                gates.append(Gate(len(gates), f"{stack}.{layer}.{module}", stack, layer, module, pet, size, options))
    return gates


class Growing:
    """A run that a test lets grow: alpha of gate i at step t is t * sin(i)."""

    def __init__(self, path: Path, gates: list[Gate], **facts: Any) -> None:
        config = {"task": facts.pop("task", "sentiment"), "backbone": "tiny", "seed": facts.pop("seed", 0)}
        config |= {"budget": str(BUDGET), "mode": "fast"}
        extra = {"backbone": "tiny", "backbone_params": 100_000, "budget": BUDGET, "steps_total": 10, **facts}
        self.counts = np.array([g.n_params for g in gates])
        self.writer = RunWriter.create(path, gates=gates, config=config, extra=extra)
        self.path = path
        self.step = 0

    def write(self, steps: int = 1) -> None:
        for step in range(self.step, self.step + steps):
            alpha = step * np.sin(np.arange(len(self.counts)))
            zeta = solve_shift(alpha, self.counts, BUDGET)
            self.writer.append(
                step=step, seconds=0.5, zeta=zeta, train_loss=1 / (step + 1), val_loss=2 / (step + 1), lr=1e-3,
                alpha=alpha, p=probabilities(alpha, zeta),
            )  # fmt: skip
        self.step += steps

    def end(self, status: Any = "finished", **more: Any) -> Run:
        self.writer.set_status(status, **more)
        self.writer.close()
        return open_run(self.path)
