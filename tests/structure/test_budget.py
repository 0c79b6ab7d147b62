"""Budgets as users write them, the shift that meets them exactly, and the greedy selection."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3pet_viz.errors import BudgetError
from s3pet_viz.structure import parse_budget, probabilities, select, select_with_fill, solve_shift
from s3pet_viz.structure.budget import Budget, check_budget

BACKBONE = 60_506_624  # t5-small


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("0.0139%", 8410),  # 8410.42..., rounded down
        ("1.39e-4", 8410),
        (1.39e-4, 8410),
        (np.float64(1.39e-4), 8410),
        ("8404", 8404),
        (8404, 8404),
        (np.int64(8404), 8404),
        (" 8_404 ", 8404),
        ("+8404", 8404),
        (" 0.0139 %", 8410),
        ("100%", BACKBONE),
        ("1.0", BACKBONE),
        (1.0, BACKBONE),
        ("1e0", BACKBONE),
        (1, 1),
        ("1", 1),
        (BACKBONE, BACKBONE),
    ],
)
def test_the_forms_of_a_budget(text, params):
    found = parse_budget(text, BACKBONE)
    assert found == params
    assert type(found) is int


@pytest.mark.parametrize(("text", "total", "params"), [("0.29", 100, 29), (0.57, 100, 57)])
def test_decimal_fractions_do_not_lose_a_parameter_to_binary(text, total, params):
    assert math.floor(float(text) * total) == params - 1
    assert parse_budget(text, total) == params


@pytest.mark.parametrize("total", [10**12, 10**15, 7 * 10**16 + 3])
def test_all_of_a_huge_backbone_is_not_more_than_it(total):
    assert parse_budget("100%", total) == total


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0", "above zero"),
        (0, "above zero"),
        (0.0, "above zero"),
        ("0%", "above zero"),
        ("-3", "above zero"),
        (-3, "above zero"),
        ("-0.1%", "above zero"),
        ("nan", "above zero"),
        ("inf", "above zero"),
        (float("nan"), "above zero"),
        (float("inf"), "above zero"),
        ("101%", "over 100 %"),
        ("1.5", "over 100 %"),
        (1.5, "over 100 %"),
        ("8404.0", "whole number"),
        ("1e4", "whole number"),
        (BACKBONE + 1, "over 100 %"),
        (str(BACKBONE + 1), "over 100 %"),
        (10**400, "over 100 %"),
        ("1" * 400, "over 100 %"),
        ("", "expected a percentage"),
        ("%", "expected a percentage"),
        ("8,404", "expected a percentage"),
        ("a lot", "expected a percentage"),
        ("1%%", "expected a percentage"),
        ("1" * 5000, "expected a percentage"),
        (None, "expected a percentage"),
        (True, "expected a percentage"),
        ("1e-9", "less than one parameter"),
        (1e-12, "less than one parameter"),
    ],
)
def test_what_is_no_budget(text, says):
    with pytest.raises(BudgetError, match=says):
        parse_budget(text, BACKBONE)


@pytest.mark.parametrize("given", [10**5000, "1" * 400, 2**53 + 1], ids=["5000 digits", "text", "one more"])
def test_more_parameters_than_any_backbone_has_are_refused_without_one(given):
    with pytest.raises(BudgetError, match=r"found a number of [\d,]+ bits, which is over 100 % of any backbone"):
        Budget.parse(given)


def test_a_budget_is_a_value():
    one, other = Budget.parse("0.1%"), Budget.parse(0.001)
    assert (one, one.fraction, one.params, str(one)) == (other, 0.001, 0, "0.1%")
    assert one != Budget.parse("8404") == Budget.parse(8404)
    assert Budget.parse(one) is one
    assert one.parameters(BACKBONE) == parse_budget(one, BACKBONE) == parse_budget("0.1%", BACKBONE)


def test_a_fraction_of_an_unknown_backbone_is_refused():
    assert Budget.parse("8404").parameters(None) == 8404
    with pytest.raises(BudgetError, match="expected a whole number .* found '0.1%': the size of the backbone is not"):
        Budget.parse("0.1%").parameters(None)


@given(st.integers(1, 10**9), st.floats(1e-12, 1.0))
def test_a_fraction_is_rounded_down_and_never_exceeds_the_backbone(total, fraction):
    try:
        params = parse_budget(fraction, total)
    except BudgetError:
        assert fraction * total < 1
    else:
        assert 1 <= params <= total
        assert params - 1e-3 <= fraction * total < params + 1 + 1e-3


# -- check_budget --------------------------------------------------------------------------------------


def test_a_budget_above_the_space_opens_every_gate_and_says_so():
    alpha, counts = [3.0, -2.0, 0.5], [10, 20, 30]
    with pytest.warns(UserWarning, match=r"holds the whole search space \(60 parameters\)"):
        assert check_budget(counts, 61) is False
    zeta = solve_shift(alpha, counts, 61)
    assert zeta == -math.inf
    assert probabilities(alpha, zeta).tolist() == [1, 1, 1]
    assert select(alpha, counts, 61).tolist() == [0, 1, 2]


@pytest.mark.parametrize("budget", [10, 59, 60])
def test_a_budget_that_binds_is_no_news(budget):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_budget([10, 20, 30], budget) is True
    assert math.isfinite(solve_shift([0.0, 1.0, 2.0], [10, 20, 30], budget))


def test_a_budget_below_the_smallest_module_names_its_size():
    with pytest.raises(BudgetError, match="smallest module .* which has 1,024 parameters"):
        check_budget([4096, 1024, 2048], 1023)


@pytest.mark.parametrize("budget", [0, -1, math.nan, math.inf])
def test_budgets_that_are_no_size(budget):
    with pytest.raises(BudgetError, match="positive number of parameters"):
        check_budget([1, 2], budget)
    with pytest.raises(BudgetError, match="positive number of parameters"):
        solve_shift([0.0, 0.0], [1, 2], budget)


# -- solve_shift ---------------------------------------------------------------------------------------


@st.composite
def problems(draw, largest_alpha=300.0):
    """alpha, counts, budget, tau."""
    m = draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["uniform", "normal", "two-ends", "equal"]))
    alpha = {
        "uniform": lambda: rng.uniform(-largest_alpha, largest_alpha, m),
        "normal": lambda: rng.normal(0, 1, m),
        "two-ends": lambda: rng.choice([-largest_alpha, largest_alpha], m),
        "equal": lambda: np.full(m, draw(st.floats(-largest_alpha, largest_alpha))),
    }[kind]()
    counts = np.floor(10 ** rng.uniform(0, draw(st.floats(0, 7)), m)).astype(np.int64)
    # Anything from one parameter to all of them, the ends included.
    share = draw(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-9, 0.5, 1 - 1e-9, 1.0])))
    budget = max(1, int(share * counts.sum()))
    return alpha, counts, budget, draw(st.floats(0.05, 10))


@settings(deadline=None, max_examples=150)
@given(problems())
def test_the_expected_size_is_the_budget(problem):
    alpha, counts, budget, tau = problem
    zeta = solve_shift(alpha, counts, budget, tau)
    p = probabilities(alpha, zeta, tau)
    assert ((p >= 0) & (p <= 1)).all()
    assert abs(p @ counts - budget) <= 1e-6 * budget
    # The slack keeps a rounding error from exceeding the budget; it is aimed at to 1e-8.
    assert p @ counts == pytest.approx(budget * (1 - 1e-7), rel=1e-8)


@settings(deadline=None, max_examples=50)
@given(problems(largest_alpha=20.0), st.integers(0, 299), st.floats(0.01, 5))
def test_the_shift_moves_as_it_should(problem, gate, step):
    alpha, counts, budget, tau = problem
    zeta = solve_shift(alpha, counts, budget, tau)
    p = probabilities(alpha, zeta, tau)
    assert (np.diff(p[np.argsort(alpha, kind="stable")]) >= 0).all()  # p has the order of alpha
    # all alpha up by c: zeta up by c, so p stays
    assert solve_shift(alpha + step, counts, budget, tau) == pytest.approx(zeta + step, abs=1e-6 * (1 + abs(zeta)))
    # one alpha up: the others lose
    raised = alpha.copy()
    raised[gate % len(alpha)] += step
    assert solve_shift(raised, counts, budget, tau) >= zeta - 1e-7 * (1 + abs(zeta))
    # a smaller budget shuts gates
    assert solve_shift(alpha, counts, budget * 0.9, tau) > zeta


def test_shift_by_hand():
    # one gate of 10 under a budget of 5: p = 1/2 at zeta = alpha; 3/4 at alpha - tau ln 3
    assert solve_shift([2.0], [10], 5) == pytest.approx(2.0, abs=1e-6)
    assert solve_shift([2.0], [10], 7.5, tau=0.5) == pytest.approx(2.0 - 0.5 * math.log(3), abs=1e-6)
    # sizes weigh: 30 p = 10 for equal alpha
    assert solve_shift([0.0, 0.0], [10, 20], 10) == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(
    ("alpha", "counts", "tau", "says"),
    [
        ([0.0, math.nan], [1, 2], 1.0, "alpha: expected finite values, found nan at gate 1"),
        ([math.inf, 0.0], [1, 2], 1.0, "alpha: expected finite values, found inf at gate 0"),
        ([0.0], [1, 2], 1.0, r"alpha has shape \(1,\) but counts has shape \(2,\)"),
        ([], [], 1.0, "one size per gate"),
        ([[0.0]], [[1]], 1.0, "one size per gate"),
        ([0.0, 0.0], [1, 0], 1.0, "at least one parameter"),
        ([0.0, 0.0], [1, math.nan], 1.0, "at least one parameter"),
        ([0.0, 0.0], [1, 2], 0.0, "tau"),
        ([0.0, 0.0], [1, 2], math.nan, "tau"),
    ],
)
def test_shift_refuses(alpha, counts, tau, says):
    with pytest.raises(BudgetError, match=says):
        solve_shift(alpha, counts, 1, tau)


# -- select --------------------------------------------------------------------------------------------


def test_selection_skips_what_does_not_fit_and_goes_on():
    # 60 does not fit after 50; 40 does; then nothing else
    assert select([4.0, 3.0, 2.0, 1.0], [50, 60, 40, 20], 100).tolist() == [0, 2]
    assert select([4.0, 3.0, 2.0, 1.0], [50, 60, 40, 10], 100).tolist() == [0, 2, 3]
    assert select([4.0, 3.0, 2.0, 1.0], [50, 60, 30, 20], 100).tolist() == [0, 2, 3]


def test_selection_ties_go_to_the_lower_index():
    assert select([0.0] * 5, [10] * 5, 30).tolist() == [0, 1, 2]
    assert select([0.0, 1.0, 0.0, 1.0], [10] * 4, 30).tolist() == [0, 1, 3]
    assert select([-0.0, 0.0], [10, 10], 10).tolist() == [0]


def test_selection_by_alpha_does_not_saturate():
    # p is 1.0 for all of these in floating point
    assert select([300.0, 301.0, 299.0], [10] * 3, 20).tolist() == [0, 1]


def test_selection_refuses_what_has_no_order():
    with pytest.raises(BudgetError, match="found nan at gate 1"):
        select([0.0, math.nan], [1, 2], 3)
    with pytest.raises(BudgetError, match="shape"):
        select([0.0], [1, 2], 3)


@settings(deadline=None)
@given(problems())
def test_selection_fits_and_is_greedy(problem):
    alpha, counts, budget, _ = problem
    chosen = select(alpha, counts, budget)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert counts[chosen].sum() <= budget
    inside = set(chosen.tolist())
    left = budget - counts[chosen].sum()
    order = sorted(range(len(alpha)), key=lambda i: (-alpha[i], i))
    used = 0
    for i in order:
        if i in inside:
            used += counts[i]
        else:
            assert counts[i] > left  # maximal: nothing that is left out still fits
            assert used + counts[i] > budget  # it did not fit when it was its turn
    assert select(alpha.copy(), counts.tolist(), budget).tolist() == chosen.tolist()


def test_gates_that_fill_the_rest_come_after_the_first_that_did_not_fit():
    found = select_with_fill([4.0, 3.0, 2.0, 1.0], [50, 60, 40, 10], 100)
    assert (found.chosen.tolist(), found.fill.tolist(), found.cut) == ([0, 2, 3], [2, 3], 3.0)
    # Of equal alpha the lower index is first, so the second of these fills.
    found = select_with_fill([1.0, 1.0, 1.0], [10, 30, 10], 25)
    assert (found.chosen.tolist(), found.fill.tolist(), found.cut) == ([0, 2], [2], 1.0)


def test_where_every_gate_fits_there_is_no_cut():
    found = select_with_fill([4.0, 3.0], [50, 60], 110)
    assert found.chosen.tolist() == [0, 1]
    assert found.fill.tolist() == []
    assert math.isnan(found.cut)


def test_where_the_likeliest_gate_does_not_fit_all_fill():
    found = select_with_fill([4.0, 3.0, 2.0], [50, 6, 5], 20)
    assert (found.chosen.tolist(), found.fill.tolist(), found.cut) == ([1, 2], [1, 2], 4.0)


@settings(deadline=None)
@given(problems())
def test_the_cut_parts_the_chosen_gates_from_those_that_fill(problem):
    alpha, counts, budget, _ = problem
    found = select_with_fill(alpha, counts, budget)
    assert found.chosen.tolist() == select(alpha, counts, budget).tolist()
    assert found.chosen.dtype == found.fill.dtype == np.int64
    order = sorted(range(len(alpha)), key=lambda i: (-alpha[i], i))
    used = np.cumsum(counts[order])
    before = int(np.searchsorted(used, budget, side="right"))  # how many fit one after the other from the top
    assert set(found.chosen) - set(found.fill) == set(order[:before])
    assert set(found.fill) == set(found.chosen) - set(order[:before])
    assert found.fill.tolist() == sorted(found.fill)
    if before == len(order):
        assert math.isnan(found.cut)
    else:
        assert found.cut == alpha[order[before]]
        assert order[before] not in found.chosen


@pytest.mark.parametrize(("budget", "tau", "words"), [(2e-311, 1.0, "budget: expected at least 1e-300"), (1, 2e-309, "tau: expected a temperature")])
def test_numbers_next_to_zero_are_refused(budget, tau, words):
    with pytest.raises(BudgetError, match=words):
        solve_shift([0.0, 1.0], [1, 1], budget, tau)
