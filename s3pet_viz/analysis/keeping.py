"""The smallest budget that keeps up with full fine-tuning, and whether a task can tell anything at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from s3pet_viz.analysis._table import APART, known, mean, names, of_method, prepared, unmixed
from s3pet_viz.analysis.intervals import Bounds, Floats
from s3pet_viz.errors import ConfigError

#: Full fine-tuning below so many standard errors above its floor: the task proves nothing.
PROVES = 3.0


def keeps(
    table: pd.DataFrame,
    *,
    share: float = 0.99,
    of: str = "full",
    methods: Sequence[str] = ("searched", "random"),
    rows: Mapping[str, int] | None = None,
    level: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """The smallest budget whose mean score is at least `share` of full fine-tuning's mean, per task, method and mode.

    Columns: task, method, mode; budget ("none of ..." where none is enough; the numbers beside it are then those of the
    largest budget), budget_params, percent, score, full (means); ratio (score / full, NaN where full is not above 0),
    low, high (its interval, by the delta method: seeds of both drawn apart, full's error to first order), level, n,
    n_full, kept; and whether the task can tell anything: floor ("head", or "untouched" where there is no head), errors
    (full - floor in standard errors), provable (errors >= 3; False too where they are not known); words (all of this as
    a sentence, which also says whether the interval lies above `share`, and which larger budgets fall below it).

    The standard error of a mean is that of its seeds, or that of sampling the held-out rows where this is larger: all
    seeds share those rows, so their spread does not show it. For shares (accuracy, F1) ``sqrt(s (1 - s) / rows)``,
    for correlations (Matthews, Pearson, Spearman) ``(1 - r^2) / sqrt(rows - 1)``, the large-sample forms.

    Args:
        share: of full's mean score, e.g. 0.99.
        of: the method to keep up with.
        methods: which to judge.
        rows: held-out rows of each task; without them one seed has no standard error.
        level, resamples, seed: as `interval`.

    Raises:
        ConfigError: a column is missing, no task has rows of `of` and of one of `methods`, rows of a method mix
            sources, or a wrong share or level.
    """
    if not share > 0:
        raise ConfigError(f"share: expected a number above 0, found {share!r}")
    bounds = Bounds(level, resamples, seed)
    data = prepared(table, ("task", "method", "seed", "metric", "score", "budget_params", "percent", *APART), "keeps")
    data["score"] = known(data["score"])
    reference = of_method(data, of, "keeps")
    tried = data[data["method"].isin(list(methods)) & data["task"].isin(reference["task"])]
    if tried.empty:
        wanted = " or ".join(map(repr, methods))
        raise ConfigError(f"keeps: expected rows of {wanted} on a task of {of!r}, found {names(data)}")
    made = []
    for key, group in tried.groupby(["task", "method", "mode"], sort=False):
        task, method, mode = map(str, key)
        unmixed(group, method, ("budget", "mode"), (task,), "keeps")
        whole = np.sort(reference.loc[reference["task"] == task, "score"].to_numpy(float))
        floor, errors = _above_floor(data[data["task"] == task], whole, (rows or {}).get(task))
        row = {"task": task, "method": method, "mode": mode, **_smallest(group, whole, share, bounds)}
        row |= {"floor": floor, "errors": errors, "provable": errors >= PROVES}
        lost = row.pop("lost")
        made.append({**row, "words": _words(row, share, of, lost)})
    return pd.DataFrame(made)


def _smallest(group: pd.DataFrame, whole: Floats, share: float, bounds: Bounds) -> dict[str, Any]:
    """The smallest budget that is enough, else the largest of all; `lost`: larger ones that are not enough."""
    full = float(whole.mean())
    # What was trained without a budget (a manual structure) is called by its size.
    parts = group.groupby(["budget_params", "budget"])
    sizes = [(str(key[1]) or f"{mean(part['percent']):.3g}%", part) for key, part in parts]
    enough = [mean(part["score"]) >= share * full > 0 for _, part in sizes]
    at = enough.index(True) if any(enough) else len(sizes) - 1
    label, part = sizes[at]
    scores = np.sort(part["score"].to_numpy(float))
    ratio = low = high = math.nan
    if full > 0:
        ratio = float(scores.mean()) / full
        low, high = bounds([scores / full, -ratio * whole / full])
    labels = [name for name, _ in sizes]
    return {
        "budget": label if any(enough) else f"none of {', '.join(labels)}",
        "budget_params": int(part["budget_params"].iloc[0]),
        "percent": mean(part["percent"]),
        "score": float(scores.mean()),
        "full": full,
        "ratio": ratio,
        "low": ratio + low,
        "high": ratio + high,
        "level": bounds.level,
        "n": len(scores),
        "n_full": len(whole),
        "kept": any(enough),
        "lost": [name for name, good in zip(labels[at:], enough[at:], strict=True) if not good],
    }


def _words(row: Mapping[str, Any], share: float, of: str, lost: Sequence[str]) -> str:
    mode = f" ({row['mode']})" if row["mode"] else ""
    what = f"{row['task']}: {row['method']}{mode} keeps {share:.4g} of {of}"
    said = [f"{what} from {row['budget']} on" if row["kept"] else f"{what} at {row['budget']}"]
    if math.isnan(row["ratio"]):
        said.append(f"{of} is not above 0 or a score is not known")
    else:
        limits = f"{100 * row['level']:g} % interval {row['low']:.3f} to {row['high']:.3f}"
        limits = "no interval" if math.isnan(row["low"]) else limits
        where = "" if row["kept"] else " at the largest"
        said.append(f"ratio{where} {row['ratio']:.3f} ({limits}; {row['n']} and {row['n_full']} runs)")
    if row["kept"] and not row["low"] >= share:
        said.append("not settled")
    if row["kept"] and lost:
        said.append(f"but not at {', '.join(lost)}")
    if math.isnan(row["errors"]):
        said.append(f"whether the task can tell is not known: no standard error of {of} above {row['floor'] or 'head'}")
    elif not row["provable"]:
        said.append(f"this task proves nothing: {of} is {row['errors']:.1f} standard errors above {row['floor']}")
    return "; ".join(said)


def _above_floor(data: pd.DataFrame, whole: Floats, rows: int | None) -> tuple[str, float]:
    """The floor's name ("" where there is none) and (full - floor) in standard errors, NaN where not known."""
    for floor in ("head", "untouched"):
        scores = data.loc[data["method"] == floor, "score"].to_numpy(float)
        if len(scores):
            metric = str(data["metric"].iloc[0])
            error = math.hypot(*(_standard_error(s, metric, rows) for s in (whole, scores)))
            return floor, float(whole.mean() - scores.mean()) / error if error > 0 else math.nan
    return "", math.nan


def is_correlation(metric: str) -> bool:
    """Whether a metric's values lie from -1 to 1, by its name."""
    return any(name in metric.lower() for name in ("matthews", "pearson", "spearman"))


def _standard_error(scores: Floats, metric: str, rows: int | None) -> float:
    """Of the mean score: of its seeds, or of sampling the held-out rows where larger; NaN where neither is known."""
    errors = [float(scores.std(ddof=1)) / math.sqrt(len(scores))] if len(scores) > 1 else []
    if rows is not None and rows > 1:
        s = float(scores.mean())
        errors.append(
            (1 - s**2) / math.sqrt(rows - 1) if is_correlation(metric) else math.sqrt(max(0.0, s * (1 - s)) / rows)
        )
    return max(errors, default=math.nan)
