"""Two runs whose numbers are known: a small encoder-decoder and an encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s3pet_viz.runs import Run, RunWriter, open_run
from s3pet_viz.structure import Gate, probabilities, solve_shift

BUDGET = 40


def space(n_encoder: int, n_decoder: int) -> list[Gate]:
    gates: list[Gate] = []

    def add(stack: str, layer: int, module: str, pet: str, size: int) -> None:
        position = f"{stack}.{layer}.{module}"
        gates.append(Gate(len(gates), position, stack, layer, module, pet, size))

    for stack, depth in (("encoder", n_encoder), ("decoder", n_decoder)):
        for layer in range(depth):
            add(stack, layer, "SelfAttn.LN", "LNFit", 5)
            add(stack, layer, "SelfAttn.Q", "LoRA", 10)
            add(stack, layer, "SelfAttn.Q", "BitFit", 5)
            if stack == "decoder":
                add(stack, layer, "CrossAttn.LN", "BitFit", 5)
        if depth:
            add(stack, depth, "Final.LN", "LNFit", 5)
    return gates


def write(path: Path, gates: list[Gate], n_steps: int, name: str = "tiny") -> Run:
    """alpha of gate i at step t is t * sin(i)."""
    counts = np.array([g.n_params for g in gates])
    facts = {"backbone": "tiny", "backbone_params": 100_000, "budget": BUDGET, "name": name}
    with RunWriter.create(path, gates=gates, config={}, extra=facts) as writer:
        for step in range(n_steps):
            alpha = step * np.sin(np.arange(len(gates)))
            zeta = solve_shift(alpha, counts, BUDGET)
            writer.append(
                step=step, seconds=step, zeta=zeta, train_loss=1, val_loss=1, lr=1e-3,
                alpha=alpha, p=probabilities(alpha, zeta),
            )  # fmt: skip
        writer.set_status("finished")
    return open_run(path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write(tmp_path / "run", space(3, 2), 8)


@pytest.fixture
def encoder(tmp_path: Path) -> Run:
    return write(tmp_path / "encoder", space(6, 0), 4)


@pytest.fixture
def empty(tmp_path: Path) -> Run:
    return write(tmp_path / "empty", space(2, 2), 0)


@pytest.fixture
def hostile(tmp_path: Path) -> Run:
    return write(tmp_path / "hostile", space(2, 2), 3, name="<script>alert(1)</script>")


@pytest.fixture
def large(tmp_path: Path) -> Run:
    return write(tmp_path / "large", space(130, 130), 3)
