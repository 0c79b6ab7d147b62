"""GoRA's ranks and PLoP's order under an exact budget: the formulas, bounds, and what no input may break."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3pet_viz.analysis.placement import gora_ranks, plop_order
from s3pet_viz.errors import BudgetError, ConfigError
from s3pet_viz.structure import select


def formula(scores, n_in, n_out, r0, least=0, most=math.inf):
    """As published, a layer at a time."""
    total = sum(r0 * math.sqrt(i + o) for i, o in zip(n_in, n_out, strict=True))
    share = np.asarray(scores) / np.sum(scores)
    made = [math.floor(round(s * total) / math.sqrt(i + o)) for s, i, o in zip(share, n_in, n_out, strict=True)]
    return [min(max(r, least), most) for r in made]


def test_by_hand():
    """sqrt(in + out) is 4 and 8; shares are 3/4 and 1/4, so of r0 * 12 the layers get 9 r0 and 3 r0."""
    made = gora_ranks([3.0, 1.0], [8, 32], [8, 32], 128)
    # the first rank of the second layer comes at round(3 r0) = 8, where the first has floor(22 / 4) = 5: 80 + 64 > 128
    assert made.r0 == pytest.approx(2.5)
    assert made.r0 < 2.5
    assert made.formula.tolist() == [5, 0]
    # fractional parts 7.5 / 8 and 22.5 / 4 - 5: the second layer is first, but its 64 do not fit in what is left, 48
    assert made.ranks.tolist() == [8, 0]
    assert gora_ranks([3.0, 1.0], [8, 32], [8, 32], 144).ranks.tolist() == [5, 1]
    assert gora_ranks([3.0, 1.0], [8, 32], [8, 32], 79).ranks.tolist() == [4, 0]


widths = st.integers(1, 400)


@st.composite
def problems(draw):
    n = draw(st.integers(1, 12))
    scores = draw(st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1e6)), min_size=n, max_size=n).filter(any))
    n_in, n_out = (draw(st.lists(widths, min_size=n, max_size=n)) for _ in range(2))
    most = draw(st.one_of(st.none(), st.integers(1, 20)))
    return scores, n_in, n_out, draw(st.integers(1, 60_000)), most


@settings(max_examples=300, deadline=None)
@given(problems())
def test_the_budget_is_kept_used_and_filled_from_the_formula(problem):
    scores, n_in, n_out, budget, most = problem
    size, top = np.add(n_in, n_out), math.inf if most is None else most
    made = gora_ranks(scores, n_in, n_out, budget, most=most)
    assert made.ranks.dtype == np.int64
    assert (made.ranks >= made.formula).all()
    assert (made.ranks <= top).all()
    assert made.ranks @ size <= budget
    # nothing more would fit
    able = made.ranks < top
    assert not able.any() or made.ranks @ size + size[able].min() > budget
    if math.isinf(made.r0):
        assert all(r == top for r, s in zip(made.formula, scores, strict=True) if s)
        return
    # the formula's ranks at r0 fit, and at any larger r0 they do not
    assert formula(scores, n_in, n_out, made.r0, most=top) == pytest.approx(made.formula, abs=1)
    above = formula(scores, n_in, n_out, made.r0 * (1 + 1e-9) + 1e-300, most=top)
    assert np.dot(above, size) > budget
    below = formula(scores, n_in, n_out, made.r0 * (1 - 1e-9), most=top)
    assert np.dot(below, size) <= budget


@settings(max_examples=100, deadline=None)
@given(problems(), st.floats(1e-6, 1e6))
def test_only_shares_count(problem, factor):
    scores, n_in, n_out, budget, most = problem
    one = gora_ranks(scores, n_in, n_out, budget, most=most)
    exact = 2.0 ** round(math.log2(factor))  # without rounding
    assert (gora_ranks([s * exact for s in scores], n_in, n_out, budget, most=most).ranks == one.ranks).all()


@settings(max_examples=100, deadline=None)
@given(problems())
def test_a_larger_budget_never_lowers_a_rank_of_the_formula(problem):
    scores, n_in, n_out, budget, most = problem
    one, two = (gora_ranks(scores, n_in, n_out, b, most=most).formula for b in (budget, 2 * budget))
    assert (two >= one).all()


def test_bounds():
    wide = gora_ranks([5, 1, 0], [10, 10, 10], [10, 10, 10], 1000, most=[3, 4, 2])
    assert wide.ranks.tolist() == [3, 4, 2]  # all of it
    assert math.isinf(wide.r0)
    assert gora_ranks([5, 1, 0], [10] * 3, [10] * 3, 100, least=1).ranks.min() == 1
    with pytest.raises(BudgetError, match=r"budget: 50 parameters is below the least ranks of all layers \(60\)"):
        gora_ranks([5, 1, 0], [10] * 3, [10] * 3, 50, least=1)
    for scores in ([0.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0]):
        with pytest.raises(ConfigError, match="scores: expected one of at least 0 for each layer, and one above 0"):
            gora_ranks(scores, [4, 4], [4, 4], 99)


# -- PLoP ----------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1e-3, 1e3), st.sampled_from("qkvo"), st.integers(1, 50)), min_size=1, max_size=30),
    st.integers(50, 700),
)
def test_whole_types_in_order_until_the_budget_ends(gates, budget):
    nfn, types, sizes = (list(column) for column in zip(*gates, strict=True))
    mean = {t: np.mean([n for n, u in zip(nfn, types, strict=True) if u == t]) for t in types}
    chosen = set(select(plop_order(nfn, types), sizes, budget).tolist())
    left = budget
    for kind in sorted(mean, key=mean.__getitem__):
        if sum(m == mean[kind] for m in mean.values()) > 1:
            return  # types of one NFN have no order
        members = [i for i, t in enumerate(types) if t == kind]
        if sum(sizes[i] for i in members) > left:
            # here it ends: single gates by their own NFN, each that fits
            for i in sorted(members, key=lambda i: (nfn[i], i)):
                if len({round(math.log(nfn[j]), 9) for j in members}) < len({nfn[j] for j in members}):
                    return  # closer than alpha can tell apart
                assert (i in chosen) == (sizes[i] <= left)
                left -= sizes[i] if i in chosen else 0
            return
        assert chosen >= set(members)
        left -= sum(sizes[i] for i in members)


def test_types_do_not_mix_and_a_single_one_is_its_own_nfn():
    alpha = plop_order([1.0, 9.0, 4.0, 5.9], ["q", "q", "v", "v"])  # means 5 and 4.95
    assert np.argsort(-alpha).tolist() == [2, 3, 0, 1]
    np.testing.assert_allclose(plop_order([2.0, 4.0], ["q", "q"]), -np.log([2.0, 4.0]))
