"""Rank as a choice: the units of one position are gates of rank one, and the number chosen is the rank.

They are exchangeable: two structures are compared by how many they chose at a position, never unit by unit.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s3pet_viz.errors import StructureError
from s3pet_viz.structure.gate import Gate
from s3pet_viz.structure.sizes import FORMS


def rank_keys(gates: Iterable[Gate]) -> list[tuple[str, str]]:
    """What structures are compared by: the key of each gate, with the units of a position numbered as they come.

    So a rank of 3 and one of 5 at a position share three keys of five, whichever units were chosen.
    """
    several = list(gates)
    return [
        gate.key if gate.unit is None else (gate.position, f"{gate.pet_type}.{nth}")
        for gate, nth in zip(several, nth_units(several), strict=True)
    ]


def nth_units(gates: Iterable[Gate]) -> list[int]:
    """Of each gate how many units of its place come before it, in the order given; 0 of a gate that is no unit."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for gate in gates:
        found.append(seen[gate.place])
        seen[gate.place] += gate.unit is not None
    return found


def comparable(*several: Sequence[Gate]) -> list[dict[tuple[str, str], int]]:
    """What some structures are compared by, with the parameters of each key: the keys of `rank_keys`; but at a place
    where one has units and another a whole gate (LoRA on every layer, say), the place alone, whatever the ranks.
    """
    kinds: dict[tuple[str, str], set[bool]] = {}
    for gate in itertools.chain.from_iterable(several):
        kinds.setdefault(gate.place, set()).add(gate.unit is None)
    made = []
    for gates in several:
        sizes: Counter[tuple[str, str]] = Counter()
        for key, gate in zip(rank_keys(gates), gates, strict=True):
            sizes[gate.place if len(kinds[gate.place]) > 1 else key] += gate.n_params
        made.append(dict(sizes))
    return made


def keys_by(gates: Sequence[Gate], values: ArrayLike) -> list[tuple[str, str]]:
    """Keys to match the gates of several searches by: the units of a position are numbered as their values fall.

    Args:
        values: p or alpha, shape (n_gates,); NaN where not known.
    """
    order = np.argsort(-np.nan_to_num(np.asarray(values, dtype=np.float64), nan=-np.inf), kind="stable")
    keys = dict(zip(order.tolist(), rank_keys(gates[i] for i in order), strict=True))
    return [keys[i] for i in range(len(gates))]


def by_rank(chosen: NDArray[np.bool_], gates: Sequence[Gate]) -> NDArray[np.bool_]:
    """As many units of each position as are chosen, always the first ones; shape (..., n_gates), as `chosen`."""
    places: dict[tuple[str, str], list[int]] = {}
    for i, gate in enumerate(gates):
        if gate.unit is not None:
            places.setdefault(gate.place, []).append(i)
    made = chosen.copy()
    for at in places.values():
        made[..., at] = np.arange(len(at)) < chosen[..., at].sum(axis=-1, keepdims=True)
    return made


def joined(gates: Iterable[Gate]) -> list[Gate]:
    """The same with the units of each position as one LoRA that computes what they compute together.

    Its r is their number, and its lora_alpha is s r, so that s = lora_alpha / r is that of each unit. It stands where
    the first of them stood.
    """
    made: dict[tuple[str, str], Gate] = {}
    for gate in gates:
        if gate.unit is None:
            made[gate.key] = gate
            continue
        options = {**FORMS["LoRA"].defaults, **gate.options}
        before = made.get(gate.place)
        r = 1 if before is None else before.options["r"] + 1
        size = gate.n_params if before is None else before.n_params + gate.n_params
        options |= {"r": r, "lora_alpha": options["lora_alpha"] * r}
        made[gate.place] = replace(before or gate, unit=None, n_params=size, options=options)
    return list(made.values())


def at_rank(gate: Gate, r: int) -> Gate:
    """The same LoRA at another rank; its scale, lora_alpha / r, stays."""
    options = {**FORMS["LoRA"].defaults, **gate.options}
    was = options["r"]
    options |= {"r": r, "lora_alpha": options["lora_alpha"] * r / was}
    return replace(gate, n_params=gate.n_params // was * r, options=options)


def check_units(gates: Iterable[Gate], where: str) -> None:
    """The gates of one PET type at one position are a single one, or units that are alike.

    Raises:
        StructureError: they are not; begins with `where`.
    """
    first: dict[tuple[str, str], Gate] = {}
    for gate in gates:
        if gate.unit is not None and not (gate.pet_type == "LoRA" and gate.options.get("r", 1) == 1):
            raise StructureError(f"{where}: expected units of LoRA of rank 1, found {gate.name} with {gate.options}")
        other = first.setdefault(gate.place, gate)
        if (gate.unit is None) != (other.unit is None):
            raise StructureError(f"{where}: expected {' '.join(gate.place)} as one gate or as units, found both")
        if (gate.n_params, gate.options) != (other.n_params, other.options):
            raise StructureError(
                f"{where}: expected units of {' '.join(gate.place)} of one size and with the same options, found "
                f"{other.n_params:,} parameters, {other.options}, and {gate.n_params:,}, {gate.options}"
            )
