"""What a page is told of a transfer study."""

from __future__ import annotations

import contextlib
import functools
import html
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from s3pet_viz.analysis import Transfer
from s3pet_viz.analysis.measures import chance_overlap, random_structures
from s3pet_viz.errors import S3PETError
from s3pet_viz.figures.transfer import Words, compared, yardsticks
from s3pet_viz.structure import Gate, Structure
from s3pet_viz.structure.units import by_rank, comparable, rank_keys
from s3pet_viz.viewer.documents import Doc, space_doc
from s3pet_viz.viewer.state import mark_of

_DRAWS = 400  # pairs of random structures behind the overlap that chance gives


def transfer_doc(matrix: Transfer, *, key: str, theme: str = "auto") -> Doc:
    """Every matrix that can be asked for, and the structures behind its cells."""
    trained = matrix.table()
    seeds: list[int | None] = [None, *sorted({int(seed) for seed in trained["seed"]})]
    matrices = [
        _matrix(matrix, trained, value, relative, seed)
        for value in ("score", "loss")
        for relative in (None, *yardsticks(matrix))
        for seed in seeds
    ]
    found: dict[str, Structure] = {}
    for source, target, seed in itertools.product(matrix.sources, matrix.targets, seeds):
        with contextlib.suppress(S3PETError):  # this source has none of this seed; the cell says so
            name = f"{source}|{target}|{'' if seed is None else seed}"
            found[name] = matrix.structure(source, seed=seed, target=target)
    space = matrix.gates() or []
    gates: dict[tuple[str, str], Gate] = dict(zip(rank_keys(space), space, strict=True))
    known = bool(gates)
    for structure in found.values():
        for gate_key, gate in zip(rank_keys(structure.gates), structure.gates, strict=True):
            known &= gate_key in gates
            gates.setdefault(gate_key, gate)
    at = {gate_key: i for i, gate_key in enumerate(gates)}
    doc: Doc = {
        "id": key,
        "kind": "transfer",
        "theme": theme,
        "title": repr(matrix),
        "hint": "click a cell to see the two structures behind it",
        "sources": matrix.sources,
        "targets": matrix.targets,
        "matrices": matrices,
        "space": space_doc(list(gates.values())),
        "structures": {name: _structure(structure, at) for name, structure in found.items()},
        "shared": {name: _shared(structure, own) for name, structure, own in _pairs(found)},
        "chance": _chances(found, list(gates.values())) if known else {},
    }
    return doc | {"of": mark_of(doc)}


def _structure(structure: Structure, at: dict[tuple[str, str], int]) -> Doc:
    seed = structure.source.get("seed")
    words = f"{len(structure):,} gates, {structure.n_params:,} parameters"
    return {
        "gates": [at[gate_key] for gate_key in rank_keys(structure.gates)],
        "used": structure.n_params,
        "budget": structure.budget,
        "words": words + (f" · search of seed {seed}" if seed is not None else ""),
    }


def _matrix(matrix: Transfer, trained: Any, value: Any, relative: Any, seed: int | None) -> Doc:
    table = compared(matrix, trained, value, relative, seed)
    said = Words(table, value, relative)
    scale, shape = said.scale(), (-1, len(matrix.targets))
    values = table["value"].to_numpy(dtype=float) * said.factor
    share = (values - scale["zmin"]) / (scale["zmax"] - scale["zmin"])
    if value == "loss":  # darker, or bluer, is better
        share = 1 - share
    shades = np.clip(np.nan_to_num(share, nan=0.5), 0, 1).tolist()
    columns = zip(values.tolist(), shades, said.cells(), said.hover(), table["own"], strict=True)
    cells = [
        {
            "value": number,
            "shade": shade,
            "text": text.replace("<br>", " "),
            "mark": bool(own),
            "hover": [html.unescape(which), told + trained, overlap],
        }
        for number, shade, text, (which, told, trained, overlap), own in columns
    ]
    width = len(matrix.targets)
    return {
        "value": value,
        "relative": relative or "",
        "seed": "" if seed is None else str(seed),
        "rows": table["source"].to_numpy().reshape(shape)[:, 0].tolist(),
        "title": said.long,
        "note": said.better,
        "centred": relative in ("own", "random"),
        "cells": [cells[i : i + width] for i in range(0, len(cells), width)],
    }


def _pairs(found: dict[str, Structure]) -> Iterator[tuple[str, Structure, Structure]]:
    """The two structures behind each cell off the diagonal: the source's, and the target's own."""
    for name, structure in found.items():
        source, target, seed = name.rsplit("|", 2)
        own = found.get(f"{target}|{target}|{seed}")
        if own is not None and source != target:
            yield name, structure, own


def _shared(one: Structure, other: Structure) -> tuple[int, float]:
    """How many gates (of units and whole gates: places) both have, and their Jaccard index."""
    mine, theirs = comparable(one.gates, other.gates)
    return len(mine.keys() & theirs.keys()), one.overlap(other)


def _chances(found: dict[str, Structure], gates: list[Gate]) -> dict[str, float]:
    """Mean Jaccard of random structures of the two budgets behind each cell off the diagonal."""
    counts = [gate.n_params for gate in gates]
    if min(counts) < 1:
        return {}

    @functools.cache
    def chance(*budgets: int) -> float:
        drawn = [random_structures(counts, budget, draws=_DRAWS, seed=i) for i, budget in enumerate(budgets)]
        return chance_overlap(*(by_rank(chosen, gates) for chosen in drawn)).mean

    return {
        name: chance(structure.budget or structure.n_params, own.budget or own.n_params)
        for name, structure, own in _pairs(found)
    }
