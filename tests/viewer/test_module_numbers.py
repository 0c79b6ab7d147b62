"""The page solves, selects and ranks as Python does: on equal alpha, p to 1e-9 and the same gates."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from s3pet_viz.analysis.measures import spearman
from s3pet_viz.errors import BudgetError
from s3pet_viz.figures.budget_path import _POINTS, select_many
from s3pet_viz.structure import parse_budget, probabilities, solve_shift
from s3pet_viz.structure.budget import select_with_fill

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "gates.json").read_text())["cases"]


def same(node, alpha, counts, budget, tau=1.0) -> None:
    """What the page makes of a budget is what Python makes of it."""
    alpha, counts = np.asarray(alpha, dtype=np.float64), np.asarray(counts)
    found = node("solve", {"alpha": alpha, "counts": counts, "budget": budget, "tau": tau})
    zeta = solve_shift(alpha, counts, budget, tau)
    assert np.abs(np.array(found["p"]) - probabilities(alpha, zeta, tau)).max() <= 1e-9
    wanted = select_with_fill(alpha, counts, budget)
    chosen = np.array(found["chosen"])
    assert np.flatnonzero(chosen).tolist() == wanted.chosen.tolist()
    assert np.flatnonzero(chosen == 2).tolist() == wanted.fill.tolist()
    assert found["used"] == counts[wanted.chosen].sum() <= budget
    assert found["order"] == np.argsort(-alpha, kind="stable").tolist()
    if math.isnan(wanted.cut):
        assert found["cut"] == -1
    else:
        assert alpha[found["cut"]] == wanted.cut


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_golden_cases(node, case):
    same(node, case["alphas"], case["counts"], case["budget_params"], case["beta"])


@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_random_cases(node, seed):
    """A hundred each: ties, alpha from 0.001 to 50, sizes from equal to a million apart, tau down to 0.05, budgets at the smallest
    gate, at the whole space and over it."""
    rng = np.random.default_rng(seed)
    for case in range(100):
        n = int(rng.integers(1, 200))
        alpha = rng.normal(0, 10 ** rng.uniform(-3, 1.4), n).clip(-50, 50).astype(np.float32)
        if case % 5 == 0:
            alpha = rng.choice(np.float32([-50, -1, -0.0, 0, 1e-30, 1, 50]), n)
        elif case % 5 == 1:
            alpha = np.round(alpha, 1)
        counts = rng.integers(1, 10 ** int(rng.integers(1, 7)), n) if case % 3 else np.full(n, int(rng.integers(1, 5000)))
        least, total = int(counts.min()), int(counts.sum())
        budget = [least, total, total + 1, int(rng.integers(least, total + 1)), int(math.exp(rng.uniform(math.log(least), math.log(total))))][case % 5]
        same(node, alpha, counts, budget, [1.0, 0.05, 0.3, 5.0][case % 4])


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_case(node, data):
    n = data.draw(st.integers(1, 30))
    alpha = data.draw(st.lists(st.floats(-50, 50, width=32), min_size=n, max_size=n))
    counts = np.array(data.draw(st.lists(st.integers(1, 100_000), min_size=n, max_size=n)))
    budget = data.draw(st.integers(int(counts.min()), int(counts.sum()) + 5))
    same(node, alpha, counts, budget, data.draw(st.sampled_from([0.05, 0.5, 1.0, 3.0])))


def test_ten_thousand_gates(node):
    rng = np.random.default_rng(1)
    alpha, counts = rng.normal(0, 3, 10_000).astype(np.float32), rng.choice([768, 1024, 4096, 24_576], 10_000)
    for budget in (768, 100_000, 1_000_000, int(counts.sum())):
        for tau in (1.0, 0.05):
            same(node, alpha, counts, budget, tau)


def test_far_apart(node):
    """Where all is decided, and where one gate lies between."""
    for tau in (1.0, 0.05):
        for budget in (1, 9, 10, 11, 25, 49, 50):
            same(node, [50, 50, -50, -50, 0], [*[10, 10, 10, 10, 10][:5 - 1], 10], max(budget, 10), tau)
    same(node, [50, 49.9, -50], [1, 10**6, 3], 5, 0.05)
    same(node, [0.0], [7], 7)
    same(node, [-1e30, 1e30], [3, 4], 5)


# -- ranks and budgets -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.sampled_from([-1.5, -0.0, 0.0, 0.25, 1.0, 3.0]), max_size=30))
def test_mean_ranks(node, values):
    assert node("meanRanks", values) == rankdata(values).tolist()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), max_size=30))
def test_rank_correlation(node, pairs):
    a, b = [float(x) for x, _ in pairs], [y for _, y in pairs]
    assert node("spearman", [a, b]) == pytest.approx(spearman(a, b), abs=1e-12, nan_ok=True)


@settings(deadline=None)
@given(st.data())
def test_gates_enter_as_in_the_figure(node, data):
    n = data.draw(st.integers(1, 25))
    alpha = np.array(data.draw(st.lists(st.floats(-5, 5, width=32), min_size=n, max_size=n)))
    counts = np.array(data.draw(st.lists(st.integers(1, 5000), min_size=n, max_size=n)))
    budgets = np.unique(np.round(np.geomspace(counts.min(), counts.sum(), _POINTS)).astype(np.int64))
    assert node("budgetSteps", {"counts": counts, "points": _POINTS}) == budgets.tolist()
    found = node("entries", {"alpha": alpha, "counts": counts, "budgets": budgets})
    chosen = select_many(alpha, counts, budgets)
    assert (np.array(found["inside"]) > 0).tolist() == chosen.tolist()
    assert found["enters"] == np.where(chosen.any(axis=0), budgets[chosen.argmax(axis=0)], math.inf).tolist()


# -- drawing's numbers -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 100_000), st.integers(2, 600))
def test_thinning_is_even_and_keeps_the_last(node, n, most):
    rows = node("thin", [n, most])
    assert len(rows) <= most
    assert rows[:1] == ([0] if n else [])
    if n:
        assert rows[-1] == n - 1
        assert len(rows) >= min(n, most / 4)
    assert len({b - a for a, b in itertools.pairwise(rows[:-1])}) <= 1
    assert (np.diff(rows) > 0).all()


def test_ticks_end_wherever_they_are(node):
    """A step that a number is too large to feel, a range of one number, none."""
    for low, high in ((1e9, math.nextafter(1e9, math.inf)), (1e17, 1e17 + 16), (-1e300, 1e300), (3.0, 3.0), (0.0, 5e-324)):
        for about in (2, 4.75, 12):
            assert 1 <= len(node("ticks", [low, high, about])) <= 30
    assert node("ticks", [0, 1, 4]) == [0, 0.5, 1]
    assert node("ticks", [-1, 1, 4]) == [-1, -0.5, 0, 0.5, 1]


@settings(deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(1e-4, 1e9), st.integers(2, 12))
def test_ticks_lie_between_and_are_round(node, low, width, about):
    high = low + width
    found = node("ticks", [low, high, about])
    slack = 1e-6 * width + 1e-9 * abs(low)
    assert all(low - slack <= value <= high + slack for value in found)
    assert 2 <= len(found) <= 2 * about + 2
    steps = np.diff(found)
    assert steps == pytest.approx(np.full(len(steps), steps[0]), rel=1e-3)
    assert round(steps[0] / 10 ** math.floor(math.log10(steps[0] * 1.001)), 2) in (1, 2, 5)


@pytest.mark.parametrize(
    "text",
    ["8404", "8_404", " 0.2% ", "0.0139 %", "0.07%", "1e-3", "2.5", "1e9", "0", "-5", "0%", "1e-9%", "abc", "8404x", "", "%", "1.0", "+7"],
)
def test_a_typed_budget_means_what_it_means_in_python(node, text):
    try:
        wanted = parse_budget(text, 2_053_000)
    except BudgetError:
        wanted = math.nan
    found = node("parseBudget", [text, 2_053_000])
    assert found == wanted or (math.isnan(found) and math.isnan(wanted))


def test_a_typed_budget_may_have_the_commas_that_the_page_writes(node):
    assert node("parseBudget", ["8,404", None]) == 8404
    assert math.isnan(node("parseBudget", ["0.2%", None])), "a share of what?"


def test_texts_of_cells_are_those_of_python(node):
    from s3pet_viz.analysis.annotate import scaled, short_count

    counts = [0, 7, 999, 1000, 1234, 9949, 9950, 64_000, 999_499, 999_500, 2_400_000, 10**9, 10**12]
    assert node("counts", counts) == [short_count(n) for n in counts]
    for values in ([0.0123, -0.0004, 0], [12.0, 3.4], [0.997, 0.1], [99.7, 1.0], [0, 0]):
        assert node("scaled", values)["texts"] == scaled(values, "x")[0]
