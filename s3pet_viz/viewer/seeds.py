"""What a page that compares runs is told of their seeds: do they agree, and at which gates do two sets of them differ
beyond what seeds make by themselves."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from typing import Any

from s3pet_viz.analysis.trust import agreement_of, same_question
from s3pet_viz.errors import S3PETError
from s3pet_viz.figures.difference import difference_table, told
from s3pet_viz.runs import Run

#: Sets of seeds that are looked at, and numbers of all their differences, at most: the page opens at once.
_SETS, _NUMBERS = 12, 200_000
_DRAWS = 199


def seeds_doc(runs: Mapping[int, Run], places: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """Agreement of each set of seeds in words; and of each two sets that can be compared the differences.

    Args:
        runs: by their number in the document. places: of each gate in its space.
    """
    number = {run.path: i for i, run in runs.items()}
    sets = [group for group in same_question(list(runs.values())) if len(group) > 1][:_SETS]
    pairs, size = [], 0
    for a, b in itertools.combinations(sets, 2):
        gates = a[0].gates_list
        size += len(gates)
        if size > _NUMBERS or any(gate.unit is not None for gate in gates):
            continue  # units are matched anew in each comparison
        try:
            table = difference_table(a, b)
        except S3PETError:  # more than one thing differs, or another space
            continue
        keys = zip(table["position"], table["pet_type"], strict=True)
        pairs.append(
            {
                "a": [number[run.path] for run in a],
                "b": [number[run.path] for run in b],
                "words": told(table),
                "at": [places[key] for key in keys],
                "difference": table["difference"].tolist(),
                "q": table["q"].tolist(),
                "remains": table.index[table["remains"]].tolist(),
            }
        )
    agreement = []
    for group in sets:
        with contextlib.suppress(S3PETError):  # a structure that is damaged is said where it is opened
            agreement.append(agreement_of(group, _DRAWS))
    return {"agreement": agreement, "pairs": pairs, "sets": [[number[run.path] for run in group] for group in sets]}
