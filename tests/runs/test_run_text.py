"""The heatmap for the terminal, read as plain text."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from s3pet_viz.analysis.grid import column_order, row_order, rows_of
from s3pet_viz.errors import RunError
from s3pet_viz.structure import Gate
from s3pet_viz.viewer.text import text_heatmap


def lines(renderable: object, width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def deep(n_layers: int) -> list[Gate]:
    rows = [("SelfAttn.Q", "LoRA"), ("SelfAttn", "LowRankAdapter"), ("CrossAttn.LN", "BitFit")]
    return [
        Gate(i, f"m{i}", stack, layer, module, pet, 5)
        for i, (stack, layer, (module, pet)) in enumerate(
            (s, layer, row) for s in ("encoder", "decoder") for layer in range(n_layers) for row in rows
        )
    ]


def test_known_picture(gates):
    p = [0.0, 0.1, 0.3, 0.5, 0.7, 1.0, 0.95]
    shown = lines(text_heatmap(gates, p, [5, 6]))
    assert shown == [
        "                  E       D",
        "                  0 1 f   0 f",
        "SelfAttn.Q LoRA   · ░",
        "SelfAttn.Q BitFit · ▒",
        "FFN LRA                   ▓",
        "Final.LN BitFit             █●",
        "Final.LN LNFit        █●",
        "",
        "p  · 0.2  ░ 0.4  ▒ 0.6  ▓ 0.8  █ 1  (upper ends)   ● chosen (2)",
    ]


def test_units_share_a_block_and_the_legend_says_so():
    gates = [Gate(k, "encoder.0.q", "encoder", 0, "SelfAttn.Q", "LoRA", 8, {"r": 1}, k) for k in range(3)]
    gates.append(Gate(3, "encoder.0.o", "encoder", 0, "SelfAttn.O", "LoRA", 8, {"r": 1}))
    assert lines(text_heatmap(gates, [0.9, 0.8, 0.3, 0.5], [0, 1, 3])) == [
        "                E",
        "                0",
        "SelfAttn.Q LoRA █2",
        "SelfAttn.O LoRA ░●",
        "",
        "sum of p  · 0.4  ░ 0.8  ▒ 1.2  ▓ 1.6  █ 2  (upper ends)   3 rank, ● chosen (3)",
    ]


@pytest.mark.parametrize("n_layers", [2, 8, 12, 16, 24])
@pytest.mark.parametrize("width", [60, 80])
def test_it_fits_and_shows_every_gate(n_layers, width):
    gates = deep(n_layers)
    shown = lines(
        text_heatmap(gates, np.full(len(gates), 0.5), np.arange(0, len(gates), 7), width=width), width
    )
    assert max(map(len, shown)) <= width
    body = "\n".join(shown[:-2])
    assert body.count("█") == len(gates)
    assert body.count("●") == len(range(0, len(gates), 7))


def test_bool_or_indices(gates):
    p = np.linspace(0, 1, 7)
    mask = np.zeros(7, dtype=bool)
    mask[[1, 4]] = True
    assert lines(text_heatmap(gates, p, mask)) == lines(text_heatmap(gates, p, [4, 1]))
    assert "chosen (0)" in lines(text_heatmap(gates, np.zeros(7), []))[-1]


def test_wrong_shapes(gates):
    with pytest.raises(RunError, match="p: expected"):
        text_heatmap(gates, [0.5], [])
    with pytest.raises(RunError, match="selected: expected"):
        text_heatmap(gates, np.zeros(7), np.zeros(3, dtype=bool))


def test_grid_order():
    def gate(stack: str, layer: int, module: str, pet: str) -> Gate:
        return Gate(0, "m", stack, layer, module, pet, 1)

    gates = [
        gate("decoder", 0, "FFN.W1", "LoRA"),
        gate("encoder", 3, "Final.LN", "LNFit"),
        gate("encoder", 2, "SelfAttn.Q", "BitFit"),
        gate("encoder", 2, "SelfAttn.Q", "LoRA"),
        gate("encoder", -1, "Emb.LN", "BitFit"),
        gate("encoder", 0, "Odd", "LoRA"),
        gate("encoder", 0, "Odd", "LoRA"),
    ]
    # E.1 has no gate and keeps its column: distance means depth.
    assert column_order(gates) == ["E.emb", "E.0", "E.1", "E.2", "E.final", "D.0"]
    assert row_order(gates) == [
        "SelfAttn.Q · LoRA",
        "SelfAttn.Q · BitFit",
        "FFN.W1 · LoRA",
        "Emb.LN · BitFit",
        "Final.LN · LNFit",
        "Odd · LoRA",
        "Odd · LoRA (2)",
    ]
    assert rows_of(gates)[-2:] == ["Odd · LoRA", "Odd · LoRA (2)"]
