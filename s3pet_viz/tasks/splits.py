"""Which rows train, validate and test: the published splits, or a held-out part of the training rows.

Rows that must stay together (a MultiRC or ReCoRD passage, rows with the very same texts) never end up on two sides of a
cut. A cut depends on the rows and the seed alone, and keeps the rows' own order on each side.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal

from s3pet_viz.errors import ConfigError, TaskError
from s3pet_viz.tasks import forms
from s3pet_viz.tasks.rows import Table
from s3pet_viz.tasks.spec import Task

SplitRule = Literal["paper", "holdout"]
SPLITS = ("train", "validation", "test")
MOST_HELD_OUT = 2000  # training rows that a task gives up for validation, at most


def split_tables(task: Task, tables: Mapping[str, Table], rule: SplitRule, seed: int) -> dict[str, Table]:
    """The train, validation and test tables by `rule`.

    "paper": a large task gives up 2,000 training rows (at most a quarter) as validation and tests on its whole
    validation file; any other task cuts that file into two halves, validation and test; a task with a test split of its
    own keeps its three. "holdout": 10 % of the training rows (at most 2,000) validate, the whole validation file tests,
    and a test split of its own is left alone. Without a validation split, a tenth of the training rows (at most 2,000)
    stands in for it, and another tenth tests where there is no test split. Raises TaskError when there are too few rows
    to cut.
    """
    if rule not in ("paper", "holdout"):
        raise ConfigError(f"split: expected 'paper' or 'holdout', found {rule!r}.")
    train = tables["train"]
    if "validation" not in tables:
        for part in ("test", "validation"):
            if part not in tables:
                held, train = _cut(task, train, min(MOST_HELD_OUT, max(1, round(0.1 * len(tables["train"])))), seed)
                tables = {**tables, part: held}
        return {**tables, "train": train}
    held = tables["validation"]
    if rule == "paper" and "test" in tables:
        return {"train": train, "validation": held, "test": tables["test"]}
    if rule == "paper" and not task.large:
        validation, test = _cut(task, held, len(held) // 2, seed)
        return {"train": train, "validation": validation, "test": test}
    share = len(train) // 4 if rule == "paper" else round(0.1 * len(train))
    validation, rest = _cut(task, train, min(MOST_HELD_OUT, max(1, share)), seed)
    return {"train": rest, "validation": validation, "test": held}


def validating(task: Task, tables: Mapping[str, Table], rule: SplitRule) -> str:
    """What `split_tables` validates on, in words."""
    if "validation" not in tables:
        return "a part of the training split"
    if rule == "paper" and "test" in tables:
        return "the validation split"
    return "a half of the validation split" if rule == "paper" and not task.large else "a part of the training split"


def cap_rows(
    task: Task, tables: Mapping[str, Table], most: Mapping[str, int] | int | None, seed: int
) -> dict[str, Table]:
    """At most `most` rows of each split, drawn with the seed, each class by its share of the rows; MultiRC keeps or
    drops a question whole.

    Raises ConfigError for a name that is no split or a limit below 1.
    """
    if most is None:
        return dict(tables)
    limits = dict(most) if isinstance(most, Mapping) else dict.fromkeys(SPLITS, most)
    for split, limit in limits.items():
        if split not in SPLITS or isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ConfigError(
                f"max_rows: expected a whole number from 1 for {', '.join(SPLITS)}; found {split}: {limit!r}."
            )
    capped = {}
    for split, table in tables.items():
        capped[split] = table
        if split in limits and len(table) > limits[split]:
            stream = f"rows {split} {seed}"
            if task.builder == "multirc":
                keys = [forms.group_of(task, row, table.at(i)) for i, row in enumerate(table.rows)]
                chosen = _choose(keys, limits[split], stream)
                capped[split] = table.take(i for i, key in enumerate(keys) if key in chosen)
            else:
                classes = [task.of.stratum(task, row, table.at(i)) for i, row in enumerate(table.rows)]
                capped[split] = table.take(sorted(_stratified(classes, limits[split], stream)))
    return capped


def _cut(task: Task, table: Table, count: int, seed: int) -> tuple[Table, Table]:
    """About `count` rows (never more, but for a single larger group) and the rest."""
    keys = [task.split_key(row, table.at(i)) for i, row in enumerate(table.rows)]
    if len(set(keys)) < 2:
        raise TaskError(
            f"{table.where}: expected rows with at least two different texts to cut in two, found "
            f"{len(keys)} row(s) with {len(set(keys))}; give more rows or a test split of your own."
        )
    chosen = _choose(keys, count, f"split {seed}")
    first = [i for i, key in enumerate(keys) if key in chosen]
    second = [i for i, key in enumerate(keys) if key not in chosen]
    return table.take(first), table.take(second)


def _choose(keys: Sequence[Hashable], count: int, stream: str) -> set[Hashable]:
    """Whole groups of keys, in a seeded order, each that still fits `count` rows; the smallest one if none does."""
    sizes = Counter(keys)
    order = list(sizes)
    random.Random(f"s3pet {stream}").shuffle(order)  # a text seed: the same on every machine
    chosen: set[Hashable] = set()
    left = count
    for key in order:
        if sizes[key] <= left:
            chosen.add(key)
            left -= sizes[key]
    return chosen or {min(order, key=lambda key: sizes[key])}


def _stratified(classes: Sequence[Hashable], count: int, stream: str) -> list[int]:
    """`count` places in a seeded order; of each class its share, by largest remainders, and one if there is room."""
    sizes = Counter(classes)
    exact = {one: count * size / len(classes) for one, size in sizes.items()}
    room = {one: max(int(share), int(count >= len(sizes))) for one, share in exact.items()}
    while (left := count - sum(room.values())) != 0:
        step = 1 if left > 0 else -1
        open_to = [one for one in room if room[one] > 1 or step > 0]
        room[max(open_to, key=lambda one: (step * (exact[one] - room[one]), sizes[one]))] += step
    order = list(range(len(classes)))
    random.Random(f"s3pet {stream}").shuffle(order)
    chosen = []
    for i in order:
        if room[classes[i]] > 0:
            room[classes[i]] -= 1
            chosen.append(i)
    return chosen
