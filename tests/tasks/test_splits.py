"""Splits: no overlap, the same every time, the published sizes, groups whole."""

from __future__ import annotations

from typing import Any

import pytest

from s3pet_viz.errors import ConfigError, TaskError
from s3pet_viz.tasks import TASKS, TaskData, load_task

from .rows_by_task import rows_of


def load(name: str, train: int, validation: int, **options: Any) -> TaskData:
    rows = rows_of(name, train + validation)
    options.setdefault("form", "text")
    return load_task({"train": rows[:train], "validation": rows[train:]}, name=name, **options)


def sources(data: TaskData) -> list[set[str]]:
    return [{example.source for example in part} for part in (data.train, data.validation, data.test)]


@pytest.mark.parametrize("rule", ["paper", "holdout"])
@pytest.mark.parametrize("name", sorted(TASKS))
def test_no_overlap_and_the_same_again(name: str, rule: Any) -> None:
    for form in ("text", "pair"):
        data = load(name, 40, 12, split=rule, form=form)
        train, validation, test = sources(data)
        assert train
        assert validation
        assert test
        assert train.isdisjoint(validation | test)
        assert validation.isdisjoint(test)
        assert data == load(name, 40, 12, split=rule, form=form)


def test_another_seed_cuts_elsewhere() -> None:
    assert sources(load("cola", 8, 40, seed=0))[1] != sources(load("cola", 8, 40, seed=1))[1]


def test_small_tasks_cut_the_validation_file_in_half() -> None:
    data = load("rte", 20, 11)
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 5, 6)


@pytest.mark.parametrize(("train", "given_up"), [(40, 10), (8000, 2000), (9000, 2000)])
def test_large_tasks_give_up_training_rows(train: int, given_up: int) -> None:
    data = load("sst2", train, 6)
    assert (len(data.train), len(data.validation), len(data.test)) == (train - given_up, given_up, 6)


def test_holdout() -> None:
    data = load("rte", 40, 6, split="holdout")
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 6)


def test_splits_keep_the_order_of_the_rows() -> None:
    rows = rows_of("cola", 60)
    data = load_task({"train": rows[:20], "validation": rows[20:]}, name="cola", form="text")
    order = [row["sentence"] for row in rows]
    places = [order.index(example.text_a) for example in data.validation]
    assert places == sorted(places)


def test_rows_with_the_same_texts_stay_together() -> None:
    rows = [{**row, "label": index % 2} for index, row in enumerate(rows_of("cola", 10) * 4)]
    data = load_task({"train": rows_of("cola", 4), "validation": rows}, name="cola", form="text")
    assert len(data.validation) == len(data.test) == 20
    assert not sources(data)[1] & sources(data)[2]


@pytest.mark.parametrize("form", ["text", "pair"])
def test_multirc_and_record_keep_a_passage_whole(form: Any) -> None:
    multirc = [
        {"paragraph": f"Text {p}.", "question": f"Q{q}?", "answer": f"A{a}", "label": a % 2}
        for p in range(6)
        for q in range(2)
        for a in range(3)
    ]
    data = load_task({"train": multirc, "validation": multirc}, name="multirc", form=form)
    assert not {e.text_a for e in data.validation} & {e.text_a for e in data.test}
    assert len(data.validation) == len(data.test) == 18
    record = [
        {"passage": f"Text {p}.", "query": f"{q} @placeholder", "entities": ["Ada", "Bo"], "answers": ["Bo"]}
        for p in range(8)
        for q in range(3)
    ]
    data = load_task({"train": record, "validation": record}, name="record", form=form)
    assert not {e.text_a for e in data.train} & {e.text_a for e in data.validation}
    assert len({e.text_a for e in data.validation}) == 2
    assert len({e.text_a for e in data.test}) == 8


def test_max_rows() -> None:
    data = load("cola", 40, 40, max_rows=7)
    assert (len(data.train), len(data.validation), len(data.test)) == (7, 7, 7)
    data = load("cola", 40, 40, max_rows={"test": 3})
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 20, 3)
    assert data == load("cola", 40, 40, max_rows={"test": 3})
    assert len(load("copa", 40, 40, max_rows=5, form="pair").test) == 10


def test_max_rows_keeps_a_question_whole() -> None:
    rows = [
        {"paragraph": f"Text {p}.", "question": "Q?", "answer": f"A{a}", "label": a % 2}
        for p in range(6)
        for a in range(4)
    ]
    data = load_task({"train": rows, "validation": rows}, name="multirc", form="text", max_rows=9)
    assert len(data.train) == 8
    data = load_task({"train": rows, "validation": rows}, name="multirc", form="text", max_rows=1)
    assert len(data.train) == 4  # the smallest whole question


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, {"dev": 3}, {"train": 0}])
def test_max_rows_that_are_no_limit(limit: Any) -> None:
    with pytest.raises(ConfigError, match="max_rows: expected a whole number from 1"):
        load("cola", 8, 8, max_rows=limit)


def test_unknown_rule_and_form() -> None:
    with pytest.raises(ConfigError, match="split: expected 'paper' or 'holdout', found 'half'"):
        load("cola", 8, 8, split="half")
    with pytest.raises(ConfigError, match="form: expected 'text' or 'pair'"):
        load("cola", 8, 8, form="audio")


def test_too_few_rows_to_cut() -> None:
    with pytest.raises(TaskError, match=r"memory, validation: .* found 1 row\(s\)"):
        load("cola", 8, 1)


def test_a_limit_that_leaves_one_class() -> None:
    with pytest.raises(TaskError, match=r"at least two classes in 1 row\(s\), found only"):
        load("cola", 8, 8, max_rows={"train": 1})
