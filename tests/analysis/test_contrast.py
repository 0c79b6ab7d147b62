"""Two sets of seeds against each other: calibrated where nothing differs, and what was planted is found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from s3pet_viz.analysis.contrast import contrast
from s3pet_viz.errors import ConfigError
from s3pet_viz.runs import open_run

TASKS = ("sentiment", "entailment", "similarity")
SIZES = ((2, 2), (2, 3), (3, 3), (5, 5), (2, 5))


def settings():
    """alpha of the recorded searches by task: level and spread of each gate; the column that it lies in."""
    for task in TASKS:
        runs = [open_run(f"{task}-0.2pct-s{seed}") for seed in range(3)]
        alpha = np.stack([run.alpha() for run in runs]).astype(float)
        columns = np.unique([gate.column for gate in runs[0].gates_list], return_inverse=True)[1]
        yield alpha.mean(axis=0), alpha.std(axis=0, ddof=1), columns


def seeds(rng, level, spread, n, columns=None):
    """n searches of one setting: logistic noise about each gate's level; with columns, half of it common to a layer."""
    noise = rng.logistic(size=(n, len(level))) * math.sqrt(3) / math.pi
    if columns is not None:
        noise = math.sqrt(0.5) * (noise + rng.standard_normal((n, columns.max() + 1))[:, columns])
    # All gates of a run move together as well, which is not a difference.
    return level + spread * noise + rng.normal(0, 0.5, (n, 1))


@pytest.mark.parametrize("common", [False, True])
def test_of_1000_pairs_from_one_setting_few_show_any_gate(common):
    rng, kinds = np.random.default_rng(17), list(settings())
    shown = dict.fromkeys(SIZES, 0)
    for draw in range(1000):
        level, spread, columns = kinds[draw % 3]
        size = SIZES[draw % 5]
        a, b = (seeds(rng, level, spread, n, columns if common else None) for n in size)
        shown[size] += contrast(a, b).remains.any()
    assert sum(shown.values()) <= 80, shown
    assert max(shown.values()) <= 24, shown  # of 200 each
    assert sum(shown.values()) >= 5  # it is a test at 5 %, not one that never finds


@pytest.mark.parametrize(("size", "least"), [((2, 2), 0.5), ((3, 3), 0.9), ((5, 5), 0.99)])
def test_a_planted_difference_is_found_and_little_else(size, least):
    """Six gates of the lowest level gain 4 in log-odds: p from 0.03 to 0.6."""
    rng, found, false = np.random.default_rng(3), [], []
    for level, spread, _ in settings():
        low = np.argsort(level)[:60:10]
        moved = level.copy()
        moved[low] += 4
        for _ in range(30):
            got = contrast(seeds(rng, level, spread, size[0]), seeds(rng, moved, spread, size[1]))
            found.append(got.remains[low].mean())
            false.append(got.remains.sum() - got.remains[low].sum())
            assert (got.difference[low] > 0).all()
    assert np.mean(found) >= least
    assert np.mean(false) < 0.5


def test_an_interval_leaves_0_out_exactly_where_its_gate_remains():
    rng = np.random.default_rng(0)
    for level, spread, _ in settings():
        moved = level + np.where(rng.random(len(level)) < 0.2, 3.0, 0.0)
        got = contrast(seeds(rng, level, spread, 3), seeds(rng, moved, spread, 3))
        assert 0 < got.remains.sum() < len(level)
        np.testing.assert_array_equal((got.low > 0) | (got.high < 0), got.remains)
        np.testing.assert_allclose(got.q, stats.false_discovery_control(got.p))
        np.testing.assert_allclose((got.low + got.high) / 2, got.difference)


def test_it_is_the_pooled_t_where_every_gate_has_the_same_spread():
    """With equal true variances the prior takes over; t then nears the difference over the common standard error."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(3, 4000)), rng.normal(size=(3, 4000))
    got = contrast(a, b)
    centred = [x - np.median(x, axis=1, keepdims=True) for x in (a, b)]
    difference = centred[1].mean(axis=0) - centred[0].mean(axis=0)
    np.testing.assert_allclose(got.difference, difference)
    assert got.freedom == 8
    np.testing.assert_allclose(got.p, 2 * stats.t.sf(np.abs(difference) / math.sqrt(2 / 3), 8), atol=0.03)


def test_what_all_gates_of_a_run_share_is_no_difference():
    rng, (level, spread, _) = np.random.default_rng(2), next(settings())
    a, b = seeds(rng, level, spread, 3), seeds(rng, level, spread, 3)
    one, two = contrast(a, b), contrast(a + np.array([[0.0], [3.0], [-2.0]]), b + 5)
    np.testing.assert_allclose(one.p, two.p)
    np.testing.assert_allclose(contrast(2 * a, 2 * b, tau=2.0).difference, one.difference)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 3), (3, 1)])
def test_one_seed_on_a_side_tells_nothing(sizes):
    rng, (level, spread, _) = np.random.default_rng(2), next(settings())
    got = contrast(*(seeds(rng, level, spread, n) for n in sizes))
    assert not got.remains.any()
    assert np.isnan([got.low, got.high, got.p, got.q]).all()
    assert np.isfinite(got.difference).all()


def test_seeds_all_alike_tell_nothing_and_gates_that_never_moved_are_no_trouble():
    alike = contrast(np.tile(np.arange(9.0), (3, 1)), np.tile(np.arange(9.0)[::-1], (3, 1)))
    assert not alike.remains.any()
    assert np.isnan(alike.p).all()
    rng = np.random.default_rng(5)
    a, b = (np.concatenate([np.zeros((3, 60)), rng.normal(size=(3, 20))], axis=1) for _ in range(2))
    got = contrast(a, b)
    assert np.isfinite(got.p).all()
    assert not got.remains.any()


@pytest.mark.parametrize("n_gates", [1, 2, 3, 7, 12, 31])
def test_few_gates(n_gates):
    rng, shown = np.random.default_rng(n_gates), 0
    for _ in range(100):
        got = contrast(rng.normal(size=(3, n_gates)), rng.normal(size=(3, n_gates)))
        assert got.p.shape == (n_gates,)
        shown += got.remains.any()
    assert shown <= 12


@pytest.mark.parametrize(
    ("a", "b", "more"),
    [
        (np.zeros((3, 4)), np.zeros((3, 5)), {}),
        (np.zeros(4), np.zeros((3, 4)), {}),
        (np.zeros((0, 4)), np.zeros((3, 4)), {}),
        (np.full((3, 4), np.nan), np.zeros((3, 4)), {}),
        (np.ones((3, 4)), np.zeros((3, 4)), {"rate": 0}),
    ],
)
def test_wrong_input(a, b, more):
    with pytest.raises(ConfigError):
        contrast(a, b, **more)
