"""Sums, budget path, comparison, overlap, agreement, consensus and curves: tables with known answers, then figures."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from s3pet_viz import figures as f
from s3pet_viz.analysis.measures import entropy
from s3pet_viz.errors import BudgetError, ConfigError, StructureError
from s3pet_viz.figures.budget_path import select_many
from s3pet_viz.runs import Run, RunWriter, open_run
from s3pet_viz.structure import Gate, probabilities, select, select_with_fill, solve_shift

SIZES = (10, 20, 10, 40)


def make(path: Path, alphas, *, budget=40, seed=0, sizes=SIZES, losses=None, pets=("LoRA", "BitFit")) -> Run:
    """Gates in two layers; alpha of step t is row t of `alphas`."""
    gates = [
        Gate(i, f"encoder.{i // 2}.{i}", "encoder", i // 2, "SelfAttn.Q" if i % 2 else "FFN.W1", pets[i % 2], n)
        for i, n in enumerate(sizes)
    ]
    facts = {"backbone": "tiny", "backbone_params": 100_000, "budget": budget, "name": path.name}
    with RunWriter.create(path, gates=gates, config={"task": "rte", "seed": seed}, extra=facts) as w:
        for t, alpha in enumerate(np.atleast_2d(np.asarray(alphas, dtype=float))):
            zeta = solve_shift(alpha, sizes, budget)
            loss = losses[t] if losses is not None else 1.0
            w.append(step=t, seconds=1, zeta=zeta, train_loss=loss, val_loss=2 * loss, lr=1, alpha=alpha,
                     p=probabilities(alpha, zeta))  # fmt: skip
        w.set_status("finished")
    return open_run(path)


@pytest.fixture
def small(tmp_path):
    return make(tmp_path / "small", [3, 2, 1, 0])


# -- sums --------------------------------------------------------------------------------------------------


def test_sums(small):
    p = small.p().astype(float)
    table = f.sums_table(small, by="layer").set_index("group")
    assert table.index.tolist() == ["E.0", "E.1"]
    np.testing.assert_allclose(table["expected_gates"], [p[0] + p[1], p[2] + p[3]])
    np.testing.assert_allclose(table["expected_params"], [10 * p[0] + 20 * p[1], 10 * p[2] + 40 * p[3]])
    np.testing.assert_allclose(table["mean_p"], [p[:2].mean(), p[2:].mean()])
    assert table[["gates", "params", "chosen", "chosen_params"]].to_numpy().tolist() == [[2, 30, 2, 30], [2, 50, 1, 10]]
    assert table["expected_params"].sum() == pytest.approx(40, rel=1e-5)
    assert f.sums_table(small, by="pet_type")["group"].tolist() == ["LoRA", "BitFit"]
    assert f.sums_table(small, by="module")["group"].tolist() == ["SelfAttn.Q", "FFN.W1"]
    assert f.sums_table(small.structure(), by="pet_type")["chosen"].tolist() == [2, 1]


def test_sums_of_several_are_means(small, tmp_path):
    other = make(tmp_path / "other", [0, 1, 2, 3])
    mean = f.sums_table([small, other])
    one, two = f.sums_table(small), f.sums_table(other)
    np.testing.assert_allclose(mean.iloc[:, 1:], (one.iloc[:, 1:] + two.iloc[:, 1:]) / 2)


@pytest.mark.parametrize("by", ["layer", "module", "pet_type"])
def test_sums_figure(small, by):
    figure, table = f.sums(small, by=by), f.sums_table(small, by=by)
    axis = "y" if by == "layer" else "x"
    np.testing.assert_allclose(figure.data[0][axis], table["expected_gates"])
    np.testing.assert_allclose(np.nan_to_num(np.array(figure.data[3][axis], dtype=float)), table["chosen_params"])
    assert len(f.sums(small.structure(), by=by).data) == 2  # no p: only what was chosen
    with pytest.raises(ConfigError, match="by: expected one of layer"):
        f.sums(small, by="size")


# -- budget path -------------------------------------------------------------------------------------------


@given(
    hnp.arrays(float, 12, elements=st.floats(-5, 5)),
    hnp.arrays(np.int64, 12, elements=st.integers(1, 50)),
    st.lists(st.integers(1, 400), min_size=1, max_size=6),
)
def test_selection_at_many_budgets_is_that_of_each(alpha, counts, budgets):
    many = select_many(alpha, counts, np.array(budgets))
    for row, budget in zip(many, budgets, strict=True):
        assert np.flatnonzero(row).tolist() == select(alpha, counts, budget).tolist()


def test_budget_path(small):
    table = f.budget_path_table(small, budgets=[10, "0.02%", 0.0003, 45, 80])
    path = {b: sorted(rows["gate"]) for b, rows in table.groupby("budget")}
    assert path == {10: [0], 20: [0, 2], 30: [0, 1], 45: [0, 1, 2], 80: [0, 1, 2, 3]}
    assert table.drop_duplicates("budget").set_index("budget")["used"].to_dict() == {10: 10, 20: 20, 30: 30, 45: 40, 80: 80}
    first = table.drop_duplicates("gate").set_index("gate")["enters"]
    assert first.to_dict() == {0: 10, 2: 20, 1: 30, 3: 80}
    assert f.budget_path_table(small, budgets=[45, 80], top=2)["gate"].unique().tolist() == [0, 1]
    default = f.budget_path_table(small)
    assert (default["budget"].min(), default["budget"].max()) == (10, 80)
    assert f.budget_path_table(small, budgets=[5]).empty


def test_budget_path_figure(small, empty):
    figure = f.budget_path(small, budgets=[10, 20, 30, 45, 80])
    names = [t.name for t in figure.data]
    assert names == ["used", "LoRA", "BitFit", "enters"]
    assert list(figure.data[3].x) == [10, 20, 30, 80]
    # Gate 2 (second line) is out again at 30: its line is broken there.
    x, y = (np.array(figure.data[1][axis], dtype=float) for axis in "xy")
    assert [(a, b) for a, b in zip(x[0::3], x[1::3], strict=True)] == [(10, 80), (20, 30), (45, 80)]
    assert y[0::3].tolist() == [0, 1, 1]
    assert figure.layout.xaxis.type == figure.layout.xaxis2.type == "log"
    assert len(f.budget_path(empty).data) == 2
    with pytest.raises(StructureError, match="only its chosen gates"):
        f.budget_path(small.structure())
    with pytest.raises(ConfigError, match="at least one"):
        f.budget_path(small, budgets=[])
    with pytest.raises(BudgetError):
        f.budget_path(small, budgets=["much"])


def test_budget_path_of_a_thousand_gates_is_quick(large):
    start = time.process_time()
    f.budget_path(large)
    assert time.process_time() - start < 3  # measured 0.2 s; machines differ


# -- two ---------------------------------------------------------------------------------------------------


def test_compare(small, tmp_path):
    other = make(tmp_path / "other", [0, 3, 1, 2], seed=1)
    table = f.compare_table(small, other)
    np.testing.assert_allclose(table["difference"], other.p().astype(float) - small.p())
    assert table["chosen"].tolist() == ["both", "both", "both", ""]
    assert f.compare_table(small, other, budget=20)["chosen"].tolist() == ["a", "b", "a", ""]
    figure = f.compare(small, other, budget=20)
    assert "seed 1 less seed 0" in figure.layout.title.text
    assert "overlap of the chosen gates 0.00" in figure.layout.title.text
    by_name = {t.name: t for t in figure.data[1:] if t.mode == "markers"}
    assert len(by_name["only seed 0"].x) == 2
    assert len({t.marker.symbol for t in by_name.values()}) == len({t.marker.color for t in by_name.values()}) == 3
    assert (figure.data[0].zmin, figure.data[0].zmax) == (-1, 1)
    own = f.compare(small, other, budget=20, scale="own").data[0]
    reach = f.compare_table(small, other, budget=20)["difference"].abs().max()
    assert (own.zmin, own.zmax) == pytest.approx((-reach, reach))
    drawn = f.compare(small.structure(), other.structure())
    assert drawn.data[0].showscale is False
    assert f.compare_table(small, other.structure())["chosen"].tolist() == ["both", "both", "both", ""]


def test_compare_of_different_spaces(small, tmp_path):
    wider = make(tmp_path / "wider", [3, 2, 1, 0, 5, 4], sizes=(*SIZES, 10, 10))
    table = f.compare_table(small, wider)
    assert len(table) == 6
    assert table["p_a"].isna().tolist() == [False] * 4 + [True] * 2
    assert table["chosen"].tolist()[4:] == ["b", "b"]


# -- several -----------------------------------------------------------------------------------------------


def test_overlap(small, tmp_path):
    other = make(tmp_path / "other", [0, 1, 2, 3], seed=1)  # chooses gate 3 (40 parameters)
    third = make(tmp_path / "third", [0, 3, 2, 1], seed=2)  # chooses 1, 2 and 0
    table = f.overlap_table([small, other, third])
    pairs = table.set_index(["a", "b"])
    assert pairs.loc[("seed 0", "seed 0"), ["gates", "params"]].tolist() == [1, 1]
    assert pairs.loc[("seed 0", "seed 1"), ["shared", "gates", "params"]].tolist() == [0, 0, 0]
    assert pairs.loc[("seed 0", "seed 2"), "gates"] == 1
    assert pairs.loc[("seed 0", "seed 1"), "spearman"] == pytest.approx(-1)
    assert pairs.loc[("seed 0", "seed 2"), "spearman"] == pytest.approx(1 - 6 * (9 + 1 + 1 + 1) / 60)
    assert f.overlap_table([small, small.structure()])["spearman"].isna()[1]
    at20 = f.overlap_table([small, third], budget=30).set_index(["a", "b"])
    assert at20.loc[("seed 0", "seed 2"), ["shared", "gates", "params"]].tolist() == [1, 1 / 3, 0.5]


def test_overlap_figure(small, tmp_path):
    runs = [small, make(tmp_path / "other", [0, 1, 2, 3], seed=1)]
    for by in ("gates", "params", "spearman"):
        figure = f.overlap(runs, by=by)
        assert np.array(figure.data[0].z).tolist() == f.overlap_table(runs)[by].to_numpy().reshape(2, 2).tolist()
        assert figure.data[0].zmin == (-1 if by == "spearman" else 0)
    assert figure.layout.yaxis.ticktext == ("seed 0", "seed 1")
    with pytest.raises(ConfigError, match="by: expected one of gates"):
        f.overlap(runs, by="size")
    many = f.overlap(runs * 10)
    assert many.layout.xaxis.tickangle == -90
    assert len(set(many.layout.xaxis.ticktext)) == 20


def test_agreement_of_equal_gates(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.permutation(np.arange(100.0))
    runs = [make(tmp_path / str(s), base if s < 2 else rng.permutation(base), budget=100, sizes=(10,) * 100, seed=s)
            for s in range(3)]  # fmt: skip
    table = f.agreement_table(runs, draws=2000)
    assert len(table) == 3
    assert table["overlap"].is_monotonic_decreasing
    assert (table["overlap"][0], table["a"][0], table["b"][0]) == (1, "seed 0", "seed 1")
    np.testing.assert_allclose(table["chance"], 0.0543, atol=0.005)  # hypergeometric: 10 of 100, twice
    assert (table["low"] == 0).all()
    assert table["above"].tolist() == (table["overlap"] > table["high"]).tolist()
    assert f.agreement_table(runs, draws=50).equals(f.agreement_table(runs, draws=50))
    figure = f.agreement(runs)
    assert [t.name for t in figure.data] == ["chance, 95 %", "chance, mean", "overlap"]
    assert list(figure.data[2].x) == f.agreement_table(runs)["overlap"].tolist()
    by_params = f.agreement_table(runs, by="params")
    np.testing.assert_allclose(by_params["overlap"], table["overlap"])  # all gates are of one size


def test_agreement_refuses(small, empty):
    with pytest.raises(StructureError, match="agreement: a structure has only its chosen gates"):
        f.agreement([small, small.structure()])
    with pytest.raises(ConfigError, match="at least two runs"):
        f.agreement([small])
    with pytest.raises(ConfigError, match="no steps"):
        f.agreement([empty, empty])


def test_consensus(small, tmp_path):
    other = make(tmp_path / "other", [0, 5, 1, 2], seed=1)
    structure = f.consensus_structure([small, other])
    mean = (small.p().astype(float) + other.p()) / 2
    assert [g.index for g in structure.gates] == select(mean, SIZES, 40).tolist()
    assert structure.budget == 40
    assert structure.source["consensus_of"] == ["small", "other"]
    assert (structure.backbone, structure.backbone_params) == ("tiny", 100_000)
    at = f.consensus_structure([small, other], budget=20)
    solved = (small.p(budget=20) + other.p(budget=20)) / 2
    assert [g.index for g in at.gates] == select(solved, SIZES, 20).tolist()
    table = f.consensus_table([small, other])
    np.testing.assert_allclose(table["p"], mean)
    assert set(table.loc[table["selected"], "gate"]) == {g.index for g in structure.gates}
    figure = f.consensus([small, other])
    assert [t.name for t in figure.data] == ["gates", "consensus", "casing"]
    assert not table["fill"].any()
    third = make(tmp_path / "third", [3, 0, 2, 5])
    table = f.consensus_table([small, third], budget=35)
    assert np.flatnonzero(table["fill"]).tolist() == select_with_fill(table["p"], SIZES, 35).fill.tolist() != []
    assert f.consensus_structure(small) == small.structure()


def test_consensus_refuses(small, empty, tmp_path):
    with pytest.raises(ConfigError, match=r"different budgets \(40, 60 parameters\)"):
        f.consensus_structure([small, make(tmp_path / "more", [1, 2, 3, 4], budget=60)])
    with pytest.raises(ConfigError, match="different backbones"):
        f.consensus_structure([small, make(tmp_path / "wide", [1, 2, 3, 4], sizes=(11, 20, 10, 40))])
    with pytest.raises(ConfigError, match="no steps"):
        f.consensus_structure([empty])
    with pytest.raises(BudgetError, match="smallest module"):
        f.consensus_structure([small], budget=3)


# -- curves ------------------------------------------------------------------------------------------------


def test_curves(tmp_path):
    losses = np.linspace(2, 1, 100)
    losses[50] = np.nan
    run = make(tmp_path / "run", np.outer(np.linspace(0, 1, 100), [3, 2, 1, 0]), losses=losses)
    table = f.curves_table(run)
    assert table["step"].tolist() == list(range(100))
    np.testing.assert_allclose(table["val_loss"], 2 * losses)
    assert table["train_smooth"][99] == pytest.approx(losses[95:].mean())  # 5 % of 100 steps
    assert table["train_smooth"][50] == pytest.approx(np.nanmean(losses[46:51]))
    np.testing.assert_allclose(table["expected"], 40, rtol=1e-5)
    assert table["entropy"][0] == pytest.approx(1)  # budget is half of the space: every p is one half
    assert table["entropy"][99] == pytest.approx(entropy(run.p()).mean())
    thin = f.curves_table(run, max_steps=7)
    assert thin["step"].tolist() == [*range(0, 100, 15), 99]
    assert thin["train_smooth"].iloc[-1] == table["train_smooth"].iloc[-1]
    figure = f.curves(run)
    assert [t.name for t in figure.data if t.showlegend is not False] == ["train", "validation"]
    assert "the budget of 40 parameters is kept at every step" in figure.layout.title.text
    assert figure.layout.xaxis.matches == "x2"


@pytest.mark.parametrize("off", [None, 1, 50, 2e-4])
def test_expected_parameters_are_drawn_only_where_they_say_something(tmp_path, off):
    """Off at a single step, between the drawn ones too; not for the last digits of a float."""
    gates = [Gate(i, f"encoder.{i}", "encoder", i, "SelfAttn.Q", "LoRA", 10) for i in range(8)]
    with RunWriter.create(tmp_path / "run", gates=gates, config={}, extra={"backbone": "tiny", "backbone_params": 100, "budget": 40, "name": "r"}) as w:
        for t in range(1200):
            p = np.full(8, 0.5 * (1 + off if off == 2e-4 else 1))
            if off == t:
                p[0] = 0.9
            w.append(step=t, seconds=1, zeta=0, train_loss=1, val_loss=1, lr=1, alpha=np.zeros(8), p=p)
    figure = f.curves(open_run(tmp_path / "run"))
    drawn = off in (1, 50)
    assert ("expected parameters" in [t.name for t in figure.data]) == drawn
    assert ("yaxis3" in figure.layout) == drawn
    assert ("is kept at every step" in figure.layout.title.text) == (not drawn)


def test_curves_without_steps(empty):
    assert f.curves_table(empty).empty
    assert len(f.curves(empty).data) == 5
    with pytest.raises(ConfigError, match="max_steps"):
        f.curves(empty, max_steps=0)
