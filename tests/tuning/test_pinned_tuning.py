"""`s3.score` and `s3.baselines` beside a search with pins."""

from __future__ import annotations

import pytest
from pin_problems import PIN, check, names

import s3pet_viz as s3
from s3pet_viz.structure.budget import select
from s3pet_viz.tuning import baselines


def test_a_score_with_pins(bert):
    with_pins = s3.score(workbench=bert, budget="3%", pin=PIN, progress=False)
    structure = with_pins.structure()
    check(structure)
    assert names(with_pins.pinned_in) == set(structure.source["pinned"]["in"])
    assert not {g.key for g in with_pins.gates} & {g.key for g in (*with_pins.pinned_in, *with_pins.pinned_out)}
    # Deltas are (almost) zero at the start, so that which other modules are there moves no gradient of a plain vector.
    plain = s3.score(workbench=bert, budget="3%", progress=False)
    known = dict(zip((g.key for g in plain.gates), plain.score, strict=True))
    vectors = [i for i, gate in enumerate(with_pins.gates) if gate.pet_type in ("BitFit", "LNFit")]
    assert vectors
    for i in vectors:
        assert with_pins.score[i] == pytest.approx(known[with_pins.gates[i].key], rel=0.02)
    left = structure.budget - sum(gate.n_params for gate in with_pins.pinned_in)
    assert with_pins.searched_budget() == left
    chosen = {with_pins.gates[i].key for i in select(with_pins.score, with_pins.counts, left)}
    assert structure.keys == chosen | {gate.key for gate in with_pins.pinned_in}
    assert with_pins.p @ with_pins.counts == pytest.approx(left, rel=1e-5)
    assert with_pins.table()["chosen"].sum() == len(chosen)
    at_more = with_pins.at("5%").structure()
    check(at_more)
    assert at_more.n_params > structure.n_params
    marks = [trace.name for trace in s3.figures.heatmap(with_pins).data]
    assert "pinned in by hand" in marks
    assert "pinned out by hand" in marks


def test_baselines_with_pins(bert):
    made = []
    baselines(
        workbench=bert, budget="3%", pin=PIN, methods=["random", "gradient", "BitFit"], seeds=1, n_random=2, steps=1,
        progress=False, on_scores=made.append,
    )  # fmt: skip
    assert [scores.method for scores in made] == ["random", "random", "gradient", "BitFit"]
    for scores in made[:3]:
        check(scores.structure)
    assert "pinned" not in made[3].structure.source  # takes nothing from the space
