"""A planted problem, whose gates are known, searched by three seeds: it is learned and stable, and without a rate neither."""

from __future__ import annotations

import pytest
from search_problems import FewGatesCarryTheSignal, toy_search

import s3pet_viz as s3


@pytest.mark.parametrize(("lr", "learned", "seeds"), [(0.05, "learned", "stable"), (0.0, "not-learned", "not-known")])
def test_the_planted_problem(tmp_path, lr, learned, seeds):
    options = {"mode": "fast", "steps": 80 if lr else 20, "lr": lr}
    problem = FewGatesCarryTheSignal()
    runs = [toy_search(tmp_path / f"s{s}", seed=s, problem=FewGatesCarryTheSignal(), **options) for s in range(3)]
    made = {a.line: a.code for a in s3.trust(runs).answers}
    assert (made["learned"], made["seeds"]) == (learned, seeds)
    if lr:
        assert all({g.index for g in run.structure().gates} == problem.signal for run in runs)
