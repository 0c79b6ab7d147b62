"""The grid that heatmaps draw gates on: which row and column each gate has, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from s3pet_viz.structure import Gate, column_label, pet_type_order

#: Canonical modules, in the order of data through a block; others follow, by name.
MODULES = tuple(
    "SelfAttn.QKV SelfAttn.Q SelfAttn.K SelfAttn.V SelfAttn.KV SelfAttn.O SelfAttn "
    "CrossAttn.QKV CrossAttn.Q CrossAttn.K CrossAttn.V CrossAttn.KV CrossAttn.O CrossAttn "
    "FFN.W1 FFN.W1.gate FFN.W1.both FFN.W2 FFN "
    "SelfAttn.LN SelfAttn.Q.LN SelfAttn.K.LN SelfAttn.post.LN CrossAttn.LN CrossAttn.Q.LN CrossAttn.K.LN "
    "FFN.LN FFN.post.LN Emb.LN Final.LN".split()
)


def rows_of(gates: Sequence[Gate]) -> list[str]:
    """Row label of each gate; gates that would share a cell get rows of their own, ``... (2)``; units share one."""
    seen: dict[tuple[str, str], dict[str | int, int]] = {}
    rows = []
    for gate in gates:
        at = seen.setdefault((gate.row, gate.column), {})
        number = at.setdefault(len(at) if gate.unit is None else gate.position, len(at) + 1)
        rows.append(gate.row if number == 1 else f"{gate.row} ({number})")
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


class Grid:
    """Where each gate of a search space is drawn.

    Attributes:
        rows: row labels, top to bottom, shape (n_rows,).
        columns: column labels, left to right, with "" for the gap between the stacks, shape (n_columns,).
        row, col: place of each gate, shape (n_gates,).
        inert, pinned: rows and columns of gates that are not searched: they cannot help, or were pinned by hand; shape
            (2, n_inert), (2, n_pinned).
    """

    def __init__(self, gates: Sequence[Gate], inert: Sequence[Gate] = (), pinned: Sequence[Gate] = ()) -> None:
        drawn = [*gates, *inert, *pinned]
        self.rows = row_order(drawn)
        self.columns: list[str] = []
        for column in column_order(drawn):
            if self.columns and self.columns[-1][0] != column[0]:
                self.columns.append("")
            self.columns.append(column)
        row_at = {label: i for i, label in enumerate(self.rows)}
        column_at = {label: i for i, label in enumerate(self.columns)}
        places = np.array(
            [[row_at[label] for label in rows_of(drawn)], [column_at[g.column] for g in drawn]], dtype=np.int64
        ).reshape(2, -1)
        (self.row, self.col), self.inert, self.pinned = np.split(places, [len(gates), len(gates) + len(inert)], axis=1)

    @property
    def stacks(self) -> dict[str, tuple[int, int]]:
        """First and last column of each stack, by its letter."""
        spans: dict[str, tuple[int, int]] = {}
        for at, label in enumerate(self.columns):
            if label:
                spans[label[0]] = (spans.get(label[0], (at, at))[0], at)
        return spans

    def spread(self, values: Any, fill: Any = np.nan, dtype: Any = float) -> np.ndarray:
        """Values of gates, shape (n_gates,), as (n_rows, n_columns); `fill` where there is no gate."""
        cells = np.full((len(self.rows), len(self.columns)), fill, dtype=dtype)
        cells[self.row, self.col] = values
        return cells


def _row_key(gate: Gate, row: str, types: dict[str, int]) -> tuple[int, str, int, str]:
    module = MODULES.index(gate.module) if gate.module in MODULES else len(MODULES)
    return (module, gate.module, types[gate.pet_type], row)
