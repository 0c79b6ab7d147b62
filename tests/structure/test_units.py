"""Rank as a choice: units of one position are exchangeable, and the budget stays exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pet_viz.analysis.agreement import Found, relations
from s3pet_viz.analysis.consensus import consensus_of
from s3pet_viz.analysis.grid import Grid
from s3pet_viz.analysis.measures import jaccard, random_structures
from s3pet_viz.errors import RunError, StructureError
from s3pet_viz.runs.layout import gates_from_parquet, gates_to_parquet
from s3pet_viz.structure import Gate, Structure, probabilities, select, solve_shift
from s3pet_viz.structure.gate import MOST_UNITS
from s3pet_viz.structure.units import by_rank, joined, keys_by, rank_keys


def space(ranks: tuple[int, ...] = (4, 3, 5), sizes: tuple[int, ...] = (20, 30, 10)) -> list[Gate]:
    """A BitFit gate, then units at several positions."""
    made = [Gate(0, "encoder.0.o", "encoder", 0, "SelfAttn.O", "BitFit", 7)]
    for layer, (units, size) in enumerate(zip(ranks, sizes, strict=True)):
        where = (f"encoder.{layer}.q", "encoder", layer, "SelfAttn.Q", "LoRA", size)
        made += [Gate(len(made) + k, *where, {"r": 1, "lora_alpha": 3}, k) for k in range(units)]
    return made


GATES = space()
subsets = st.lists(st.booleans(), min_size=len(GATES), max_size=len(GATES))
alphas = st.lists(st.floats(-5, 5), min_size=len(GATES), max_size=len(GATES))


def chosen(mask: list[bool]) -> Structure:
    return Structure(tuple(g for g, m in zip(GATES, mask, strict=True) if m))


def permuted(mask: list[bool], seed: int) -> list[bool]:
    """The units of each position in another order."""
    rng, made = np.random.default_rng(seed), np.array(mask)
    for position in {g.position for g in GATES}:
        at = [i for i, g in enumerate(GATES) if g.position == position]
        made[at] = rng.permutation(made[at])
    return made.tolist()


@given(subsets, subsets, st.integers(0, 99))
def test_permuting_units_changes_no_agreement(a, b, seed):
    one, other, turned = chosen(a), chosen(b), chosen(permuted(a, seed))
    assert turned == one
    assert hash(turned) == hash(one)
    assert one.overlap(turned) == 1
    for measure in (jaccard, lambda x, y: x.overlap(y), lambda x, y: x.overlap(y, weighted=True)):
        assert measure(one, other) == measure(turned, other) == measure(other, turned)
    ranks = [{p: sum(g.position == p for g in s.gates) for p in {g.position for g in GATES}} for s in (one, other)]
    least, most = (sum(f(ranks[0][p], ranks[1][p]) for p in ranks[0]) for f in (min, max))
    assert one.overlap(other) == (least / most if most else 1)


WHOLE = [replace(g, unit=None, n_params=50, options={"r": 2, "lora_alpha": 6}) for g in GATES if g.unit in (None, 0)]


@given(subsets, st.lists(st.booleans(), min_size=len(WHOLE), max_size=len(WHOLE)))
def test_units_and_whole_gates_are_compared_by_place(a, b):
    """Ranks that were searched beside LoRA of one rank on every layer: at a place both have something, or one has."""
    one, other = chosen(a), Structure(tuple(g for g, m in zip(WHOLE, b, strict=True) if m))
    here, there = ({g.place for g in s.gates} for s in (one, other))
    both, either = here & there, here | there
    alone = {g.place for g in one.gates} - there  # nothing of the other is there: they stay ranks
    parts = len(both) + len(there - here) + sum(g.place in alone for g in one.gates)
    assert jaccard(one, other) == one.overlap(other) == other.overlap(one) == (len(both) / parts if either else 1)
    sizes = [{p: sum(g.n_params for g in s.gates if g.place == p) for p in either} for s in (one, other)]
    least, most = (sum(f(sizes[0][p], sizes[1][p]) for p in either) for f in (min, max))
    assert one.overlap(other, weighted=True) == pytest.approx(least / most if most else 1)


@given(alphas, st.floats(0.1, 0.95))
def test_the_number_chosen_is_the_rank_and_the_budget_is_exact(alpha, share):
    counts = np.array([g.n_params for g in GATES])
    budget = max(counts.min(), share * counts.sum())
    p = probabilities(alpha, solve_shift(alpha, counts, budget))
    assert float(p @ counts) == pytest.approx(budget, rel=1e-6)
    structure = Structure(tuple(GATES[i] for i in select(alpha, counts, budget)))
    assert structure.n_params <= budget
    whole = joined(structure.gates)
    assert sum(g.n_params for g in whole) == structure.n_params
    for gate in whole:
        number = sum(g.position == gate.position for g in structure.gates)
        assert gate.unit is None
        if gate.pet_type == "LoRA":
            assert (gate.options["r"], gate.options["lora_alpha"]) == (number, 3 * number)
    # The units taken are the likeliest of their position: of those that are matched between searches, the first.
    keys = keys_by(GATES, np.where(np.isin(range(len(GATES)), [g.index for g in structure.gates]), 10.0, 0) + alpha)
    assert {keys[g.index] for g in structure.gates} == structure.rank_keys


@given(alphas, alphas, st.integers(0, 99))
def test_permuting_units_changes_no_consensus(a, b, seed):
    order = np.array(range(len(GATES)))
    rng = np.random.default_rng(seed)
    for position in {g.position for g in GATES}:
        at = np.array([i for i, g in enumerate(GATES) if g.position == position])
        order[at] = rng.permutation(at)
    p, q = (np.array(x) + 1e-3 * np.arange(len(GATES)) for x in (a, b))
    one = consensus_of([("a", GATES, p), ("b", GATES, q)], 100)
    other = consensus_of([("a", GATES, p), ("b", GATES, q[order])], 100)
    assert one.overlap(other) == 1


def test_agreement_against_chance_compares_ranks():
    """Two searches that chose other units of the same position agree wholly, and so do random ones of that rank."""
    gates = tuple(space((6,), (10,))[1:])
    gates = tuple(replace(g, index=i) for i, g in enumerate(gates))
    found = [
        Found("task", "30", "fast", seed, Structure(gates[at : at + 3], budget=30), gates, 30)
        for seed, at in ((0, 0), (1, 3))
    ]
    table = relations(found, draws=20)
    assert (table["overlap"] == 1).all()
    assert (table["chance"] == 1).all()
    drawn = by_rank(random_structures([10] * 6, 30, draws=5, seed=0), gates)
    assert drawn.sum(axis=1).tolist() == [3] * 5
    assert drawn[:, :3].all()


def test_names_keys_and_cells():
    keys = [g.key for g in GATES]
    assert len(set(keys)) == len({g.name for g in GATES}) == len({g.label for g in GATES}) == len(GATES)
    assert rank_keys(GATES) == keys
    grid = Grid(GATES)
    assert len(set(zip(grid.row, grid.col, strict=True))) == 4
    assert grid.rows == ["SelfAttn.Q · LoRA", "SelfAttn.O · BitFit"]


def test_files_keep_units_and_old_files_their_bytes(tmp_path):
    path = tmp_path / "gates.parquet"
    path.write_bytes(gates_to_parquet(GATES))
    assert gates_from_parquet(path) == tuple(GATES)
    structure = Structure(tuple(GATES[1:4]))
    assert Structure.load(structure.save(tmp_path / "s.json")).gates == structure.gates
    plain = [Gate(0, "encoder.0.q", "encoder", 0, "SelfAttn.Q", "LoRA", 20)]
    path.write_bytes(gates_to_parquet(plain))
    import pyarrow.parquet as pq

    assert "unit" not in pq.read_table(path).column_names
    assert "unit" not in plain[0].to_dict()


def test_wrong_units_are_named(tmp_path):
    with pytest.raises(StructureError, match=r"encoder\.0\.q LoRA\.1 appears twice"):
        Structure((GATES[2], replace(GATES[1], unit=1)))
    with pytest.raises(StructureError, match="as one gate or as units, found both"):
        Structure((GATES[1], replace(GATES[2], unit=None)))
    for wrong in (replace(GATES[0], unit=0), replace(GATES[1], options={"r": 2})):
        with pytest.raises(StructureError, match="expected units of LoRA of rank 1, found .*"):
            Structure((wrong,))
    with pytest.raises(StructureError, match="of one size and with the same options"):
        Structure((GATES[1], replace(GATES[2], n_params=3)))
    data = Structure((GATES[1],)).to_dict()
    for wrong in (-1, MOST_UNITS, 2.5, True, "1"):
        data["gates"][0]["unit"] = wrong
        with pytest.raises(StructureError, match=r"gates\[0\]: field 'unit': expected a whole number below"):
            Structure.from_dict(data)
    path = tmp_path / "gates.parquet"
    for gate, says in (
        (replace(GATES[2], index=1, unit=0), "row 1: gate encoder.0.q LoRA.0 appears twice"),
        (replace(GATES[2], index=1, unit=99), "field 'unit', row 1: expected -1 to 63, found 99"),
        (replace(GATES[2], index=1, unit=None), "found both"),
    ):
        path.write_bytes(gates_to_parquet([replace(GATES[1], index=0), gate]))
        with pytest.raises(RunError, match=says):
            gates_from_parquet(path)
