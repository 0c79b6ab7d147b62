"""A user's own folder: task.json and JSON lines, and every way in which they can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from s3pet_viz.errors import TaskError
from s3pet_viz.tasks import load_task, task_from_dict

from .conftest import Writer

SENTIMENT: dict[str, Any] = {
    "name": "sentiment",
    "kind": "classification",
    "fields": ["text"],
    "label_names": ["negative", "positive"],
    "metrics": ["accuracy"],
}
SIMILARITY: dict[str, Any] = {
    "name": "similarity",
    "kind": "regression",
    "fields": ["one", "two"],
    "label": "score",
    "label_range": [0, 5],
    "label_step": 0.5,
    "metrics": ["pearson", "spearman"],
    "prefix": "how close",
    "max_source_length": 64,
}
ROWS = [{"text": f"kite {i}", "label": i % 2} for i in range(8)]


def test_own_classification(write_task: Writer) -> None:
    rows = [{"text": "a kite", "label": "positive"}, {"text": "a stone", "label": 0}, *ROWS]
    data = load_task(write_task("mine", SENTIMENT, train=rows, validation=ROWS), form="text")
    first = data.train[0]
    assert (first.source, first.target, first.label) == ("sentiment text: a kite", "positive", 1)
    assert (first.text_a, first.text_b, data.task.num_labels) == ("a kite", None, 2)
    assert (len(data.validation), len(data.test)) == (4, 4)


def test_own_regression(write_task: Writer) -> None:
    rows = [{"one": f"kite {i}", "two": "bird", "score": i / 4} for i in range(20)]
    data = load_task(write_task("mine", SIMILARITY, train=rows, validation=rows), form="pair")
    example = data.train[5]  # 1.25 lies half way, and rounds to the even multiple
    assert (example.source, example.target) == ("how close one: kite 5 two: bird", "1.0")
    assert (example.text_a, example.text_b, example.label) == ("kite 5", "bird", 1.25)
    assert (data.task.num_labels, data.task.max_source_length, data.task.unparsed_value) == (1, 64, -1.0)


def test_fine_steps_keep_their_decimals() -> None:
    task = task_from_dict({**SIMILARITY, "label_range": [-1, 1], "label_step": 0.05})
    assert task.target_of(-0.33) == "-0.35"
    assert task.target_of(1.0) == "1.00"
    assert task.parse_prediction("-0.35") == -0.35


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, r"field 'name': expected one line of text"),
        ({"name": "a/b"}, r"field 'name': .*no path"),
        ({"name": "..\\up"}, r"field 'name'"),
        ({"name": "a..b"}, r"field 'name'"),
        ({"name": "two\nlines"}, r"field 'name'"),
        (
            {"kind": "ranking"},
            r"field 'kind': expected one of classification, regression, generation, .*; found str 'ranking'",
        ),
        ({"kind": ["classification"]}, r"field 'kind'"),
        ({"fields": []}, r"field 'fields': expected a list of at least 1"),
        ({"fields": "text"}, r"field 'fields'"),
        ({"fields": ["a", "a"]}, r"field 'fields': expected no text twice"),
        ({"fields": [1]}, r"field 'fields': expected one line of text"),
        ({"label": "text"}, r"field 'label': expected a column that is not among the fields"),
        ({"label": 3}, r"field 'label'"),
        ({"label_names": ["only"]}, r"field 'label_names': expected a list of at least 2"),
        ({"label_names": ["a", "a"]}, r"field 'label_names': expected no text twice"),
        ({"label_names": ["a", " b"]}, r"field 'label_names': expected names without white space"),
        ({"label_names": ["a", "b", "c"], "metrics": ["f1"]}, r"field 'metrics': expected macro_f1, not f1"),
        ({"metrics": []}, r"field 'metrics'"),
        ({"metrics": ["bleu"]}, r"field 'metrics': expected some of accuracy, f1, .* found str 'bleu'"),
        ({"metrics": ["pearson"]}, r"field 'metrics'"),
        ({"prefix": ""}, r"field 'prefix'"),
        ({"max_source_length": 0}, r"field 'max_source_length'"),
        ({"max_source_length": "64"}, r"field 'max_source_length'"),
        ({"metric": ["f1"]}, r"field 'metric': unknown for classification"),
        ({"label_range": [0, 1]}, r"field 'label_range': unknown for classification"),
    ],
)
def test_wrong_task_json(write_task: Writer, change: dict[str, Any], message: str) -> None:
    folder = write_task("mine", {**SENTIMENT, **change}, train=ROWS, validation=ROWS)
    with pytest.raises(TaskError, match=rf"task\.json.*{message}"):
        load_task(folder, form="text")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_range": [5, 0]}, "'label_range': expected .low, high."),
        ({"label_range": [0]}, "'label_range'"),
        ({"label_range": [0, float("inf")]}, "'label_range'"),
        ({"label_range": [0, True]}, "'label_range'"),
        ({"label_step": 0}, "'label_step': expected a number from 1e-6 to 5"),
        ({"label_step": 6}, "'label_step'"),
        ({"label_names": ["a", "b"]}, "'label_names': unknown for regression"),
        ({"metrics": ["accuracy"]}, "'metrics'"),
    ],
)
def test_wrong_regression(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task_from_dict({**SIMILARITY, **change})


@pytest.mark.parametrize("key", ["name", "kind", "fields", "metrics"])
def test_missing_field(key: str) -> None:
    spec = {name: value for name, value in SENTIMENT.items() if name != key}
    with pytest.raises(TaskError, match=f"expected the field '{key}'"):
        task_from_dict(spec)


@pytest.mark.parametrize("raw", [b"[]", b"{", b"\xff\xfe{}", b'{"name": "a", "name": "b"}', b"[" * 100_000])
def test_task_json_that_is_no_object(write_task: Writer, raw: bytes) -> None:
    folder = write_task("mine", train=ROWS, validation=ROWS)
    (folder / "task.json").write_bytes(raw)
    with pytest.raises(TaskError, match=r"task\.json: expected"):
        load_task(folder, form="text")


def line(**row: Any) -> bytes:
    return json.dumps(row).encode() + b"\n"


GOOD = b"".join(line(**row) for row in ROWS)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", r"expected at least one row, found none"),
        (b"\n \n", r"expected at least one row, found none"),
        (GOOD + b"{not json}\n", r", line 9: expected one JSON object, found: Expecting"),
        (b"\n" + GOOD + b'{"text": "a"', r", line 10: expected one JSON object"),
        (GOOD + b"[1]\n", r", line 9: expected one JSON object, found list"),
        (GOOD + b'"text"\n', r", line 9: expected one JSON object, found str"),
        (GOOD + b"[" * 100_000 + b"\n", r", line 9: expected one JSON object"),
        (GOOD + b'{"text": "a", "text": "b", "label": 1}\n', r", line 9: .*the key 'text' twice"),
        (GOOD + b'{"text": "\xe9", "label": 1}\n', r", line 9: expected UTF-8 text, found byte 0xe9"),
        (GOOD + b'{"text": "a", "label": NaN}\n', r", line 9: .*NaN, which is not finite"),
        (GOOD + line(text="a"), r", line 9: expected a column 'label', found the columns: text"),
        (GOOD + line(label=1), r", line 9: expected a column 'text'"),
        (GOOD + line(text=7, label=1), r", line 9: expected text in column 'text', found int 7"),
        (GOOD + line(text=None, label=1), r", line 9: expected text in column 'text', found null"),
        (GOOD + line(text=["a"], label=1), r", line 9: expected text in column 'text', found list"),
        (
            GOOD + line(text="a", label=2),
            r", line 9: expected a label .* from 0 to 1 or one of negative, positive",
        ),
        (GOOD + line(text="a", label=-1), r", line 9: .*-1 marks a hidden label"),
        (GOOD + line(text="a", label="good"), r", line 9: expected a label .* found str 'good'"),
        (GOOD + b'{"text": "a\\ud800", "label": 1}\n', r", line 9: expected text in column 'text'"),
        (GOOD + b'{"text": "a", "label": 1e999}\n', r", line 9: expected a label"),
        (line(text="a", label=1) * 3, r"expected at least two classes in 3 row\(s\), found only 'positive'"),
    ],
)
def test_wrong_rows(write_task: Writer, raw: bytes, message: str) -> None:
    folder = write_task("mine", SENTIMENT, train=raw, validation=ROWS)
    with pytest.raises(TaskError, match=rf"train\.jsonl.*{message}"):
        load_task(folder, form="text")


def test_wrong_rows_elsewhere_are_named_too(write_task: Writer) -> None:
    folder = write_task("mine", SENTIMENT, train=ROWS, validation=GOOD + line(text="x", label=9))
    with pytest.raises(TaskError, match=r"validation\.jsonl, line 9: expected a label"):
        load_task(folder, form="text")
    folder = write_task("mine", SENTIMENT, train=ROWS, validation=ROWS, test=b"")
    with pytest.raises(TaskError, match=r"test\.jsonl: expected at least one row"):
        load_task(folder, form="text")


def test_byte_order_mark_and_line_separators(write_task: Writer) -> None:
    rows = b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n") + '{"text": "a\u2028b", "label": 1}'.encode()
    data = load_task(write_task("mine", SENTIMENT, train=rows, validation=ROWS), form="text")
    assert data.train[-1].text_a == "a\u2028b"


def test_missing_folder_files_and_meaning(write_task: Writer, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="nowhere: expected a task folder"):
        load_task(tmp_path / "nowhere", form="text")
    with pytest.raises(TaskError, match=r"expected the file train\.jsonl \(or .*\), found: task\.json"):
        load_task(write_task("empty", SENTIMENT), form="text")
    other = [{"words": row["text"], "label": row["label"]} for row in ROWS]
    with pytest.raises(TaskError, match=r"told what the rows mean: .*a task\.json .*only the columns words, label"):
        load_task(write_task("mine", train=other, validation=other), form="text")
