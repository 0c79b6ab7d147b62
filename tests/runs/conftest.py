"""A small search space and runs of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from s3pet_viz.runs import RunWriter
from s3pet_viz.structure import Gate, probabilities, solve_shift

COUNTS = (20, 10, 20, 10, 12, 6, 6)


@pytest.fixture
def gates() -> list[Gate]:
    def gate(position: str, stack: str, layer: int, module: str, pet: str, **options: int) -> Gate:
        return Gate(0, position, stack, layer, module, pet, 1, options)

    rows = [
        gate("encoder.block.0.layer.0.SelfAttention.q", "encoder", 0, "SelfAttn.Q", "LoRA", r=1),
        gate("encoder.block.0.layer.0.SelfAttention.q", "encoder", 0, "SelfAttn.Q", "BitFit"),
        gate("encoder.block.1.layer.0.SelfAttention.q", "encoder", 1, "SelfAttn.Q", "LoRA", r=1),
        gate("encoder.block.1.layer.0.SelfAttention.q", "encoder", 1, "SelfAttn.Q", "BitFit"),
        gate("decoder.block.0.layer.2", "decoder", 0, "FFN", "LowRankAdapter"),
        gate("encoder.final_layer_norm", "encoder", 2, "Final.LN", "LNFit"),
        gate("decoder.final_layer_norm", "decoder", 1, "Final.LN", "BitFit"),
    ]
    return [
        Gate(i, g.position, g.stack, g.layer, g.module, g.pet_type, n, g.options)
        for i, (g, n) in enumerate(zip(rows, COUNTS, strict=True))
    ]


@pytest.fixture
def extra() -> dict[str, object]:
    return {
        "backbone": "tiny-t5",
        "backbone_params": 10_000,
        "budget": 30,
        "tau": 1.0,
        "steps_total": 10,
        "device": "cpu",
        "versions": {"torch": "2.x"},
    }


@pytest.fixture
def create(tmp_path: Path, gates: list[Gate], extra: dict[str, object]) -> Callable[..., RunWriter]:
    def build(folder: str = "run", /, **more: object) -> RunWriter:
        return RunWriter.create(
            tmp_path / folder, gates=gates, config={"task": "glue/rte", "seed": 3}, extra={**extra, **more}
        )

    return build


@pytest.fixture
def record() -> Callable[..., None]:
    """Append steps whose alpha is known: alpha_i = step * i / 10 + shift."""

    def write(writer: RunWriter, steps: range, shift: float = 0.0) -> None:
        counts = np.array(COUNTS)
        for step in steps:
            alpha = step * np.arange(len(counts)) / 10 + shift
            zeta = solve_shift(alpha, counts, 30)
            writer.append(
                step=step, seconds=step / 2, zeta=zeta, train_loss=1 / (step + 1), val_loss=2 / (step + 1),
                lr=1e-3, alpha=alpha, p=probabilities(alpha, zeta),
            )  # fmt: skip

    return write
