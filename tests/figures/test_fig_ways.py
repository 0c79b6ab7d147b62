"""Ways to place, and the modules that lead: tables by hand, and what the figures show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import s3pet_viz as s3
from s3pet_viz.analysis.intervals import interval
from s3pet_viz.analysis.measures import jaccard
from s3pet_viz.analysis.ways import Placed, Way, Ways
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import modules, modules_table, ways, ways_table

RUNS = [f"sentiment-0.2pct-s{seed}" for seed in range(3)]


@pytest.fixture(scope="module")
def opened():
    return [s3.open_run(name) for name in RUNS]


def test_a_study_s_ways():
    asked = {"task": "sentiment", "budget": "0.2%", "draws": 20}
    table = ways_table("tiny-t5", **asked)
    assert list(table["method"][:2]) == ["searched", "random"]
    study = s3.open_study("tiny-t5")
    rows = study.at_home().query("task == 'sentiment' and budget == '0.2%'")
    assert table.loc[0, "score"] == pytest.approx(rows.loc[rows["method"] == "searched", "score"].mean())
    sides = [[study.structure(key) for key in rows.loc[rows["method"] == name, "key"]] for name in ("searched", "gradient")]
    by_hand = np.mean([jaccard(a, b) for a in sides[0] for b in sides[1]])
    pair = ways_table("tiny-t5", **asked, methods=["searched", "gradient"], of="pairs").iloc[1]
    assert pair["overlap"] == pytest.approx(by_hand)
    assert 0 < pair["chance"] < 0.15
    assert pair["above"]


def test_own_ways(opened):
    own = {"search": opened, "one": opened[0].structure()}
    gates = ways_table(own, of="gates")
    counts = sum(len(run.structure()) for run in opened)
    assert gates.loc[gates["method"] == "search", "share"].sum() == pytest.approx(counts / 3)
    one = gates[gates["method"] == "one"]
    assert one["most"].sum() == len(opened[0].structure())
    figure = ways(own, draws=20)
    assert figure.data[-1].name == "agreement"
    assert figure.data[-1].z[1][1] != figure.data[-1].z[1][1]  # one structure has no pair with itself
    foreign = replace(opened[0].structure(), backbone="other")
    table = ways_table({"search": opened, "foreign": foreign}, draws=20)
    assert list(table["method"]) == ["search"]
    assert table.attrs["left_out"] == {"foreign": "is for other"}


def test_what_is_pinned_in_is_of_random_structures_too():
    """Of five gates of 10 one is pinned in and one more fits: two random structures are alike in 1 of 4 pairs, else they
    share the pinned one of three."""
    gates = tuple(s3.Gate(i, f"encoder.{i}.FFN", "encoder", i, "FFN", "LoRA", 10) for i in range(5))
    source = {"pinned": {"in": [gates[4].name]}}
    chosen = [s3.Structure((gates[i], gates[4]), "tiny", 1000, 20, source) for i in (0, 0)]
    made = Ways("t", "", 20, "", (Way("a", tuple(Placed(one, gates[:4]) for one in chosen), ()),), {})
    pair = made.pairs(draws=4000).iloc[0]
    assert pair["overlap"] == 1
    assert pair["chance"] == pytest.approx(1 / 4 + 3 / 4 / 3, abs=0.03)
    assert not pair["above"]  # a quarter of random pairs agree as much
    of_run = ways_table({"a": chosen}, of="pairs", space=None)
    assert np.isnan(of_run["chance"].iloc[0])  # no run names the space


def test_an_interval_of_accuracies_stays_within_what_they_can_be(opened):
    def scored(*values):
        way = Way("a", (Placed(opened[0].structure(), None),), values)
        return Ways("t", "", 0, "accuracy", (way,), {}).table(draws=1).iloc[0]

    near = scored(0.9, 0.99, 0.98)
    assert near["high"] == 1.0
    assert near["low"] == pytest.approx(interval([0.9, 0.99, 0.98]).low)
    assert interval([0.9, 0.99, 0.98]).high > 1
    assert scored(0.0, 0.02, 0.01)["low"] == 0.0
    other = scored(0.9, 1.4, 1.1)  # no share
    assert other["high"] == pytest.approx(interval([0.9, 1.4, 1.1]).high)
    assert np.isnan(scored(0.9)["high"])


def test_modules_that_lead(opened):
    table = modules_table({"a": opened[0], "b": opened[1]})
    structure = opened[0].structure()
    ffn = sum(gate.n_params for gate in structure.gates if gate.module == "FFN.W2") / structure.n_params
    mine = table[(table["task"] == "a") & (table["group"] == "FFN.W2")].iloc[0]
    assert mine["share"] == pytest.approx(ffn)
    assert set(table["task"]) == {"a", "b", "all"}
    assert table.groupby("task")["share"].sum().tolist() == pytest.approx([1, 1, 1])
    leading = table[table["leads"] & table["pooled"]].iloc[0]
    named = modules_table({"all": opened[0], "b": opened[1]})
    assert dict(zip(named["task"], named["pooled"], strict=True)) == {"all": False, "b": False, "all tasks": True}
    assert list(modules({"all": opened[0], "b": opened[1]}).layout.xaxis.ticktext) == ["all", "b", "all tasks"]
    assert leading["group"] in leading["says"]
    assert len(modules("minilm-open", by="place").data) == 3


@pytest.mark.parametrize(
    ("source", "asked", "words"),
    [
        ("tiny-t5", {}, "task: expected one of sentiment"),
        ("tiny-t5", {"task": "sentiment", "budget": "9%"}, "budget: expected one of"),
        ("tiny-t5", {"task": "sentiment", "seed": 7}, "seed: expected one of 0, 1, 2, found 7"),
        ("tiny-t5", {"task": "sentiment", "methods": ["nope"]}, "methods: expected one of"),
        ({"a": RUNS[0]}, {"task": "sentiment"}, "task: expected a study"),
        ({"a": []}, {}, "at least one structure for 'a'"),
        ([5], {}, "a list of Scores, found 5"),
        (5, {}, "expected a study"),
    ],
)
def test_what_is_refused(source, asked, words):
    with pytest.raises(ConfigError, match=words):
        ways_table(source, **asked)


def test_foretold_says_how_few():
    matrix = s3.Transfer("tiny-t5")
    made = matrix.foretold({"same": matrix.overlap()})
    assert list(made["by"]) == ["overlap", "overlap", "same", "same"]
    assert made.loc[0, "correlation"] == made.loc[2, "correlation"] == matrix.foretold_by(matrix.overlap()).mean
    assert (made["targets"] == 5).all()
    assert (made["pairs"] == 20).all()
    assert made["says"].str.contains("5 targets are few").equals(~made["settled"])
    with pytest.raises(ConfigError, match="scores: expected"):
        matrix.foretold(5)


def test_a_correlation_may_be_below_0():
    from s3pet_viz.analysis.intervals import Interval
    from s3pet_viz.analysis.ways import _within_scores

    wide = Interval(0.1, -0.6, 1.2, 3)
    assert _within_scores(wide, [0.0, 0.1, 0.2], "accuracy")[1:3] == (0, 1)
    assert _within_scores(wide, [0.0, 0.1, 0.2], "pearson")[1:3] == (-0.6, 1)
    assert _within_scores(wide, [0.0, 0.1, 20.0], "rouge") == wide
