"""The mean probability of gates over several searches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from s3pet_viz.errors import ConfigError
from s3pet_viz.structure import Gate

#: What a search says: its name, its gates, and their p of shape (n_gates,).
Said = tuple[str, Sequence[Gate], NDArray[np.float64]]


def mean_probabilities(searches: Sequence[Said]) -> tuple[list[Gate], NDArray[np.float64]]:
    """The gates that all searches have, in the order of the first, and their mean p.

    Raises:
        ConfigError: no gate in common, or one that has another size in another search.
    """
    tables = [{g.key: (g, float(q)) for g, q in zip(gates, p, strict=True)} for _, gates, p in searches]
    common = [g for g in searches[0][1] if all(g.key in table for table in tables)]
    if not common:
        raise ConfigError(f"consensus: {', '.join(name for name, _, _ in searches[:3])} have no gate in common")
    for (name, _, _), table in zip(searches, tables, strict=True):
        for gate in common:
            other = table[gate.key][0].n_params
            if other != gate.n_params:
                raise ConfigError(
                    f"consensus: gate {gate.position} {gate.pet_type} has {gate.n_params:,} parameters in "
                    f"{searches[0][0]} but {other:,} in {name}: these are runs on different backbones"
                )
    return common, np.array([np.mean([table[g.key][1] for table in tables]) for g in common])
