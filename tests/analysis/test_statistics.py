"""Statistics with known answers, and how often their intervals hold the truth, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from s3pet_viz.analysis.intervals import Bounds, widening
from s3pet_viz.analysis.statistics import differences, interval, keeps, sentence, summary
from s3pet_viz.errors import ConfigError

DEFAULTS = {"budget": "", "budget_params": 0, "mode": "", "source": "", "draw": 0, "seed": 0, "metric": "accuracy",
            "loss": 0.5, "pet_params": 100, "percent": 0.1, "seconds": 2.0}  # fmt: skip
#: n = 3, two-sided 95 %: the bootstrap's bounds are the extremes, and this is what they are multiplied by.
THREE = math.sqrt(3 / 2) * 4.302653 / 1.959964


def rows(task, method, scores, *, budget="", seeds=None, **more):
    """One row per score, with seeds 0, 1, ..."""
    params = {"": 0, "0.1%": 1000, "0.2%": 2000, "0.5%": 5000}[budget]
    more = {"mode": "fast" if method == "searched" else "", **more}
    return [
        {**DEFAULTS, "task": task, "method": method, "budget": budget, "budget_params": params, "score": s, "seed": seed, **more}
        for s, seed in zip(scores, range(len(scores)) if seeds is None else seeds, strict=True)
    ]


def table(*parts):
    return pd.DataFrame([row for part in parts for row in part])


# -- intervals ---------------------------------------------------------------------------------------------


def plain_bootstrap_holds(x: np.ndarray, true: float) -> float:
    low, high = scipy.stats.bootstrap(
        (x,), np.mean, axis=1, vectorized=True, n_resamples=999, method="percentile", random_state=np.random.default_rng(1)
    ).confidence_interval
    return float(((low <= true) & (true <= high)).mean())


@pytest.mark.parametrize(("n", "widened", "plain"), [(2, 0.94, 0.51), (3, 0.95, 0.76), (5, 0.94, 0.83), (10, 0.95, 0.91)])
def test_coverage_is_as_documented(n, widened, plain):
    """Of 1,000 studies: the standard error of a share of 0.95 is 0.007, of 0.5 it is 0.016."""
    x = np.random.default_rng(n).normal(3.0, 2.0, size=(1000, n))
    found = [interval(row, resamples=999) for row in x]
    assert np.mean([i.low <= 3.0 <= i.high for i in found]) == pytest.approx(widened, abs=0.02)
    assert plain_bootstrap_holds(x, 3.0) == pytest.approx(plain, abs=0.04)


@pytest.mark.parametrize("sizes", [(2,), (3,), (10,), (4, 7), (5, 2, 3)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_bounds_are_those_of_scipy_widened(sizes, level):
    rng = np.random.default_rng(6)
    samples = [rng.normal(2.0, 3.0, n) for n in sizes]

    def total(*drawn, axis):
        return sum(d.mean(axis=axis) for d in drawn)

    plain = scipy.stats.bootstrap(
        [s - s.mean() for s in samples], total, n_resamples=499, confidence_level=level, method="percentile",
        random_state=np.random.default_rng(7),
    ).confidence_interval  # fmt: skip
    wide = widening(sizes, [s.var(ddof=1) for s in samples], level)
    assert Bounds(level, 499, 7)(samples) == pytest.approx((wide * plain.low, wide * plain.high), rel=1e-12, abs=1e-12)


def test_interval_of_three_values_is_known():
    assert interval([1, 0, -1]) == pytest.approx((0, -THREE, THREE, 3), rel=1e-6)
    skewed = interval([0, 0, 3])
    assert skewed == pytest.approx((1, 1 - THREE, 1 + 2 * THREE, 3), rel=1e-6)


def test_widening():
    assert widening([3], [7.0]) == pytest.approx(THREE, rel=1e-6)
    assert widening([100_000], [1.0]) == pytest.approx(1, abs=1e-4)
    # Two samples alike: 2 (n - 1) degrees of freedom; a constant one adds none.
    t = scipy.stats.t.ppf(0.975, 8) / scipy.stats.norm.ppf(0.975)
    assert widening([5, 5], [2.0, 2.0]) == pytest.approx(math.sqrt(5 / 4) * t)
    assert widening([3, 9], [2.0, 0.0]) == pytest.approx(THREE, rel=1e-6)


def test_what_has_no_interval():
    for values in ([0.7], [0.7, 0.7, 0.7], [0.83 - 0.81, 0.85 - 0.83, 0.91 - 0.89], [0.5, math.nan], [1.0, math.inf, -math.inf]):
        found = interval(values)
        assert found.n == len(values)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    assert interval([0.7]).mean == 0.7
    for values in ([], [[1.0, 2.0]], 3.0):
        with pytest.raises(ConfigError, match="values: expected a row of one or more numbers, found shape"):
            interval(values)
    with pytest.raises(ConfigError, match="level: expected a share between 0 and 1, found 95"):
        interval([1.0, 2.0], level=95)
    with pytest.raises(ConfigError, match="resamples: expected 1 or more, found 0"):
        interval([1.0, 2.0], resamples=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=12), st.integers(-50, 50), st.integers(1, 9), st.randoms())
def test_interval_moves_with_its_values(values, shift, scale, random):
    here = interval(values, resamples=199)
    if len(set(values)) == 1:
        assert math.isnan(here.low)
        return
    assert here.low <= here.mean <= here.high
    moved = interval([scale * v + shift for v in random.sample(values, len(values))], resamples=199)
    assert moved[:3] == pytest.approx([scale * x + shift for x in here[:3]], abs=1e-9 * scale * 1000)
    assert interval(values, resamples=199) == here


# -- summary -----------------------------------------------------------------------------------------------


def test_summary():
    made = summary(table(
        rows("sst2", "searched", [1, 0, -1], budget="0.1%", loss=0.25, percent=0.3),
        rows("cola", "full", [0.5], loss=math.nan),
        rows("cola", "head", [math.nan, 0.2]),
    ))  # fmt: skip
    assert list(made.columns) == [
        "task", "budget", "method", "mode", "score", "spread", "n", "low", "high", "loss", "pet_params", "percent", "seconds"]  # fmt: skip
    first = made.iloc[0]
    assert tuple(first[["task", "budget", "method", "mode"]]) == ("sst2", "0.1%", "searched", "fast")
    assert tuple(first[["score", "spread", "n", "low", "high", "loss", "pet_params", "percent", "seconds"]]) == pytest.approx(
        (0, 1, 3, -THREE, THREE, 0.25, 100, 0.3, 2), rel=1e-6)  # fmt: skip
    one = made.iloc[1]
    assert (one["score"], one["n"]) == (0.5, 1)
    assert made.iloc[1:][["spread", "low", "high"]].isna().all(axis=None)
    assert math.isnan(one["loss"])
    assert math.isnan(made["score"][2])


def test_summary_of_nothing_and_of_something_else():
    empty = table(rows("sst2", "full", [0.5])).iloc[:0]
    assert len(summary(empty)) == 0
    with pytest.raises(ConfigError, match="summary: expected a study's table with the columns .*; loss, seconds not found"):
        summary(table(rows("sst2", "full", [0.5])).drop(columns=["seconds", "loss"]))
    missing = table(rows("sst2", "full", [0.5])).astype(object)
    missing.loc[0, "budget"] = None
    assert summary(missing)["budget"][0] == ""


# -- differences -------------------------------------------------------------------------------------------


def test_pairs_are_of_seeds():
    made = differences(table(
        rows("sst2", "searched", [0.83, 0.82, 0.84, 0.99], budget="0.1%", seeds=[0, 1, 2, 7]),
        rows("sst2", "random", [0.80, 0.82, 0.80, 0.82, 0.80, 0.82], budget="0.1%", seeds=[0, 0, 1, 1, 2, 2]),
    ), scale="points")  # fmt: skip
    row = made.iloc[0]  # the differences of seeds 0, 1, 2 are 2, 1, 3 points
    assert tuple(row[["task", "budget", "a", "b", "value", "unit"]]) == ("sst2", "0.1%", "searched", "random", "score", "points")
    numbers = row[["mean_a", "mean_b", "difference", "low", "high", "level"]].astype(float)
    assert tuple(numbers) == pytest.approx((83, 81, 2, 2 - THREE, 2 + THREE, 0.95), rel=1e-6)
    assert tuple(row[["n_a", "n_b", "n_pairs", "n_groups", "paired", "better"]]) == (3, 6, 3, 1, True, 1)
    # J(5) of Hedges 1981, table 1: 0.8408; the six random scores have the standard deviation sqrt(6 / 5).
    assert row["effect"] == pytest.approx(0.8408 * 2 / math.sqrt(6 / 5), abs=1e-3)
    assert tuple(made["task"]) == ("sst2", "all")
    alone = made.iloc[1]
    assert tuple(alone[["difference", "low", "high"]].astype(float)) == pytest.approx((2, 2 - THREE, 2 + THREE), rel=1e-6)
    assert sentence(row) == "searched - random = +2.0 points (95 % interval -0.7 to +4.7; 3 pairs of seeds): not settled"


def test_lower_loss_is_better():
    def part(method, losses):
        return [{**row, "loss": x} for row, x in zip(rows("sst2", method, [0.8] * 4, budget="0.1%"), losses, strict=True)]

    made = differences(table(part("searched", [0.40, 0.41, 0.42, 0.40]), part("random", [0.45, 0.45, 0.47, 0.40])), value="loss")
    assert made["difference"][0] == pytest.approx(-0.035)
    assert made["better"][0] == (3 + 0.5) / 4
    assert sentence(made.iloc[0]).startswith("searched - random = -0.035 in held-out loss (95 % interval -0.0")


def test_a_method_without_a_budget_pairs_with_every_budget():
    data = table(
        rows("sst2", "searched", [0.80, 0.82], budget="0.1%"), rows("sst2", "searched", [0.84, 0.86], budget="0.2%"),
        rows("sst2", "full", [0.90, 0.90]), rows("cola", "full", [0.5, 0.5]),
    )  # fmt: skip
    made = differences(data, b="full")
    rows_of = [("sst2", "0.1%"), ("sst2", "0.2%"), ("all", "0.1%"), ("all", "0.2%")]
    assert list(zip(made["task"], made["budget"], strict=True)) == rows_of
    assert tuple(made["difference"]) == pytest.approx((-0.09, -0.05) * 2)
    assert tuple(made["better"]) == (0, 0, 0, 0)
    swapped = differences(data, a="full", b="searched")
    assert tuple(swapped["difference"]) == pytest.approx((0.09, 0.05) * 2)
    assert tuple(swapped["low"]) == pytest.approx(tuple(-made["high"]))
    manual = differences(table(rows("sst2", "LoRA", [0.7, 0.8]), rows("sst2", "full", [0.9, 0.9])), a="LoRA", b="full")
    assert list(manual["budget"]) == ["", ""]
    by_mode = differences(
        table(rows("sst2", "searched", [0.8, 0.9], budget="0.1%"), rows("sst2", "searched", [0.6, 0.8], budget="0.1%", mode="paper"),
              rows("sst2", "random", [0.7, 0.7], budget="0.1%")), by=("task", "budget", "mode"))  # fmt: skip
    assert list(by_mode["mode"]) == ["fast", "paper"] * 2
    assert tuple(by_mode["difference"]) == pytest.approx((0.15, 0.0) * 2)


def test_other_seeds_are_not_paired():
    made = differences(table(
        rows("sst2", "searched", [0.3, 0.4, 0.5], budget="0.1%"),
        rows("sst2", "random", [0.1, 0.2, 0.3, 0.4], budget="0.1%", seeds=[9, 9, 9, 9]),
    ))  # fmt: skip
    row = made.iloc[0]
    assert tuple(row[["n_a", "n_b", "n_pairs", "paired"]]) == (3, 4, 0, False)
    assert row["difference"] == pytest.approx(0.15)
    assert row["better"] == (2.5 + 3.5 + 4) / 12
    welch = scipy.stats.ttest_ind([0.3, 0.4, 0.5], [0.1, 0.2, 0.3, 0.4], equal_var=False).confidence_interval()
    assert (row["low"], row["high"]) == pytest.approx(tuple(welch), abs=0.03)
    assert sentence(row).endswith("; 3 against 4 runs): not settled")


def test_one_value_has_no_interval():
    one = table(rows("sst2", "searched", [0.83], budget="0.1%"), rows("sst2", "random", [0.80], budget="0.1%"))
    made = differences(one)
    assert made["n_pairs"].tolist() == [1, 1]
    assert made[["low", "high", "effect"]].isna().all(axis=None)
    assert sentence(made.iloc[0]) == "searched - random = +0.030 (no interval: one value only; 1 pair of seeds): not settled"
    alike = table(rows("sst2", "searched", [0.83] * 3, budget="0.1%"), rows("sst2", "random", [0.80] * 3, budget="0.1%"))
    assert sentence(differences(alike, scale="points").iloc[0]) == (
        "searched - random = +3.0 points (no interval: values all alike; 3 pairs of seeds): not settled"
    )
    unknown = table(rows("sst2", "searched", [0.8, math.inf], budget="0.1%"), rows("sst2", "random", [0.8, math.inf], budget="0.1%"))
    assert differences(unknown)["difference"].isna().all()
    assert "a value is not known" in sentence(differences(unknown).iloc[0])


def test_all_weighs_groups_alike_and_draws_seeds_within_tasks():
    made = differences(table(
        rows("a", "searched", [2, 1, 0], budget="0.1%"), rows("a", "random", [0, 0, 0], budget="0.1%"),
        rows("b", "searched", [0, 1, 2, 1, 1, 1, 1], budget="0.1%"), rows("b", "random", [4] * 7, budget="0.1%"),
    ))  # fmt: skip
    assert tuple(made["difference"]) == pytest.approx((1, -3, -1))
    every = made.iloc[-1]
    assert tuple(every[["n_a", "n_pairs", "n_groups", "better"]].astype(float)) == pytest.approx((10, 10, 2, (2.5 / 3) / 2))


def test_all_never_mixes_what_differs_beside_the_task():
    """Budgets, modes, and sources where they are asked for: each has a row "all" of its own, as if it stood alone."""
    rng = np.random.default_rng(1)

    def of(budget, mode, source=""):
        each = [rows(t, m, rng.normal(size=3), budget=budget, mode=mode) for t in "abc" for m in ("searched", "random")]
        return [{**row, "source": source} for part in each for row in part]

    kinds = {("0.1%", "fast", ""): of("0.1%", "fast"), ("0.2%", "fast", ""): of("0.2%", "fast"),
             ("0.2%", "paper", "y"): of("0.2%", "paper", "y"), ("0.2%", "paper", "x"): of("0.2%", "paper", "x")}  # fmt: skip
    by = ("task", "budget", "mode", "source")
    every = differences(table(*kinds.values()), by=by).query("task == 'all'")
    assert list(every[["budget", "mode", "source"]].itertuples(index=False, name=None)) == list(kinds)
    assert (every["n_groups"] == 3).all()
    for (_, row), part in zip(every.iterrows(), kinds.values(), strict=True):
        alone = differences(table(part), by=by).iloc[-1]
        pd.testing.assert_series_equal(row, alone, check_names=False)


def test_coverage_of_all():
    """3 tasks x 4 seeds against full fine-tuning, which varies most. Each task's truth is 1, 2, 3."""
    rng = np.random.default_rng(5)
    held = 0
    n_studies = 200
    for _ in range(n_studies):
        parts = []
        for i, task in enumerate("abc"):
            parts.append(rows(task, "full", 10 + rng.normal(0, 1, 4)))
            parts.append(rows(task, "searched", 11 + i + rng.normal(0, 0.3, 4), budget="0.1%"))
        every = differences(table(*parts), b="full", resamples=199).iloc[-1]
        held += every["low"] <= 2 <= every["high"]
    assert held / n_studies == pytest.approx(0.95, abs=0.04)


def test_single_pairs_draw_tasks():
    single = [rows(t, m, [s], budget="0.1%") for t, d in (("a", 2), ("b", 1), ("c", 0)) for m, s in (("searched", d), ("random", 0))]
    made = differences(table(*single))
    every = made.iloc[-1]
    assert every["test"].startswith("tasks drawn")
    assert tuple(every[["difference", "low", "high"]].astype(float)) == pytest.approx((1, 1 - THREE, 1 + THREE), rel=1e-6)
    assert sentence(every).endswith("; 3 pairs of seeds in 3 groups): not settled")


@settings(max_examples=10, deadline=None)
@given(st.randoms())
def test_the_order_of_rows_does_not_matter(random):
    rng = np.random.default_rng(3)
    data = table(*(rows(t, m, rng.normal(size=4), budget=b) for t in "ab" for m in ("searched", "random") for b in ("0.1%", "0.2%")))
    mixed = data.iloc[random.sample(range(len(data)), len(data))]
    one, two = (differences(d, resamples=99).sort_values(["task", "budget"], ignore_index=True) for d in (data, mixed))
    pd.testing.assert_frame_equal(one, two)


def test_a_sign_flip_turns_the_interval():
    rng = np.random.default_rng(4)
    data = table(*(rows(t, m, rng.normal(size=5), budget="0.1%") for t in "ab" for m in ("searched", "random")))
    one, two = differences(data), differences(data, a="random", b="searched")
    np.testing.assert_allclose(one["difference"], -two["difference"])
    np.testing.assert_allclose(one["low"], -two["high"], rtol=0.05)
    np.testing.assert_allclose(one["better"], 1 - two["better"])


def test_no_number_is_said_as_zero():
    row = {"a": "x", "b": "y", "value": "score", "unit": "points", "difference": 1.8, "low": 0.04, "high": 3.56, "level": 0.95,
           "paired": True, "n_pairs": 3, "n_groups": 1, "test": ""}  # fmt: skip
    assert sentence(row) == "x - y = +1.80 points (95 % interval +0.04 to +3.56; 3 pairs of seeds)"
    assert sentence({**row, "low": 0.1, "level": 0.9}) == "x - y = +1.8 points (90 % interval +0.1 to +3.6; 3 pairs of seeds)"


def test_differences_refuses():
    data = table(rows("a", "searched", [0.8, 0.9], budget="0.1%"), rows("b", "random", [0.7, 0.8], budget="0.1%"))
    for message, options in {
        "expected rows of method 'LoRA', found random, searched": {"b": "LoRA"},
        "expected 'searched' and 'random' within one task and budget, found none with both": {},
        "expected two methods, found 'random' twice": {"a": "random"},
        "value: expected one of score, loss, found 'f1'": {"value": "f1"},
        "scale: expected one of raw, points, found 'percent'": {"scale": "percent"},
        "scale: expected 'raw' for value 'loss'": {"scale": "points", "value": "loss"},
        "by: expected 'task' among the columns, found budget": {"by": ("budget",)},
        "backbone not found": {"by": ("task", "backbone")},
    }.items():
        with pytest.raises(ConfigError, match=message):
            differences(data, **options)
    for column, values in {"mode": ("fast", "paper"), "source": ("a", "b")}.items():
        mixed = table(*(rows("a", "searched", [0.8, 0.9], budget="0.1%", **{column: v}) for v in values), rows("a", "random", [0.1, 0.2], budget="0.1%"))
        with pytest.raises(ConfigError, match=f"expected one {column} among the rows of 'searched' in a 0.1%, found {values[0]}, {values[1]}"):
            differences(mixed)


# -- what keeps up with full fine-tuning -------------------------------------------------------------------


def study(full=(0.90, 0.91, 0.89), head=(0.60, 0.61, 0.59), task="sst2"):
    return [
        rows(task, "full", full), rows(task, "head", head),
        rows(task, "searched", [0.80, 0.82, 0.81], budget="0.1%"),
        rows(task, "searched", [0.895, 0.90, 0.89], budget="0.2%"),
        rows(task, "searched", [0.86, 0.87, 0.85], budget="0.5%", percent=0.5),
        rows(task, "random", [0.70, 0.71, 0.72], budget="0.1%"), rows(task, "random", [0.80, 0.81, 0.82], budget="0.2%"),
    ]  # fmt: skip


def test_the_smallest_budget_that_keeps():
    made = keeps(table(*study()))
    searched, random = made.iloc[0], made.iloc[1]
    assert tuple(searched[["task", "method", "mode", "budget", "budget_params"]]) == ("sst2", "searched", "fast", "0.2%", 2000)
    assert tuple(searched[["score", "full", "ratio"]].astype(float)) == pytest.approx((0.895, 0.9, 0.895 / 0.9))
    assert bool(searched["kept"])
    assert searched["low"] < 0.99 < searched["ratio"] < searched["high"]
    # 0.3 over the standard error of two means, each of three scores with a standard deviation of 0.01
    assert searched["errors"] == pytest.approx(0.3 / (0.01 * math.sqrt(2 / 3)))
    assert (searched["floor"], bool(searched["provable"])) == ("head", True)
    assert searched["words"].startswith("sst2: searched (fast) keeps 0.99 of full from 0.2% on; ratio 0.994 (95 % interval 0.9")
    assert searched["words"].endswith("; 3 and 3 runs); not settled; but not at 0.5%")
    assert tuple(random[["budget", "budget_params", "kept"]]) == ("none of 0.1%, 0.2%", 2000, False)
    assert random["words"].startswith("sst2: random keeps 0.99 of full at none of 0.1%, 0.2%; ratio at the largest 0.900 (")
    low = keeps(table(*study()), share=0.85, methods=["searched"]).iloc[0]
    assert low["budget"] == "0.1%"
    assert low["words"].startswith("sst2: searched (fast) keeps 0.85 of full from 0.1% on; ratio 0.900 (")


def test_a_manual_structure_is_called_by_its_size():
    made = keeps(table(*study(), rows("sst2", "LoRA", [0.85, 0.86, 0.87], budget="", percent=0.1995)), methods=["LoRA"]).iloc[0]
    assert made["words"].startswith("sst2: LoRA keeps 0.99 of full at none of 0.2%; ratio at the largest 0.956 (")


def test_interval_of_the_ratio():
    """Only one side varies: the interval is that of its mean over the other's."""
    made = keeps(table(rows("a", "full", [0.5] * 3), rows("a", "random", [0.4, 0.5, 0.6], budget="0.1%"))).iloc[0]
    assert (made["low"], made["high"]) == pytest.approx((1 - 0.2 * THREE, 1 + 0.2 * THREE), rel=1e-6)
    made = keeps(table(rows("a", "full", [0.4, 0.5, 0.6]), rows("a", "random", [0.25] * 3, budget="0.1%"))).iloc[0]
    assert (made["low"], made["high"]) == pytest.approx((0.5 - 0.1 * THREE, 0.5 + 0.1 * THREE), rel=1e-6)
    one = keeps(table(rows("a", "full", [0.5]), rows("a", "random", [0.4, 0.5, 0.6], budget="0.1%"))).iloc[0]
    assert math.isnan(one["low"])
    assert "(no interval; 3 and 1 runs); not settled" in one["words"]


def test_a_task_that_proves_nothing():
    noisy = study(head=(0.88, 0.90, 0.86), task="rte")
    made = keeps(table(*noisy)).iloc[0]
    assert not made["provable"]
    assert made["words"].endswith("this task proves nothing: full is 1.5 standard errors above head")
    # One seed: nothing is known without the rows; with them, binomial: sqrt(0.25 / 100) and sqrt(0.09 / 100).
    single = table(rows("rte", "full", [0.9]), rows("rte", "head", [0.5]), rows("rte", "searched", [0.9], budget="0.1%"))
    unknown = keeps(single).iloc[0]
    assert math.isnan(unknown["errors"])
    assert not unknown["provable"]
    assert unknown["words"].endswith("whether the task can tell is not known: no standard error of full above head")
    assert keeps(single, rows={"rte": 100}).iloc[0]["errors"] == pytest.approx(0.4 / math.sqrt(0.0034))
    # Matthews: (1 - r^2) / sqrt(rows - 1).
    matthews = keeps(single.assign(metric="matthews"), rows={"rte": 101}).iloc[0]
    assert matthews["errors"] == pytest.approx(0.4 / math.hypot(0.019, 0.075))
    # Seeds that agree do not undo the error of few rows.
    assert not keeps(table(*study(head=(0.85, 0.851, 0.852))), rows={"sst2": 100}).iloc[0]["provable"]
    without = table(rows("t", "full", [0.9, 0.8]), rows("t", "untouched", [0.0], seeds=[0]), rows("t", "searched", [0.9], budget="0.1%"))
    assert keeps(without).iloc[0]["floor"] == "untouched"


def test_full_that_learned_nothing_keeps_nothing():
    made = keeps(table(rows("cola", "full", [0.0, 0.0]), rows("cola", "searched", [0.0, 0.1], budget="0.1%"))).iloc[0]
    assert not made["kept"]
    assert math.isnan(made["ratio"])
    assert "full is not above 0 or a score is not known" in made["words"]


def test_keeps_refuses():
    data = table(*study())
    with pytest.raises(ConfigError, match="keeps: expected rows of method 'LoRA', found full, head, random, searched"):
        keeps(data, of="LoRA")
    with pytest.raises(ConfigError, match="keeps: expected rows of 'BitFit' on a task of 'full', found full"):
        keeps(data, methods=["BitFit"])
    with pytest.raises(ConfigError, match="share: expected a number above 0, found 0"):
        keeps(data, share=0)
    mixed = table(*study(), rows("sst2", "searched", [0.5], budget="0.1%", source="cola"))
    with pytest.raises(ConfigError, match="keeps: expected one source among the rows of 'searched' in sst2, found , cola"):
        keeps(mixed)
