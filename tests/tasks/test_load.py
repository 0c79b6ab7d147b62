"""Where a task comes from: hub names, folders, embedded tasks, memory."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s3pet_viz import resources
from s3pet_viz.errors import ConfigError, MissingExtraError, TaskError
from s3pet_viz.tasks import TASKS, compute_metrics, load_task

from .conftest import Writer
from .rows_by_task import rows_of

datasets = pytest.importorskip("datasets", reason="the extra [hub] is not installed")
REPOSITORY = Path(__file__).resolve().parents[2]


def dataset_dict(name: str, **parts: int) -> Any:
    return datasets.DatasetDict(
        {key: datasets.Dataset.from_list(rows_of(name, n)) for key, n in parts.items()}
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub that answers every name with invented rows, and the calls it got."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        calls.append((path, name, options))
        key = "super_glue/rte" if (path, name) == ("aps/super_glue", "rte") else name or "cola"
        validation = "validation_matched" if name == "mnli" else "validation"
        return dataset_dict(key, train=12, **{validation: 8})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


# ---- the hub


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(
            (f"glue/{t}", ("nyu-mll/glue", t))
            for t in ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"]
        ),
        *(
            (f"super_glue/{t}", ("aps/super_glue", t))
            for t in ["boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"]
        ),
    ],
)
def test_hub_names(hub: list[Any], name: str, expected: tuple[str, str]) -> None:
    data = load_task(name, form="text")
    assert hub == [(*expected, {"revision": None})]
    assert data.task == TASKS.get(name, TASKS[expected[1]])
    assert data.origin == f"{expected[0]} ({expected[1]}) @ main"


def test_hub_revision(hub: list[Any]) -> None:
    data = load_task("super_glue/cb", form="pair", revision="abc123")
    assert hub == [("aps/super_glue", "cb", {"revision": "abc123"})]
    assert data.origin == "aps/super_glue (cb) @ abc123"


def test_any_hub_dataset_with_a_task_spec(hub: list[Any]) -> None:
    spec = {"name": "mine", "kind": "classification", "fields": ["sentence"], "metrics": ["accuracy"]}
    data = load_task("someone/something", form="text", task_spec={**spec, "label_names": ["bad", "good"]})
    assert hub == [("someone/something", None, {"revision": None})]
    assert data.train[1].source.startswith("mine sentence: ")


def test_hub_failure_names_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        TaskError, match=r"nyu-mll/glue \(rte\) @ main.*ConnectionError: no route.*train.jsonl"
    ):
        load_task("glue/rte", form="text")


def test_hub_without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r'pip install "s3pet_viz\[hub\]"'):
        load_task("glue/rte", form="text")


def test_known_name_with_another_meaning() -> None:
    with pytest.raises(ConfigError, match="expected no other name or task_spec, found 'cb'"):
        load_task("glue/rte", form="text", name="cb")
    with pytest.raises(ConfigError, match="expected no other name or task_spec, found 'rte'"):
        load_task("glue/rte", form="text", task_spec=dataclasses.replace(TASKS["rte"], label="other"))


@pytest.mark.parametrize("name", ["rte", "nothing", "glue/nothing", "", "../rte", "a\0b", "no/such/folder"])
def test_unknown_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match="one of glue/cola, glue/sst2") as caught:
        load_task(name, form="text")
    assert ("Did you mean glue/rte or super_glue/rte?" in str(caught.value)) == (name == "rte")


# ---- folders


def test_folder_named_like_a_task(
    write_task: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = write_task("cb", train=rows_of("cb", 8), validation=rows_of("cb", 6))
    by_path, by_text = load_task(folder, form="text"), load_task(str(folder), form="text")
    assert by_path == by_text
    assert by_path.task is TASKS["cb"]
    assert by_path.origin == str(folder)
    monkeypatch.chdir(tmp_path)
    assert load_task("cb", form="text").train == by_path.train  # a folder that exists wins over a name


def test_both_kinds_of_rte_folder(write_task: Writer) -> None:
    for name, folder in (("rte", "a/rte"), ("super_glue/rte", "b/rte")):
        place = write_task(folder, train=rows_of(name, 4), validation=rows_of(name, 4))
        assert load_task(place, form="text").task is TASKS[name]


def test_mnli_folder_with_the_matched_file(write_task: Writer) -> None:
    folder = write_task("mnli", train=rows_of("mnli", 8), validation_matched=rows_of("mnli", 6))
    assert len(load_task(folder, form="text").test) == 6


def test_own_test_file_is_kept(write_task: Writer) -> None:
    folder = write_task(
        "cola", train=rows_of("cola", 20), validation=rows_of("cola", 6), test=rows_of("cola", 5)
    )
    data = load_task(folder, form="text")
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 6, 5)
    data = load_task(folder, form="text", split="holdout")
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 6)


def test_published_test_split_without_labels_is_left_out() -> None:
    hidden = [{**row, "label": -1} for row in rows_of("cola", 5)]
    rows = {"train": rows_of("cola", 8), "validation": rows_of("cola", 6), "test": hidden}
    assert len(load_task(rows, name="cola", form="text").test) == 3
    no_answers = [{**row, "answers": []} for row in rows_of("record", 5)]
    rows = {"train": rows_of("record", 8), "validation": rows_of("record", 6), "test": no_answers}
    assert len(load_task(rows, name="record", form="text").test) == 6


def test_name_and_task_spec_win_over_the_folder(write_task: Writer) -> None:
    folder = write_task("rte", train=rows_of("cola", 8), validation=rows_of("cola", 6))
    assert load_task(folder, form="text", name="glue/cola").task is TASKS["cola"]
    assert load_task(folder, form="text", task_spec=TASKS["cola"]).task is TASKS["cola"]
    with pytest.raises(TaskError, match="name: expected one of"):
        load_task(folder, form="text", name="kite")


def test_revision_belongs_to_the_hub(write_task: Writer) -> None:
    folder = write_task("cola", train=rows_of("cola", 8), validation=rows_of("cola", 6))
    with pytest.raises(ConfigError, match="revision: expected only with a hub name"):
        load_task(folder, form="text", revision="main")


# ---- memory


def test_memory_of_every_kind() -> None:
    import pandas as pd

    parts = {"train": 9, "validation": 8}
    rows = {key: rows_of("record", n) for key, n in parts.items()}
    expected = load_task(rows, name="record", form="pair")
    assert load_task(dataset_dict("record", **parts), name="record", form="pair") == expected
    frames = {key: pd.DataFrame(part) for key, part in rows.items()}
    assert load_task(frames, name="record", form="pair") == expected
    assert expected.origin == "memory"


def test_dataframe_with_numpy_labels() -> None:
    import pandas as pd

    frame = pd.DataFrame(rows_of("stsb", 8))
    data = load_task({"train": frame, "validation": frame}, name="stsb", form="pair")
    assert all(type(example.label) is float for example in data.train)


def test_class_labels_numbered_otherwise() -> None:
    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["acceptable", "unacceptable"]),
        }
    )
    part = datasets.Dataset.from_list(rows_of("cola", 8), features=features)
    with pytest.raises(TaskError, match="numbered unacceptable, acceptable, found acceptable, unacceptable"):
        load_task({"train": part, "validation": part}, name="cola", form="text")


@pytest.mark.parametrize("task", [{"valid": [], "more": []}, {}])
def test_memory_without_its_splits(task: Any) -> None:
    with pytest.raises(TaskError, match="expected the split train for cola, found: (valid, more|none)"):
        load_task(task, name="cola", form="text")


def test_memory_that_is_no_table() -> None:
    rows = rows_of("cola", 4)
    other = [{"words": row["sentence"], "label": row["label"]} for row in rows]
    with pytest.raises(TaskError, match=r"told what the rows mean: .*or name; found only the columns words, label"):
        load_task({"train": other, "validation": other}, form="text")
    with pytest.raises(TaskError, match=r"memory, train: expected a datasets.Dataset, .* found str"):
        load_task({"train": "rows", "validation": rows}, name="cola", form="text")
    with pytest.raises(TaskError, match=r"memory, train, row 1: expected a mapping"):
        load_task({"train": [rows[0], "x"], "validation": rows}, name="cola", form="text")
    with pytest.raises(TaskError, match="expected a name, a file, a folder, rows or a mapping of splits, found int 3"):
        load_task(3, form="text")  # type: ignore[arg-type]


# ---- what is shipped, and what lies next to the repository


@pytest.mark.parametrize("form", ["text", "pair"])
@pytest.mark.parametrize("name", ["sentiment", "acceptability", "paraphrase", "entailment", "similarity"])
def test_embedded_tasks(name: str, form: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resources.find_resource("tasks", name)
    if folder is None or not (folder / "task.json").is_file():
        pytest.skip(f"data/tasks/{name} has not been generated")
    monkeypatch.chdir(tmp_path)
    data = load_task(name, form=form)
    assert (data.task.name, data.origin) == (name, str(folder))
    assert compute_metrics(data.task, data.test, [e.target for e in data.test])["score"] > 0.98


@pytest.mark.parametrize("name", ["", ".", "..", "../tasks", "a/b", "a\\b", "C:x", "no-such-task"])
def test_no_such_resource(name: str) -> None:
    assert resources.find_resource("tasks", name) is None


def test_resource_in_the_wheel_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel, checkout = tmp_path / "_data", tmp_path / "data"
    (wheel / "tasks" / "sentiment").mkdir(parents=True)
    (checkout / "tasks" / "sentiment").mkdir(parents=True)
    (checkout / "tasks" / "other").mkdir()
    monkeypatch.setattr(resources, "_ROOTS", (wheel, checkout))
    assert resources.find_resource("tasks", "sentiment") == wheel / "tasks" / "sentiment"
    assert resources.find_resource("tasks", "other") == checkout / "tasks" / "other"
    assert resources.list_resources("tasks") == ["other", "sentiment"]


@pytest.mark.parametrize("name", ["boolq", "cola", "copa", "mrpc", "qnli", "rte", "sst2", "stsb"])
def test_real_datasets(name: str) -> None:
    folder = Path(os.environ.get("S3PET_DATASETS", REPOSITORY.parent / "shared" / "datasets")) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: set S3PET_DATASETS to a folder of GLUE / SuperGLUE tasks")
    for form in ("text", "pair"):
        data = load_task(folder, form=form, max_rows=300)  # type: ignore[arg-type]
        assert data.task.name == name
        predictions = [
            e.label if form == "pair" or data.task.kind == "regression" else e.target for e in data.test
        ]
        assert compute_metrics(data.task, data.test, predictions)["score"] == pytest.approx(1.0)


def test_importing_the_tasks_is_cheap() -> None:
    heavy = "torch transformers datasets sklearn pandas scipy.stats plotly"
    code = f"import sys, s3pet_viz.tasks; print([m for m in '{heavy}'.split() if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert result.stdout.strip() == "[]"
