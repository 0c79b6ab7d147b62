"""What several searches agree on: the mean p of their gates, and the structure that it selects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s3pet_viz.analysis.measures import need_sizes
from s3pet_viz.errors import ConfigError
from s3pet_viz.structure import Gate, Structure, select
from s3pet_viz.structure.budget import check_budget
from s3pet_viz.structure.pins import left_for, pins_said
from s3pet_viz.structure.units import keys_by

#: What a search says: its name, its gates, and their p of shape (n_gates,).
Said = tuple[str, Sequence[Gate], NDArray[np.float64]]


def mean_probabilities(searches: Sequence[Said]) -> tuple[list[Gate], NDArray[np.float64]]:
    """The gates that all searches have, in the order of the first, and their mean p. Units are matched by the order of
    their p at a position: the mean is that of the likeliest, of the second likeliest, and so on.

    Raises:
        ConfigError: no gate in common, or one that has another size in another search.
    """
    tables = [dict(zip(keys_by(gates, p), zip(gates, p, strict=True), strict=True)) for _, gates, p in searches]
    shared = {key: gate for key, (gate, _) in tables[0].items() if all(key in table for table in tables)}
    common = list(shared.values())
    if not common:
        raise ConfigError(f"consensus: {', '.join(name for name, _, _ in searches[:3])} have no gate in common")
    for (name, _, _), table in zip(searches, tables, strict=True):
        for key, gate in shared.items():
            other = table[key][0].n_params
            if other != gate.n_params:
                raise ConfigError(
                    f"consensus: gate {gate.position} {gate.pet_type} has {gate.n_params:,} parameters in "
                    f"{searches[0][0]} but {other:,} in {name}: these are runs on different backbones"
                )
    return common, np.array([np.mean([float(table[key][1]) for table in tables]) for key in shared])


def consensus_of(
    searches: Sequence[Said],
    budget: int,
    backbone: str = "",
    backbone_params: int = 0,
    *,
    pinned: Sequence[tuple[Gate, ...]] = (),
    **source: Any,
) -> Structure:
    """The structure that the mean p of several searches selects, by the rule of a single one.

    Args:
        budget: in parameters. backbone, backbone_params: of the searches. source: what else its source says.
        pinned: of each search, what was pinned in: the same in all, and in the consensus too.

    Raises:
        ConfigError: as `mean_probabilities`, or they have not the same gates pinned in. StructureError: sizes that are
            not known. BudgetError: below the smallest module.
    """
    for _, gates, _ in searches:
        need_sizes(gates, "consensus")
    common, p = mean_probabilities(searches)
    counts = [gate.n_params for gate in common]
    names = [name for name, _, _ in searches]
    inside = pinned[0] if pinned else ()
    for name, others in zip(names, pinned, strict=False):
        if {gate.key for gate in others} != {gate.key for gate in inside}:
            raise ConfigError(
                f"consensus: expected the same gates pinned in, found others in {name} than in {names[0]}"
            )
    left = left_for(budget, inside)
    if left < min(counts):
        check_budget(counts, left)  # raises, naming the smallest module
    source |= pins_said(inside)
    chosen = (*(common[i] for i in select(p, counts, left)), *(replace(g, index=len(common) + g.index) for g in inside))
    return Structure(chosen, backbone, backbone_params, budget, {"consensus_of": names, **source})
