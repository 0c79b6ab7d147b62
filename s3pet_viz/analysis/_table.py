"""What the statistics share: the columns of a study's tidy table, checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from s3pet_viz.errors import ConfigError

#: What the rows of one method and group must not mix, unless grouped by: they answer different questions.
APART = ("budget", "mode", "source")


def prepared(table: pd.DataFrame, columns: Iterable[str], what: str) -> pd.DataFrame:
    """A copy of these columns, with blanks for labels that are missing. Raises ConfigError: a column is missing."""
    wanted = list(dict.fromkeys(columns))
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise ConfigError(
            f"{what}: expected a study's table with the columns {', '.join(wanted)}; {', '.join(missing)} not found"
        )
    rows = table[wanted].reset_index(drop=True)
    for name in {"task", "budget", "method", "mode", "source"} & set(wanted):
        rows[name] = rows[name].astype(object).where(rows[name].notna(), "")
    return rows


def html_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table for a notebook; texts are escaped and never cut."""
    with pd.option_context("display.max_colwidth", None):
        return str(pd.DataFrame(list(rows), columns=list(names)).to_html(index=False, border=0))


def known(values: pd.Series) -> pd.Series:
    """As float64, NaN where not finite."""
    made = values.astype(float)
    return made.where(np.isfinite(made))


def of_method(rows: pd.DataFrame, method: str, what: str) -> pd.DataFrame:
    """The rows of a method. Raises ConfigError: there are none."""
    found = rows[rows["method"] == method]
    if found.empty:
        raise ConfigError(f"{what}: expected rows of method {method!r}, found {names(rows)}")
    return found


def names(rows: pd.DataFrame) -> str:
    """The methods present, for a message."""
    return ", ".join(sorted(map(str, rows["method"].unique()))) or "no rows"


def unmixed(side: pd.DataFrame, method: str, by: Sequence[str], key: tuple[str, ...], what: str) -> None:
    """Refuse rows that answer different questions. Raises ConfigError: they differ in a column of `APART` that is not
    in `by`.
    """
    for name in APART:
        found = sorted(map(str, side[name].unique()))
        if name not in by and len(found) > 1:
            raise ConfigError(
                f"{what}: expected one {name} among the rows of {method!r} in {' '.join(map(str, key)).strip()}, found "
                f"{', '.join(found)}; add {name!r} to by, or choose rows of the table first"
            )


def pooled_name(tasks: Iterable[object]) -> str:
    """What rows over all tasks are called: "all", or where a task has that name, one that none has."""
    taken, name = set(tasks), "all"
    while name in taken:
        name += " tasks"
    return name


def mean(values: pd.Series) -> float:
    """NaN where any value is NaN, unlike pandas' own mean."""
    return float(np.mean(values.to_numpy(float)))
