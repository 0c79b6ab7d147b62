"""Files that people have: what pandas and datasets write is read back as it was, and what is wrong is said by its place."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow.feather
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3pet_viz.errors import ConfigError, TaskError
from s3pet_viz.tasks import load_task
from s3pet_viz.tasks.files import read_rows
from s3pet_viz.tasks.rows import as_table
from s3pet_viz.tasks.splits import cap_rows

WORDS = ["plain", "a, b", 'he said "no"', "NA", "01", "null", " tab\tand\nline ", "éß 你好", "None", "1.5"]
ROWS = [{"review": f"{word} {i}", "stars": ("bad", "fair", "good")[i % 3]} for i, word in enumerate(WORDS * 9)]
COLUMNS = {"text": "review", "label": "stars"}
SPEC = {"name": "stars", "kind": "classification", "fields": ["text"], "metrics": ["accuracy"]}

WRITERS: dict[str, Any] = {
    "plain.csv": lambda frame, path: frame.to_csv(path, index=False),
    "index.csv": lambda frame, path: frame.to_csv(path),
    "european.csv": lambda frame, path: frame.to_csv(path, index=False, sep=";"),
    "bom.csv": lambda frame, path: frame.to_csv(path, index=False, encoding="utf-8-sig", lineterminator="\r\n"),
    "tabs.tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "records.json": lambda frame, path: frame.to_json(path, orient="records"),
    "columns.json": lambda frame, path: frame.to_json(path),
    "lists.json": lambda frame, path: path.write_text(json.dumps(frame.to_dict("list"))),
    "lines.jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "pandas.parquet": lambda frame, path: frame.to_parquet(path),
    "category.parquet": lambda frame, path: frame.astype({"stars": "category"}).to_parquet(path),
    "feather.feather": lambda frame, path: pyarrow.feather.write_feather(frame, path),
    "datasets.parquet": lambda frame, path: datasets.Dataset.from_pandas(frame).to_parquet(path),
    "datasets.json": lambda frame, path: datasets.Dataset.from_pandas(frame).to_json(path),
    "datasets.csv": lambda frame, path: datasets.Dataset.from_pandas(frame).to_csv(path),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _no_bars():
    datasets.disable_progress_bars()


def _read(table: Any) -> list[dict[str, Any]]:
    return [{name: row[name] for name in ("review", "stars")} for row in table.rows]


@pytest.mark.parametrize("name", list(WRITERS))
def test_what_is_written_is_read(name: str, tmp_path: Path) -> None:
    WRITERS[name](pd.DataFrame(ROWS), tmp_path / name)
    assert _read(read_rows(tmp_path / name)) == ROWS


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1), min_size=1, max_size=5))
def test_any_text_comes_back_from_csv_and_tsv(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    frame = pd.DataFrame({"review": texts, "stars": "good"})
    for ending, mark in ((".csv", ","), (".tsv", "\t")):
        frame.to_csv(folder / f"rows{ending}", index=False, sep=mark)
        assert [row["review"] for row in read_rows(folder / f"rows{ending}").rows] == texts


def test_glues_own_tsv_takes_a_quote_for_a_letter(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text('sentence\tlabel\n"a lone quote\t1\nplain\t0\nhe said "no" .\t1\n')
    found = read_rows(tmp_path / "train.tsv")
    assert [row["sentence"] for row in found.rows] == ['"a lone quote', "plain", 'he said "no" .']
    assert found.at(1).endswith("train.tsv, line 3")


@pytest.mark.parametrize("kind", ["dataset", "dict", "dict without validation", "parts"])
def test_save_to_disk(kind: str, tmp_path: Path) -> None:
    part = datasets.Dataset.from_list(ROWS).cast_column("stars", datasets.ClassLabel(names=["good", "bad", "fair"]))
    if kind == "dataset":
        part.save_to_disk(tmp_path / "reviews")
    elif kind == "parts":
        for name in ("train", "valid"):
            part.save_to_disk(tmp_path / "reviews" / name)
    else:
        splits = {"train": part, **({"validation": part.select(range(30))} if kind == "dict" else {})}
        datasets.DatasetDict(splits).save_to_disk(tmp_path / "reviews")
    with pytest.warns(UserWarning, match="the labels 'good, bad, fair'"):
        data = load_task(tmp_path / "reviews", columns=COLUMNS, form="text")
    assert data.task.label_names == ("good", "bad", "fair")
    assert {e.target for e in data.train} == {"good", "bad", "fair"}
    assert all(data.task.label_names[e.label] == e.target for e in data.train)
    by_text = {f"reviews text: {row['review']}": row["stars"] for row in ROWS}
    assert all(by_text[e.source] == e.target for e in data.train)


@pytest.mark.parametrize("layout", ["shards", "data folder", "aliases", "mixed endings"])
def test_folders_of_files(layout: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS).rename(columns={"review": "text", "stars": "label"})
    if layout == "shards":
        frame[:50].to_parquet(tmp_path / "train-00000-of-00002.parquet")
        frame[50:].to_parquet(tmp_path / "train-00001-of-00002.parquet")
        frame[:30].to_parquet(tmp_path / "validation-00000-of-00001.parquet")
    elif layout == "data folder":
        (tmp_path / "data").mkdir()
        (tmp_path / "README.md").write_text("a clone")
        frame.to_csv(tmp_path / "data" / "train.csv")
        frame[:30].to_csv(tmp_path / "data" / "validation.csv")
    elif layout == "aliases":
        frame.to_csv(tmp_path / "train.csv")
        frame[:30].to_csv(tmp_path / "dev.csv")
    else:
        frame.to_csv(tmp_path / "train.csv")
        frame[:30].to_json(tmp_path / "validation.json", orient="records")
    with pytest.warns(UserWarning, match="the labels 'bad, fair, good'"):
        data = load_task(tmp_path, form="text")
    assert (len(data.train), len(data.validation) + len(data.test)) == (90, 30)


@pytest.mark.parametrize(("name", "left"), [("holdout.csv", True), ("val.csv.gz", True), ("val-00000-of-00001.csv", False), ("extra.json", False), ("eval.csv", False)])  # fmt: skip
def test_files_of_a_folder_that_are_not_read_are_said(name: str, left: bool, tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS).rename(columns={"review": "text", "stars": "label"})
    for file in ("train.csv", name):
        frame.to_csv(tmp_path / file)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        load_task(tmp_path, form="text")
    words = f"{tmp_path}: not read: {name}; a split's file is called train, training, validation"
    assert any(words in str(one.message) for one in said) == left


def test_two_files_for_a_split_and_a_missing_shard(tmp_path: Path) -> None:
    for name in ("train.csv", "train.jsonl"):
        (tmp_path / name).write_text("text,label\n")
    with pytest.raises(TaskError, match=r"expected one file for the split train, found train\.csv, train\.jsonl"):
        load_task(tmp_path, form="text")
    for name in ("train.csv", "train.jsonl"):
        (tmp_path / name).unlink()
    (tmp_path / "train-00001-of-00002.csv").write_text("text,label\n")
    with pytest.raises(TaskError, match="expected 2 shards of the split train, found 1"):
        load_task(tmp_path, form="text")


def test_a_train_split_alone_gives_up_rows_by_the_seed(tmp_path: Path) -> None:
    pd.DataFrame(ROWS).to_csv(tmp_path / "reviews.csv", index=False)

    def load(**options: Any):
        with pytest.warns(UserWarning, match=r"classification of text, the labels 'bad, fair, good' \(read off"):
            return load_task(tmp_path / "reviews.csv", columns="text=review,label=stars", form="text", **options)

    one, again, other = load(), load(), load(seed=1)
    assert (len(one.train), len(one.validation), len(one.test)) == (72, 9, 9)
    assert one.deciding == "a part of the training split, seed 0"
    assert (one.validation, one.test) == (again.validation, again.test) != (other.validation, other.test)
    sources = [[e.source for e in part] for part in (one.train, one.validation, one.test)]
    assert len(set().union(*sources)) == 90
    assert load(split="holdout").validation == one.validation


def test_a_test_file_beside_it_is_the_test(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS).rename(columns={"review": "text", "stars": "label"})
    frame.to_csv(tmp_path / "train.csv")
    frame[:12].to_csv(tmp_path / "test.csv")
    with pytest.warns(UserWarning, match="read off"):
        data = load_task(tmp_path, form="text")
    assert (len(data.train), len(data.validation), len(data.test)) == (81, 9, 12)


def test_a_column_that_names_the_split(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS).assign(split=["train"] * 60 + ["dev"] * 20 + ["Test"] * 10)
    frame.to_csv(tmp_path / "all.csv")
    with pytest.warns(UserWarning, match="read off"):
        data = load_task(str(tmp_path / "all.csv"), columns=COLUMNS, form="text")
    assert (len(data.train), len(data.validation), len(data.test)) == (60, 20, 10)
    frame.assign(split=["train"] * 60 + ["held"] * 30).to_csv(tmp_path / "all.csv")
    with pytest.raises(TaskError, match=r"line \d+: expected one of train, .* in column 'split', .* found str 'held'"):
        load_task(str(tmp_path / "all.csv"), columns=COLUMNS, form="text")
    frame.assign(split="part 1").to_csv(tmp_path / "all.csv")
    with pytest.warns(UserWarning, match="read off"):  # another column of that name
        assert len(load_task(str(tmp_path / "all.csv"), columns=COLUMNS, form="text").train) == 72


LABELS: dict[str, tuple[list[Any], tuple[str, ...]]] = {
    "texts": (["no", "yes"], ("no", "yes")),
    "truth values": ([False, True], ("False", "True")),
    "stars": ([1, 2, 3, 4, 5], ("1", "2", "3", "4", "5")),
    "floats of pandas": ([2.0, 10.0], ("2", "10")),
    "negative": ([-1, 1], ("-1", "1")),
    "codes": (["01", "1"], ("01", "1")),
}


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize("kind", list(LABELS))
def test_labels_are_read_off_and_said(kind: str, ending: str, tmp_path: Path) -> None:
    values, names = LABELS[kind]
    frame = pd.DataFrame([{"text": f"row {i}", "label": values[i % len(values)]} for i in range(40)])
    WRITERS[{"csv": "plain.csv", "tsv": "tabs.tsv", "json": "records.json", "jsonl": "lines.jsonl"}.get(ending, "pandas.parquet")](
        frame, tmp_path / f"train.{ending}"
    )
    with pytest.warns(UserWarning, match=f"the labels {', '.join(names)!r}"):
        data = load_task(tmp_path / f"train.{ending}", form="pair")
    assert data.task.label_names == names
    wanted = {f"row {i}": names[i % len(values)] for i in range(40)}
    every = [*data.train, *data.validation, *data.test]
    assert {e.text_a: e.target for e in every} == wanted
    assert all(names[e.label] == e.target for e in every)


def test_numbers_are_a_regression(tmp_path: Path) -> None:
    pd.DataFrame({"text": [f"row {i}" for i in range(40)], "label": [i / 8 for i in range(40)]}).to_csv(tmp_path / "close.csv")
    with pytest.warns(UserWarning, match="regression of text, numbers from 0 to 4.875"):
        data = load_task(tmp_path / "close.csv", form="pair")
    assert data.task.kind == "regression"
    assert all(e.label == int(e.text_a.split()[1]) / 8 for e in data.train)


def test_given_labels_are_kept_and_csv_numbers_are_their_places(tmp_path: Path) -> None:
    pd.DataFrame({"text": [f"row {i}" for i in range(40)], "label": [i % 2 for i in range(40)]}).to_csv(tmp_path / "a.csv")
    data = load_task(tmp_path / "a.csv", task_spec={**SPEC, "label_names": ["bad", "good"]}, form="text")
    assert {(e.text_a, e.target) for e in data.train} <= {(f"row {i}", ("bad", "good")[i % 2]) for i in range(40)}


@pytest.mark.parametrize("form", ["frame", "dataset", "list", "mapping"])
def test_rows_in_memory_alone(form: str) -> None:
    frame = pd.DataFrame(ROWS)
    rows: Any = {"frame": frame, "dataset": datasets.Dataset.from_pandas(frame), "list": ROWS, "mapping": {"train": ROWS}}
    with pytest.warns(UserWarning, match="task rows: classification of text"):
        data = load_task(rows[form], columns=COLUMNS, form="text")
    assert (len(data.train), data.origin) == (72, "memory")


def test_columns_swap_names_and_hide_what_is_in_the_way() -> None:
    rows = [{"text": f"id {i}", "body": f"words {i}", "label": "x", "mood": ("up", "down")[i % 2]} for i in range(40)]
    with pytest.warns(UserWarning, match="read off"):
        data = load_task(rows, columns={"text": "body", "label": "mood"}, form="text")
    assert all(e.text_a.startswith("words") for e in data.train)
    swapped = [{"premise": f"b {i}", "hypothesis": f"a {i}", "label": i % 2} for i in range(40)]
    with pytest.warns(UserWarning, match="read off"):
        data = load_task(swapped, columns={"premise": "hypothesis", "hypothesis": "premise", "label": "label"}, form="pair")
    assert all((e.text_a[0], e.text_b[0]) == ("a", "b") for e in data.train)


LINES = b"".join(b'{"review": "words %d", "stars": "%s"}\n' % (i, (b"x", b"y")[i % 2]) for i in range(12))
GOOD = "review,stars\n" + "".join(f"words {i},{('bad', 'good')[i % 2]}\n" for i in range(8))


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.csv", b"", "expected at least one row, found none"),
        ("a.csv", b"review,stars\n", "expected at least one row, found none"),
        ("a.csv", GOOD.encode() + b"one,two,three\n", r"a\.csv, line 10: expected 2 values, .* review, stars; found 3"),
        ("a.csv", b"review,stars,review\n1,2,3\n", "line 1: expected each column once, found 'review' 2 times"),
        ("a.csv", GOOD.encode() + b"caf\xe9,bad\n", r"line 10: expected UTF-8 text, found byte 0xe9"),
        ("a.csv", GOOD.encode() + b'"open,bad\n', "line 10: expected csv rows, found: unexpected end of data"),
        ("a.csv", b"body,stars\na,b\n", r"expected a column 'review' \(columns\), found the columns: body, stars"),
        ("a.csv", GOOD.encode() + b"more,\n", r"text is its 'review'.*line 10: expected a label in column 'label'"),
        ("a.json", b"[1, 2]", "row 0: expected a mapping of column names, found int 1"),
        ("a.json", b'[{"review": "a"', "expected a list of JSON objects, found: Expecting"),
        ("a.json", b'{"review": "a", "stars": "b"}', "expected at least two labels"),
        ("a.jsonl", LINES + b'{"review": 3, "stars": "x"}\n' * 12, r"line \d+: expected text in column 'text', found int 3"),
        ("a.parquet", b"PAR1 and nothing more", r"a\.parquet: expected parquet data with columns, found"),
        ("a.arrow", b"no arrow", r"a\.arrow: expected arrow data with columns, found"),
        ("a.csv", b"review,stars\n" + b"".join(b"w %d,l %d\n" % (i, i) for i in range(30)), "each more than once, found 30 in 30 rows"),
    ],
)  # fmt: skip
def test_wrong_files_give_one_clear_error(name: str, raw: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(raw)
    with warnings.catch_warnings(), pytest.raises(TaskError, match=message):
        warnings.simplefilter("ignore", UserWarning)  # labels may be read before a row is found wrong
        load_task(tmp_path / name, columns=COLUMNS, form="text")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "columns: expected the task's fields"),
        ("text", "columns: expected the task's fields"),
        ({"text": 3}, "columns: expected the task's fields"),
        ({"text": "review", "label": "review"}, "columns: expected the task's fields"),
        ({"label": "stars"}, "expected a text field beside the label, found none"),
        ({"a": "review", "b": "x", "c": "y", "label": "stars"}, "expected a column 'x'"),
    ],
)
def test_wrong_columns(columns: Any, message: str) -> None:
    with pytest.raises((ConfigError, TaskError), match=message):
        load_task(ROWS, columns=columns, form="text")
    with pytest.raises((ConfigError, TaskError), match="columns"):
        load_task(ROWS, columns={"words": "review"}, task_spec={**SPEC, "label_names": ["a", "b"]}, form="text")


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=5), limit=st.integers(1, 60), seed=st.integers(0, 5)
)
def test_max_rows_keeps_the_shares_of_the_classes(counts: list[int], limit: int, seed: int) -> None:
    from s3pet_viz.tasks import task_from_dict

    task = task_from_dict({**SPEC, "label_names": [f"c{i}" for i in range(len(counts))]})
    rows = [{"text": f"{k} {i}", "label": k} for k, n in enumerate(counts) for i in range(n)]
    kept = cap_rows(task, {"train": as_table(rows)}, limit, seed)["train"].rows
    assert len(kept) == min(limit, len(rows))
    assert [rows.index(row) for row in kept] == sorted(rows.index(row) for row in kept)
    found = [sum(row["label"] == k for row in kept) for k in range(len(counts))]
    if limit >= len(counts):
        assert min(found) >= 1
        rare = sum(1 for n in counts if n * len(kept) / len(rows) < 1)
        assert all(abs(f - n * len(kept) / len(rows)) <= 1 + rare for f, n in zip(found, counts, strict=True))


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_what_pandas_has_for_a_missing_value_is_none(missing: Any) -> None:
    frame = pd.DataFrame(ROWS).rename(columns={"review": "text", "stars": "label"})
    for column in ("text", "label"):
        other = frame.astype(object)
        other.loc[4, column] = missing
        with pytest.warns(UserWarning, match="'bad, fair, good'"), pytest.raises(TaskError, match="memory, row 4: .*found null"):
            load_task(other, form="text")


def test_labels_that_are_none_for_one_class_alone() -> None:
    rows = [{"text": f"t {i}", "label": ["a", "b"][: 1 + i % 2]} for i in range(8)]
    with pytest.raises(TaskError, match=r"memory, row 0: .*found \['a'\]; several labels a row are a task of kind multi_label"):
        load_task(rows, form="text")
    with pytest.raises(TaskError, match=r"found only the columns 0, 1, .*, 19 and 1 more"):
        load_task(pd.DataFrame([range(21)]), form="text")


def test_a_hidden_test_split_is_left_out_where_labels_are_read_off_the_rows() -> None:
    rows = [{"text": f"t {i}", "label": i % 2} for i in range(16)]
    with pytest.warns(UserWarning, match="the labels '0, 1'"):
        data = load_task({"train": rows, "validation": rows[:4], "test": [{**row, "label": -1} for row in rows]}, form="text")
    assert (len(data.validation), len(data.test)) == (2, 2)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_of_another_ending(kind: Any, tmp_path: Path) -> None:
    pd.DataFrame(ROWS).to_csv(tmp_path / "rows.csv.gz")
    with pytest.raises(TaskError, match=r"rows\.csv\.gz: expected a file that ends in .*, found one that ends in \.gz; unpack it first"):
        load_task(kind(tmp_path / "rows.csv.gz"), form="text")
