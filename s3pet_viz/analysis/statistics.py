"""Statistics of a study's tidy table: means with intervals, and paired differences.

Pure functions of a table as `Study.table` gives it, one row per finished training. Nothing here picks a best row.
How the intervals are made and how often they hold: s3pet_viz/analysis/intervals.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from scipy.special import gammaln

from s3pet_viz.analysis._table import APART, known, mean, of_method, pooled_name, prepared, unmixed
from s3pet_viz.analysis.intervals import Bounds, Floats, Interval, alike, interval
from s3pet_viz.analysis.keeping import keeps
from s3pet_viz.config.checks import among
from s3pet_viz.errors import ConfigError

__all__ = ["Interval", "differences", "interval", "keeps", "sentence", "summary"]

Value = Literal["score", "loss"]
Scale = Literal["raw", "points"]


def summary(
    table: pd.DataFrame, by: Sequence[str] = ("task", "budget", "method", "mode"), *, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """One row per group, in order of first appearance.

    Columns: those of `by`; score (mean), spread (its standard deviation over n - 1; NaN for one), n, low, high
    (`interval` of the mean score, rows counted as independent), and the means loss, pet_params, percent, seconds.
    A score or loss that is not known (NaN) makes its mean NaN.

    Args:
        level, seed: as `interval`.

    Raises:
        ConfigError: a column is missing, or a wrong level.
    """
    rows = prepared(table, (*by, "score", "loss", "pet_params", "percent", "seconds"), "summary")
    made = []
    rows["score"] = known(rows["score"])
    for key, group in rows.groupby(list(by), sort=False):
        score = interval(group["score"], level=level, seed=seed)
        spread = float(np.std(group["score"].to_numpy(), ddof=1)) if score.n > 1 else math.nan
        means = [mean(group[name]) for name in ("loss", "pet_params", "percent", "seconds")]
        made.append((*key, score.mean, spread, score.n, score.low, score.high, *means))
    columns = [*by, "score", "spread", "n", "low", "high", "loss", "pet_params", "percent", "seconds"]
    return pd.DataFrame(made, columns=columns)


def scale_of(scores: pd.Series) -> Scale:
    """``points`` where all scores that are known are fractions (and some are), else ``raw``."""
    found = known(scores).dropna()
    return "points" if len(found) and float(found.abs().max()) <= 1 else "raw"


def at_one_size(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows to hold a method of one size (LoRA by hand, which has no budget) against others at budgets: those of the
    budget nearest to its size (by ratio) alone, for over all budgets it would be compared with what has twice its
    parameters, too.

    Returns:
        The rows, and that budget; all rows and "" where no method has one size, or there are no two budgets.
    """
    own = table[(table["budget"] == "") & (table.get("n_gates", 0) > 0)]
    sizes = table[table["budget"] != ""].groupby("budget", sort=False)["budget_params"].max()
    sizes = sizes[sizes > 0]
    if own.empty or len(sizes) < 2:
        return table, ""
    nearest = str(np.abs(np.log(sizes / float(own["pet_params"].mean()))).idxmin())
    return table[table["budget"].isin(["", nearest])], nearest


class _Group(NamedTuple):
    """The difference within one group: its row of the table, still without interval, and samples whose means add to
    it; what is drawn again are their values, of seeds or single runs.
    """

    row: dict[str, Any]
    samples: list[Floats]


def differences(
    table: pd.DataFrame,
    *,
    a: str = "searched",
    b: str = "random",
    by: Sequence[str] = ("task", "budget"),
    value: Value = "score",
    scale: Scale = "raw",
    level: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Method a minus method b, one row per group that has both, and last a row of all tasks for each budget (and mode).

    Paired where two seeds or more are in both (or each has the same single seed): for each such seed the mean over a's
    rows minus the mean over b's rows; rows of other seeds are left out. Else all rows of both, unpaired. A method whose
    rows have no budget (or mode) is compared with every one of its task.

    A row of all tasks (`pooled`; its task is "all", or "all tasks" where a task of that name is there) is the mean over
    the groups that differ by nothing of `by` but their task, each weighing alike: budgets are not pooled. Its bootstrap
    draws seeds within each task: the interval is about these tasks, not about tasks in general. Where a group has a
    single pair, whole tasks are drawn instead, which is wider. Tasks have metrics of different scales; `effect` has
    none.

    Columns: those of `by`; pooled (whether of all tasks); a, b, value, unit ("points" or ""); mean_a, mean_b,
    difference, low, high, level; n_a, n_b (rows used), n_pairs (of seeds; 0 where unpaired), n_groups, paired; better
    (share of pairs in which a wins, a tie is half a win; unpaired: of all pairs of rows); effect (the difference over
    the standard deviation of b's rows in the group, times the small-sample correction of Hedges, J. Educ. Stat. 1981;
    NaN below three rows; pooled: mean of those that are known); test (what was done, in words).

    Args:
        by: columns that make a group, "task" among them.
        value: ``score`` (higher is better) or ``loss`` (lower is better).
        scale: ``points``: scores times 100.
        level, resamples, seed: as `interval`.

    Raises:
        ConfigError: a column or method is missing, no group has both methods, or rows of one group mix budgets,
            modes or sources.
    """
    among("value", value, get_args(Value))
    among("scale", scale, get_args(Scale))
    if scale == "points" and value != "score":
        raise ConfigError(f"scale: expected 'raw' for value {value!r} (points are scores times 100), found 'points'")
    if "task" not in by:
        raise ConfigError(f"by: expected 'task' among the columns, found {', '.join(by) or 'none'}")
    if a == b:
        raise ConfigError(f"differences: expected two methods, found {a!r} twice")
    bounds = Bounds(level, resamples, seed)
    rows = prepared(table, ("method", "seed", "draw", value, *APART, *by), "differences")
    rows["value"] = known(rows[value]) * (100 if scale == "points" else 1)
    left, right = (of_method(rows, name, "differences") for name in (a, b))
    groups = []
    for key in _keys([left, right], by):
        sides = [_matching(side, by, key) for side in (left, right)]
        if all(map(len, sides)):
            for name, side in zip((a, b), sides, strict=True):
                unmixed(side, name, by, key, "differences")
            group = _compare(*sides, sign=-1 if value == "loss" else 1)
            group.row.update(zip(by, key, strict=True))
            groups.append(group)
    if not groups:
        raise ConfigError(f"differences: expected {a!r} and {b!r} within one {' and '.join(by)}, found none with both")
    every_task = pooled_name(group.row["task"] for group in groups)
    facts = {"a": a, "b": b, "value": value, "unit": "points" if scale == "points" else ""}
    pooled: dict[tuple[Any, ...], list[_Group]] = {}
    for group in groups:
        pooled.setdefault(tuple(every_task if name == "task" else group.row[name] for name in by), []).append(group)
    every = (dict(zip(by, key, strict=True)) | {"pooled": True} | _overall(of, bounds) for key, of in pooled.items())
    made = [*({"pooled": False} | _row(group, bounds) for group in groups), *every]
    numbers = "mean_a mean_b difference low high level n_a n_b n_pairs n_groups paired better effect test".split()
    return pd.DataFrame([facts | row for row in made], columns=[*by, "pooled", *facts, *numbers])


def _keys(sides: Sequence[pd.DataFrame], by: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups in order of appearance; one with a blank is left out where another fills the blank."""
    found = list(dict.fromkeys(key for side in sides for key in side[list(by)].itertuples(index=False, name=None)))

    def filled(key: tuple[str, ...]) -> bool:
        return any(key != k and all(x in ("", y) for x, y in zip(key, k, strict=True)) for k in found)

    return [key for key in found if not filled(key)]


def _matching(side: pd.DataFrame, by: Sequence[str], key: tuple[str, ...]) -> pd.DataFrame:
    keep = [side[name].isin([wanted] if name == "task" else [wanted, ""]) for name, wanted in zip(by, key, strict=True)]
    return side[np.logical_and.reduce(keep)]


def _compare(x: pd.DataFrame, y: pd.DataFrame, *, sign: int) -> _Group:
    seeds = sorted(set(x["seed"]) & set(y["seed"]))
    paired = len(seeds) > 1 or (len(seeds) == 1 and x["seed"].nunique() == y["seed"].nunique() == 1)
    if paired:
        x, y = x[x["seed"].isin(seeds)], y[y["seed"].isin(seeds)]
        one, two = (_of_seeds(side, seeds) for side in (x, y))
        samples = [np.sort(one - two)]
        won = np.sign(one - two)
    else:
        one, two = (side["value"].to_numpy(float) for side in (x, y))
        samples = [np.sort(one), np.sort(-two)]
        won = np.sign(np.subtract.outer(one, two))
    rest = np.sort(y["value"].to_numpy(float))
    spread = rest.std(ddof=1) if len(rest) > 2 and not alike(rest) else math.nan
    effect = _hedges(len(rest) - 1) * (one.mean() - two.mean()) / spread if spread > 0 else math.nan
    mean_a, mean_b = float(one.mean()), float(two.mean())
    row = {
        **{"mean_a": mean_a, "mean_b": mean_b, "difference": mean_a - mean_b, "n_a": len(x), "n_b": len(y)},
        **{"n_pairs": len(seeds) if paired else 0, "n_groups": 1, "paired": paired},
        **{"better": float((1 + sign * won).mean() / 2), "effect": float(effect)},
    }
    return _Group(row, samples)


def _of_seeds(side: pd.DataFrame, seeds: Sequence[Any]) -> Floats:
    """The mean of each seed's rows, shape (n_seeds,)."""
    of, values = side["seed"].to_numpy(), side["value"].to_numpy(float)
    return np.array([np.sort(values[of == seed]).mean() for seed in seeds])


def _hedges(freedom: int) -> float:
    """J(freedom): the expected standard deviation is too small, so its inverse is too large by 1 / J."""
    return math.exp(gammaln(freedom / 2) - gammaln((freedom - 1) / 2)) / math.sqrt(freedom / 2)


def _row(group: _Group, bounds: Bounds) -> dict[str, Any]:
    test = "paired over seeds, widened bootstrap" if group.row["paired"] else "unpaired, widened bootstrap of both"
    return _bounded(group.row, group.samples, test, bounds)


def _bounded(row: dict[str, Any], samples: list[Floats], test: str, bounds: Bounds) -> dict[str, Any]:
    low, high = bounds(samples)
    test = _no_interval(samples) if math.isnan(low) else test
    limits = {"low": row["difference"] + low, "high": row["difference"] + high}
    return {**row, **limits, "level": bounds.level, "test": test}


def _no_interval(samples: Sequence[Floats]) -> str:
    if not all(np.isfinite(s).all() for s in samples):
        return "no interval: a value is not known"
    return "no interval: one value only" if min(map(len, samples)) < 2 else "no interval: values all alike"


def _overall(groups: Sequence[_Group], bounds: Bounds) -> dict[str, Any]:
    """One row of groups of one task each: they weigh alike; what is drawn are seeds within tasks, else tasks."""
    groups = sorted(groups, key=lambda group: str(group.row["task"]))
    rows = pd.DataFrame([group.row for group in groups])
    samples: list[Floats] = [values / len(groups) for group in groups for values in group.samples]
    if min(map(len, samples)) > 1:
        test = "seeds drawn within each task, tasks weigh alike, widened bootstrap"
    else:
        test = "tasks drawn (one has a single run), widened bootstrap"
        samples = [np.sort(rows["difference"].to_numpy(np.float64))]
    made = {name: mean(rows[name]) for name in ("mean_a", "mean_b", "better")}
    made |= {"difference": made["mean_a"] - made["mean_b"], "effect": float(rows["effect"].mean())}
    made |= {name: int(rows[name].sum()) for name in ("n_a", "n_b", "n_pairs", "n_groups")}
    return _bounded({**made, "paired": bool(rows["paired"].all())}, samples, test, bounds)


def sentence(row: pd.Series | Mapping[str, Any]) -> str:
    """A row of `differences` as one plain sentence that says n, the interval, and whether it is settled.

    ``searched - random = +1.8 points (95 % interval +0.1 to +3.6; 3 pairs of seeds)``; where the interval holds 0 or is
    not known, ``: not settled`` follows.
    """
    difference, low, high = (float(row[name]) for name in ("difference", "low", "high"))
    said = _signed([difference, low, high], least=1 if row["unit"] == "points" else 3)
    what = {"points": " points"}.get(row["unit"], " in held-out loss" if row["value"] == "loss" else "")
    if row["paired"]:
        count = f"{row['n_pairs']} {'pair' if row['n_pairs'] == 1 else 'pairs'} of seeds"
    else:
        count = f"{row['n_a']} against {row['n_b']} runs"
    if row["n_groups"] > 1:
        count += f" in {row['n_groups']} groups"
    bounded = not math.isnan(low)
    limits = f"{100 * row['level']:g} % interval {said[1]} to {said[2]}" if bounded else str(row["test"])
    if math.isnan(difference):
        return f"{row['a']} - {row['b']} is not known ({row['test']}; {count})"
    settled = bounded and not low <= 0 <= high
    return f"{row['a']} - {row['b']} = {said[0]}{what} ({limits}; {count}){'' if settled else ': not settled'}"


def _signed(values: Sequence[float], least: int) -> list[str]:
    """Numbers with a sign and as many decimals as keep one that is not zero from being said as zero, six at most."""
    digits = least
    while digits < 6 and any(0 < abs(v) < 0.5 * 10.0**-digits for v in values):
        digits += 1
    return [f"{v + 0.0:+.{digits}f}" for v in values]
