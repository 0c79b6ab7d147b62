"""The grid that heatmaps draw gates on: which row and column each gate has, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from s3pet_viz.structure import Gate, column_label, pet_type_order

#: Canonical modules, in the order of data through a block; others follow, by name.
MODULES = (
    "SelfAttn.QKV",
    "SelfAttn.Q",
    "SelfAttn.K",
    "SelfAttn.V",
    "SelfAttn.O",
    "SelfAttn",
    "CrossAttn.Q",
    "CrossAttn.K",
    "CrossAttn.V",
    "CrossAttn.O",
    "CrossAttn",
    "FFN.W1",
    "FFN.W1.gate",
    "FFN.W2",
    "FFN",
    "SelfAttn.LN",
    "CrossAttn.LN",
    "FFN.LN",
    "Emb.LN",
    "Final.LN",
)


def rows_of(gates: Sequence[Gate]) -> list[str]:
    """Row label of each gate; gates that would share a cell get rows of their own, ``... (2)``."""
    seen: dict[tuple[str, str], int] = {}
    rows = []
    for gate in gates:
        cell = (gate.row, gate.column)
        seen[cell] = seen.get(cell, 0) + 1
        rows.append(gate.row if seen[cell] == 1 else f"{gate.row} ({seen[cell]})")
    return rows


def row_order(gates: Sequence[Gate]) -> list[str]:
    """Distinct rows of these gates, top to bottom: by module, then PET type."""
    types = {name: i for i, name in enumerate(pet_type_order(g.pet_type for g in gates))}
    keys = {row: _row_key(gate, row, types) for gate, row in zip(gates, rows_of(gates), strict=True)}
    return sorted(keys, key=lambda row: keys[row])


def column_order(gates: Iterable[Gate]) -> list[str]:
    """Columns of these gates, left to right: encoder, then decoder; embedding norm first, final norm last.

    Blocks in between that have no gate keep their column, so that distance means depth.
    """
    found = list(gates)
    deepest: dict[str, int] = {}
    for gate in found:
        deepest[gate.stack] = max(gate.layer, deepest.get(gate.stack, 0))
    # The final norm of n blocks has layer n, so this stops at the last block either way.
    keys = {
        column_label(stack, layer, ""): (stack != "encoder", stack, layer)
        for stack, last in deepest.items()
        for layer in range(last)
    }
    for gate in found:
        keys[gate.column] = (gate.stack != "encoder", gate.stack, gate.layer)
    return sorted(keys, key=lambda column: keys[column])


def _row_key(gate: Gate, row: str, types: dict[str, int]) -> tuple[int, str, int, str]:
    module = MODULES.index(gate.module) if gate.module in MODULES else len(MODULES)
    return (module, gate.module, types[gate.pet_type], row)
