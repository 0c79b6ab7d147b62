"""Agreement against chance: exact answers where the gates are equal, and a p that is right when there is nothing to find."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from s3pet_viz.analysis.agreement import RELATIONS, Found, relations
from s3pet_viz.analysis.measures import jaccard, random_structures
from s3pet_viz.analysis.study import open_study, run_folder
from s3pet_viz.errors import ConfigError, RunError, StructureError
from s3pet_viz.runs import Run, RunWriter, open_run
from s3pet_viz.structure import Gate, Structure, probabilities, select, solve_shift


def space(counts) -> tuple[Gate, ...]:
    return tuple(Gate(i, f"encoder.block.{i}", "encoder", i, "SelfAttn.Q", "BitFit", int(n)) for i, n in enumerate(counts))


EQUAL = space([5] * 100)
MIXED = space([3, 50, 7, 11, 20, 4, 9, 30, 12, 8])


def found(chosen, *, task="a", params=50, mode="fast", seed=0, gates=EQUAL, backbone="tiny") -> Found:
    structure = Structure(tuple(gates[i] for i in chosen), backbone, 10_000, params)
    return Found(task, str(params), mode, seed, structure, tuple(gates), params)


def random_study(rng: np.random.Generator, questions, gates=MIXED) -> list[Found]:
    made = []
    for task, params, mode, seed in questions:
        (row,) = random_structures([g.n_params for g in gates], params, draws=1, seed=int(rng.integers(2**60)))
        made.append(found(np.flatnonzero(row), task=task, params=params, mode=mode, seed=seed, gates=gates))
    return made


def one(table: pd.DataFrame, relation: str, by: str = "gates") -> pd.Series:
    (row,) = [row for _, row in table.iterrows() if (row["relation"], row["by"]) == (relation, by)]
    return row


def exact(n: int, a: int, b: int) -> float:
    """Expected Jaccard of a and b of n equal gates: the shared ones are hypergeometric."""
    k = np.arange(min(a, b) + 1)
    return float(scipy.stats.hypergeom(n, a, b).pmf(k) @ (k / (a + b - k)))


def test_equal_structures_agree_fully():
    table = relations([found(range(10), seed=s) for s in range(3)], draws=199)
    assert list(table.columns) == ["relation", "by", "overlap", "chance", "low", "high", "above", "p", "pairs", "structures"]
    assert list(zip(table["relation"], table["by"], strict=True)) == [("other seed", "gates"), ("other seed", "params")]
    row = one(table, "other seed")
    assert (row["overlap"], row["above"], row["p"], row["pairs"], row["structures"]) == (1, True, 1 / 200, 3, 3)
    assert row["chance"] == pytest.approx(exact(100, 10, 10), abs=0.01)
    assert row["low"] < row["chance"] < row["high"] < 0.2


def test_nothing_shared_is_not_above_chance():
    row = one(relations([found(range(10 * s, 10 * s + 10), seed=s) for s in range(2)], draws=99), "other seed")
    assert (row["overlap"], row["above"], row["p"]) == (0, False, 1)


def test_chance_knows_the_budgets():
    """Nested structures of 10 and 40 gates overlap by 0.25; chance gives 0.0876, not the value of two equal budgets."""
    table = relations([found(range(10), params=50), found(range(40), params=200)], draws=2000)
    row = one(table, "other budget")
    assert row["overlap"] == 0.25
    assert row["chance"] == pytest.approx(exact(100, 10, 40), abs=0.003)
    assert abs(exact(100, 10, 40) - exact(100, 40, 40)) > 0.1
    assert row["p"] == 1 / 2001


def test_the_band_is_of_the_mean_and_keeps_shared_structures_together():
    """Six structures have 15 pairs; those are not 15 independent ones, nor is the band that of a single pair."""
    questions = [("a", 40, "fast", s) for s in range(6)]
    row = one(relations(random_study(np.random.default_rng(0), questions), draws=4000), "other seed")
    counts = [g.n_params for g in MIXED]
    rng = np.random.default_rng(1)
    drawn = random_structures(counts, 40, draws=6 * 4000, seed=int(rng.integers(2**60))).reshape(4000, 6, -1)
    both = (drawn[:, :, None] & drawn[:, None]).sum(-1) / (drawn[:, :, None] | drawn[:, None]).sum(-1)
    mean = np.mean([both[:, i, j] for i, j in itertools.combinations(range(6), 2)], axis=0)
    assert row["chance"] == pytest.approx(mean.mean(), abs=0.005)
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(mean, [0.025, 0.975])), abs=0.012)
    single = np.quantile(both[:, 0, 1], [0.025, 0.975])
    assert row["high"] - row["low"] < 0.7 * (single[1] - single[0])


def test_overlaps_are_those_of_the_measures():
    rng = np.random.default_rng(2)
    questions = [(t, b, m, s) for t in "ab" for b in (20, 60) for m in ("fast", "paper") for s in (0, 1)]
    study = random_study(rng, questions)
    table = relations(study, draws=9)
    assert table["relation"].drop_duplicates().tolist() == list(RELATIONS) == ["other seed", "other task", "other budget", "other mode"]
    same = {
        "other seed": lambda a, b: a[:3] == b[:3],
        "other task": lambda a, b: a[0] != b[0] and a[1:3] == b[1:3],
        "other budget": lambda a, b: a[0] == b[0] and a[1] != b[1] and a[2] == b[2],
        "other mode": lambda a, b: a[:2] == b[:2] and a[2] != b[2] and a[3] == b[3],
    }
    for name, rule in same.items():
        pairs = [(study[i].structure, study[j].structure) for i, j in itertools.combinations(range(16), 2) if rule(questions[i], questions[j])]
        assert one(table, name)["pairs"] == len(pairs)
        assert one(table, name)["structures"] == 16
        assert one(table, name)["overlap"] == pytest.approx(np.mean([jaccard(a, b) for a, b in pairs]))
        assert one(table, name, "params")["overlap"] == pytest.approx(np.mean([a.overlap(b, weighted=True) for a, b in pairs]))
    assert [one(table, name)["pairs"] for name in RELATIONS] == [8, 16, 16, 8]


def test_p_is_right_when_there_is_nothing_to_find():
    """400 studies of random structures: p is at most x in a share x of them (it can be lower, for ties), mean 0.5."""
    rng = np.random.default_rng(3)
    gates = space(rng.integers(3, 60, size=40))
    questions = [(t, b, "fast", s) for t in "ab" for b in (100, 250) for s in (0, 1)]
    p = {name: [] for name in ("other seed", "other task", "other budget")}
    for _ in range(400):
        table = relations(random_study(rng, questions, gates), draws=59, seed=int(rng.integers(2**60)))
        for name, values in p.items():
            values.append(one(table, name, "params")["p"])
    for name, values in p.items():
        assert np.mean(values) == pytest.approx(0.5, abs=0.05), name
        for level in (0.05, 0.2, 0.5):
            error = np.sqrt(level * (1 - level) / 400)
            assert np.mean(np.array(values) <= level) == pytest.approx(level, abs=3.5 * error), (name, level)


@settings(max_examples=25, deadline=None)
@given(st.randoms(), st.integers(0, 10**6))
def test_the_order_of_searches_does_not_matter(random, seed):
    questions = [(t, b, "fast", s) for t in "ab" for b in (20, 60) for s in (0, 1)]
    study = random_study(np.random.default_rng(seed), questions)
    # A second search space: without its first gate, the rest in another order.
    smaller = tuple(reversed(MIXED[1:]))
    study += [s._replace(seed=7) for s in random_study(np.random.default_rng(seed), [("a", 20, "fast", 0)], smaller)]
    mixed = random.sample(study, len(study))
    pd.testing.assert_frame_equal(relations(study, draws=19), relations(mixed, draws=19), check_exact=True)


def test_a_smaller_space_draws_only_from_itself():
    """Both take every gate of their own space, so their random structures do too: 9 of 10 gates are always shared."""
    everything = [found(range(10), params=154, gates=MIXED), found(range(9), params=154, seed=1, gates=MIXED[1:])]
    row = one(relations(everything, draws=50), "other seed")
    assert (row["overlap"], row["chance"], row["low"], row["high"], row["p"]) == (0.9, 0.9, 0.9, 0.9, 1)
    assert one(relations(everything, draws=50), "other seed", "params")["chance"] == pytest.approx(151 / 154)


def test_45_searches_of_232_gates_take_less_than_3_seconds():
    rng = np.random.default_rng(4)
    gates = space(rng.integers(50, 3000, size=232))
    study = random_study(rng, [(t, b, "fast", s) for t in "abcde" for b in (2000, 4000, 10_000) for s in range(3)], gates)
    start = time.process_time()
    table = relations(study, draws=400)
    assert time.process_time() - start < 3
    assert table["pairs"].tolist()[::2] == [45, 270, 135]


# -- runs --------------------------------------------------------------------------------------------------


def search(path, *, task, seed, budget=30) -> Run:
    gates, rng = space([20, 10, 20, 10, 12, 6, 6]), np.random.default_rng(seed)
    counts = [g.n_params for g in gates]
    facts = {"backbone": "tiny", "backbone_params": 10_000, "budget": budget, "name": path.name}
    config = {"task": task, "budget": f"{budget / 100:g}%", "mode": "fast", "seed": seed}
    with RunWriter.create(path, gates=gates, config=config, extra=facts) as writer:
        alpha = rng.normal(size=7)
        zeta = solve_shift(alpha, counts, budget)
        writer.append(step=0, seconds=0.1, zeta=zeta, train_loss=1, val_loss=1, lr=1e-3, alpha=alpha, p=probabilities(alpha, zeta))
        writer.set_status("finished")
    return open_run(path)


def test_runs(tmp_path):
    runs = [search(tmp_path / f"{t}{s}", task=f"data/tasks/{t}", seed=s) for t in ("rte", "cb") for s in (0, 1)]
    own = Found.of(runs[0])
    assert own[:4] == ("rte", "0.3%", "fast", 0)
    assert own.params == 30
    assert own.structure == runs[0].structure()
    assert own.gates == runs[0].gates_list
    wider = Found.of(runs[0], budget="0.5%")
    assert (wider.budget, wider.params) == ("0.5%", 50)
    assert [g.index for g in wider.structure.gates] == list(select(runs[0].alpha(), runs[0].counts, 50))
    table = relations([*runs, wider], draws=20)
    pd.testing.assert_frame_equal(table, relations([wider, *map(Found.of, runs)], draws=20))
    assert [one(table, name)["pairs"] for name in ("other seed", "other task", "other budget")] == [2, 4, 2]


def test_a_run_without_steps(tmp_path):
    with RunWriter.create(tmp_path / "none", gates=EQUAL, config={}, extra={"budget": 50, "name": "none"}):
        pass
    with pytest.raises(RunError, match="no steps recorded yet"):
        relations([found(range(10)), open_run(tmp_path / "none")])


# -- what is refused ---------------------------------------------------------------------------------------


def test_refused():
    a, b = found(range(10)), found(range(10), seed=1)
    other = space([9, 9])
    elsewhere = tuple(Gate(i, f"decoder.block.{i}", "decoder", i, "SelfAttn.Q", "BitFit", 5) for i in range(3))
    for study, kind, message in [
        ([a], ConfigError, "expected at least two structures, found 1"),
        ([a, found(range(5))], ConfigError, "expected each task, budget, mode and seed once, found a, 50, fast, seed 0 twice"),
        ([a, found(range(10), task="b", params=60)], ConfigError, "expected two structures that differ in one of task, budget, mode or seed"),
        ([a, found(range(10), seed=1, backbone="large")], StructureError, "expected structures of one backbone, found large, tiny"),
        ([a, found([0], seed=1, gates=elsewhere)], StructureError, "the search space of a shares no gate with the others"),
        ([a, b._replace(gates=EQUAL[1:])], StructureError, "gate encoder.block.0 BitFit of a is not in its search space"),
        ([a, found([0], seed=1, gates=other)], StructureError, "gate encoder.block.0 BitFit has 9 parameters in a and 5 elsewhere"),
        ([a, b._replace(gates=space([0] * 100))], StructureError, "size of gate encoder.block.0 BitFit is not known"),
    ]:
        with pytest.raises(kind, match=message):
            relations(study)
    with pytest.raises(ConfigError, match="draws: expected 1 or more, found 0"):
        relations([a, b], draws=0)


def test_a_study_counts_searches_whose_runs_were_not_passed_on():
    study = open_study("minilm")
    gone = [c["key"] for c in study.cells if c["kind"] == "search" and c["labels"]["seed"] != 0]
    assert gone
    assert not any(run_folder(study.path, key).is_dir() for key in gone)
    seeds = study.agreement(draws=19).query("relation == 'other seed' and by == 'gates'").iloc[0]
    # By hand, from the structures alone.
    searches = [c for c in study.cells if c["kind"] == "search"]
    of = {(c["labels"]["task"], c["labels"]["seed"]): study.structure(c["key"]) for c in searches}
    keys = {at: {g.key for g in s.gates} for at, s in of.items()}
    pairs = [(keys[a], keys[b]) for a, b in itertools.combinations(sorted(keys), 2) if a[0] == b[0]]
    assert seeds["pairs"] == len(pairs)
    assert seeds["overlap"] == pytest.approx(np.mean([len(a & b) / len(a | b) for a, b in pairs]))
