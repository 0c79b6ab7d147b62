"""A search that starts with every gate open and shrinks its budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_problems import StopAt, toy_search

from s3pet_viz.analysis.health import health
from s3pet_viz.engine import SearchConfig
from s3pet_viz.engine.api import search
from s3pet_viz.errors import ConfigError
from s3pet_viz.structure.budget import budget_at

COUNTS = (3,) * 12
TOTAL, BUDGET = 36, 9


@given(
    step=st.integers(0, 50), opened=st.integers(0, 20), shrink=st.integers(0, 20), budget=st.integers(1, 200),
    total=st.integers(1, 100),
)  # fmt: skip
def test_the_budget_falls_from_the_whole_space_to_its_end_and_stays(step, opened, shrink, budget, total):
    now, after = (budget_at(s, budget, total, opened, shrink) for s in (step, step + 1))
    if budget >= total or step >= opened + shrink:
        assert now == budget
    elif step <= opened:
        assert now == pytest.approx(total)
    assert now >= after
    assert min(budget, total) <= now <= max(budget, total)
    if budget < total and opened < step < opened + shrink - 1:
        assert after / now == pytest.approx((budget / total) ** (1 / shrink))


@pytest.mark.parametrize("mode", ["fast", "first-order", "paper"])
def test_expected_parameters_follow_it_and_alpha_waits_for_the_weights(tmp_path, mode):
    run = toy_search(tmp_path / "run", mode=mode, budget=BUDGET, steps=20, open_steps=5, shrink_steps=6)
    expected = run.ps().astype(np.float64) @ np.array(COUNTS)
    promised = [budget_at(step, BUDGET, TOTAL, 5, 6) for step in range(20)]
    np.testing.assert_allclose(expected, promised, rtol=1e-5)
    moved = np.abs(np.diff(run.alphas(), axis=0, prepend=0)).max(axis=1) > 0
    # At p = 1 - 1e-7 alpha has next to no gradient: it may begin to move a step late.
    assert not moved[:5].any()
    assert moved[6:].all()
    assert run.structure().n_params <= BUDGET
    assert not [f for f in health(run) if f.code == "budget-not-kept"]


def test_the_gates_are_open_at_first(tmp_path):
    drawn = []

    class Look(StopAt):
        def on_step_end(self, search, step, result):
            drawn.append(search.state.gates.sample(search.state.alpha, search.state.draw(step)).z.detach().numpy())

    toy_search(tmp_path / "run", budget=BUDGET, steps=8, open_steps=3, shrink_steps=0, callbacks=[Look(-1)])
    assert min(z.min() for z in drawn[:3]) > 0.99
    assert max(z.min() for z in drawn[3:]) < 0.5


def test_an_unfinished_run_is_judged_by_the_budget_of_its_step(tmp_path):
    run = toy_search(tmp_path / "run", budget=BUDGET, steps=20, open_steps=5, shrink_steps=10, callbacks=[StopAt(12)])
    assert run.status == "stopped"
    assert not [f for f in health(run) if f.code == "budget-not-kept"]


def test_it_resumes_bit_for_bit(go):
    common = {"steps": 6, "open_steps": 2, "shrink_steps": 3, "mode": "first-order", "checkpoint_every": 1}
    whole = go("whole", **common)
    cut = go("cut", callbacks=[StopAt(4)], **common)
    assert cut.status == "stopped"
    cut = search(resume=cut.path, progress=False)
    np.testing.assert_array_equal(cut.alphas(), whole.alphas())
    np.testing.assert_array_equal(cut.ps(), whole.ps())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"open_steps": 4, "shrink_steps": 4, "steps": 8}, "open_steps and shrink_steps: .* fewer than the 8 .* 4 and 4"),
        ({"open_steps": -1}, "open_steps"),
        ({"shrink_steps": 1.5}, "shrink_steps"),
    ],
)
def test_numbers_that_cannot_be(options, said):
    with pytest.raises(ConfigError, match=said):
        SearchConfig("mood", "tiny", 9, **options)
