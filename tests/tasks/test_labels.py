"""A label means one thing: numbers against names, and a ClassLabel's names against the task's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from s3pet_viz.errors import TaskError
from s3pet_viz.tasks import load_task

FIVE = [str(i) for i in range(1, 6)]
STARS = ["1 star", *(f"{i} stars" for i in range(2, 6))]


def spec(names: list[str]) -> dict[str, Any]:
    return {"name": "q", "kind": "classification", "fields": ["text"], "label_names": names, "metrics": ["accuracy"]}


def rows(labels: list[Any], n: int = 12) -> list[dict[str, Any]]:
    return [{"text": f"row {i}", "label": labels[i % len(labels)]} for i in range(n)]


def load(labels: list[Any], names: list[str], held: list[Any] | None = None) -> Any:
    return load_task({"train": rows(labels), "validation": rows(held or labels)}, form="pair", task_spec=spec(names))


@pytest.mark.parametrize(
    ("labels", "names", "by_place", "by_name"),
    [
        ([1, 2, 3, 4], FIVE, "'2'", "'1'"),
        ([0, 1, 2, 3, 4], FIVE, "'1'", "none"),
        ([5, 4], FIVE, "none", "'5'"),
        ([1.0, 2.0], FIVE, "'2'", "'1'"),
        ([0, 1], ["1", "0"], "'1'", "'0'"),
        ([0, 1], ["-1", "0", "1"], "'-1'", "'0'"),
        ([1, 0], ["True", "False"], "'False'", "'True'"),
        ([1, 2], ["1.0", "2.0", "3.0"], "'2.0'", "'1.0'"),
        ([1, 2, 3], STARS, "'2 stars'", "'1 star'"),
        ([1, 2], ["grade 1", "grade 2", "grade 3"], "'grade 2'", "'grade 1'"),
        (["2", 1], FIVE, "'2'", "'1'"),
    ],
)
def test_numbers_that_may_mean_two_labels(labels, names, by_place, by_name):
    says = rf"memory, train, row \d: .* is {by_place} by place \(from 0\) and {by_name} by name; give the names as texts"
    with pytest.raises(TaskError, match=says):
        load(labels, names)


@pytest.mark.parametrize(
    ("labels", "names", "first"),
    [
        (["1", "2"], FIVE, 0),
        (["5", "4"], FIVE, 4),
        ([1, 0], ["0", "1"], 1),
        ([1, 0], ["no", "yes"], 1),
        ([1, 0], ["class 0", "class 1"], 1),
        ([1, 0], ["False", "True"], 1),
        ([0, 1], ["choice1", "choice2"], 0),  # no name has a 0: they are places
        ([0, 4, 2], STARS, 0),
        ([1, 0], ["covid 19", "flu"], 1),
    ],
)
def test_numbers_that_mean_one(labels, names, first):
    assert load(labels, names).train[0].label == first


def test_a_split_alone_does_not_decide():
    """Its rows may lack the number that only a place can be."""
    assert load([0, 1], ["choice1", "choice2"], held=[1]).validation[0].label == 1
    with pytest.raises(TaskError, match="means one thing"):
        load(["1 star", "2 stars"], STARS, held=[1])


def test_a_folder_names_file_and_line(tmp_path):
    (tmp_path / "task.json").write_text(json.dumps(spec(FIVE)))
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows([1, 2])))
    with pytest.raises(TaskError, match=r"train\.jsonl, line 1: expected a label that means one thing"):
        load_task(tmp_path, form="text")


def test_a_data_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows([1, 2, 3]))
    with pytest.raises(TaskError, match="means one thing"):
        load_task({"train": frame, "validation": frame}, form="pair", task_spec=spec(FIVE))
    frame["label"] = frame["label"].astype(str).astype("category")
    assert load_task({"train": frame, "validation": frame}, form="pair", task_spec=spec(FIVE)).train[0].label == 0


@pytest.mark.parametrize(
    "found",
    [
        ["Positive", "Negative"], ["positive", "negative"], ["Negative", "Positive"], ["negative", "neutral", "positive"],
        ["negative"], ["bad", "good"], ["negative ", "positive"],
    ],
)  # fmt: skip
def test_a_class_label_that_names_them_otherwise(found):
    with pytest.raises(TaskError, match="expected the labels numbered negative, positive, found .* in column 'label'"):
        load_task(class_labels(found), form="pair", task_spec=spec(["negative", "positive"]))


@pytest.mark.parametrize("names", [["negative", "positive"], ["1", "2"], ["1 star", "2 stars"]])
def test_a_class_label_with_the_same_names(names):
    """Its numbers are places in its own list, whatever the names are."""
    data = load_task(class_labels(names), form="text", task_spec=spec(names))
    assert [e.target for e in data.train[:2]] == names


def class_labels(names: list[str]) -> dict[str, Any]:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    part = datasets.Dataset.from_list(rows(list(range(len(names)))), features=features)
    return {"train": part, "validation": part}
