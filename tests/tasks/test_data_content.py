"""What may stand in the rows of a task: encodings, empty and very long texts, labels, numbers that are none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from problems import MOOD, STRENGTH, mood_data, mood_rows, tiny_model, tokenizer_of

import s3pet_viz as s3
from s3pet_viz.backbones import positions, wrap_backbone
from s3pet_viz.errors import NonFiniteLossError, TaskError
from s3pet_viz.pet import Space, SpaceEntry, candidate_gates
from s3pet_viz.structure import Structure
from s3pet_viz.tasks import load_task
from s3pet_viz.training.batches import Features
from s3pet_viz.tuning.workbench import Workbench

Writer = Callable[..., Path]
ROWS = [{"text": f"text {i}", "label": i % 2} for i in range(8)]
RAW = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*ROWS, {"text": "café", "label": 1}])
LONG = "dog " * 25_000


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_other_encodings_are_named(write_task: Writer, encoding: str, split: str) -> None:
    rows = {"train": ROWS, "validation": ROWS, split: RAW.encode(encoding)}
    folder = write_task("mine", MOOD, **rows)
    with pytest.raises(TaskError, match=rf"{split}\.jsonl, line \d: expected (UTF-8 text|one JSON object)"):
        load_task(folder, form="text")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_task_json_of_another_encoding(write_task: Writer, encoding: str) -> None:
    folder = write_task("mine", None, train=ROWS, validation=ROWS)
    (folder / "task.json").write_bytes(json.dumps({**MOOD, "prefix": "caf\xe9"}, ensure_ascii=False).encode(encoding))
    with pytest.raises(TaskError, match=r"task\.json: expected JSON in UTF-8"):
        load_task(folder, form="text")


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\n\n\n", b"\n \t \n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_blank_lines_line_ends_and_byte_order_marks(write_task: Writer, start: bytes, ending: bytes) -> None:
    raw = start + ending.join(line.encode() for line in RAW.splitlines())
    data = load_task(write_task("mine", MOOD, train=raw, validation=ROWS), form="text")
    assert len(data.train) == 9
    assert data.train[-1].text_a == "café"


def test_rows_without_a_split(write_task: Writer) -> None:
    for rows in (b"", b"\n\n", b"\xef\xbb\xbf"):
        for split in ("train", "validation", "test"):
            folder = write_task(f"t{len(rows)}{split}", MOOD, **{"train": ROWS, "validation": ROWS, split: rows})
            with pytest.raises(TaskError, match=rf"{split}\.jsonl: expected at least one row, found none"):
                load_task(folder, form="text")


@pytest.mark.parametrize("label", [2, -2, 10**30, 0.5, "2", "Positive", "", None, True, [1], {"a": 1}])
def test_labels_that_are_none(label: Any) -> None:
    data = {**mood_data(8, 8), "validation": [*mood_rows(4, 1), {"text": "x", "label": label}]}
    with pytest.raises(TaskError, match=r"memory, validation, row 4: expected a label in column 'label'"):
        load_task(data, form="text", task_spec=MOOD)


@pytest.mark.parametrize("label", [float("nan"), float("inf"), -float("inf"), np.float32("nan"), np.float64("inf"), 10**400, "3", None, True])
def test_numbers_that_are_none(label: Any) -> None:
    rows = [{"text": f"x{i}", "label": i / 2} for i in range(8)]
    for split in ("train", "validation", "test"):
        data = {"train": rows, "validation": rows, "test": rows} | {split: [*rows, {"text": "y", "label": label}]}
        with pytest.raises(TaskError, match=rf"{split}, row 8: expected a finite number in column 'label'"):
            load_task(data, form="pair", task_spec=STRENGTH)


def test_numbers_out_of_range() -> None:
    rows = [{"text": f"x{i}", "label": i / 2} for i in range(8)]
    with pytest.raises(TaskError, match="row 8: expected a number from 0 to 5"):
        load_task({"train": [*rows, {"text": "y", "label": 5.1}], "validation": rows}, form="pair", task_spec=STRENGTH)


@pytest.mark.parametrize("value", [None, 7, 1.5, float("nan"), True, ["a"], {"a": 1}, b"a", "\ud800"])
def test_texts_that_are_none(value: Any) -> None:
    data = {**mood_data(8, 8), "train": [*mood_rows(8, 1), {"text": value, "label": 1}]}
    with pytest.raises(TaskError, match=r"memory, train, row 8: expected text in column 'text'"):
        load_task(data, form="text", task_spec=MOOD)


def test_a_table_with_a_column_twice() -> None:
    table = pd.DataFrame([["a", "b", 0], ["c", "d", 1]], columns=["text", "text", "label"])
    with pytest.raises(TaskError, match=r"memory, train: expected each column once, found 'text' 2 times"):
        load_task({"train": table, "validation": mood_rows(8, 1)}, form="text", task_spec=MOOD)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_key_twice(write_task: Writer, split: str) -> None:
    raw = RAW.encode() + b'{"text": "a", "label": 1, "label": 0}\n'
    folder = write_task("mine", MOOD, **{"train": ROWS, "validation": ROWS, split: raw})
    with pytest.raises(TaskError, match=rf"{split}\.jsonl, line 10: .*the key 'label' twice"):
        load_task(folder, form="text")


def test_one_class() -> None:
    data = {"train": [{"text": f"x{i}", "label": 1} for i in range(8)], "validation": mood_rows(8, 1)}
    with pytest.raises(TaskError, match="expected at least two classes in 8 row.* found only 'positive'"):
        load_task(data, form="text", task_spec=MOOD)


@pytest.mark.parametrize("form", ["t5", "bert"])
def test_empty_and_very_long_texts_train(form: str) -> None:
    """They are data: an empty one is its prefix alone, a long one is cut; neither takes long or gives NaN."""
    data = mood_data(24, 12)
    for rows in data.values():
        rows[0]["text"], rows[1]["text"], rows[2]["text"], rows[3]["text"] = "", " ", LONG, "\0\x1b\u202e" * 100
    began = time.process_time()
    backbone = wrap_backbone(tiny_model(form), tokenizer_of(form))
    loaded = load_task(data, form=backbone.form, task_spec=MOOD)
    features = Features(loaded.train, backbone, loaded.task)
    assert features.lengths.max() <= 128
    assert features.lengths.min() >= 1
    assert time.process_time() - began < 20
    space = Space("biases", (SpaceEntry("BitFit", ("*.LN",)),))
    structure = Structure(tuple(candidate_gates(positions(backbone.model), space)[0]), form, 1)
    bench = Workbench.open(data, model=backbone.model, tokenizer=backbone.tokenizer, task_spec=MOOD, device="cpu")
    scores = s3.tune(structure, task=None, workbench=bench, steps=3, batch_size=8, evaluations=1, progress=False)
    assert np.isfinite(scores.metrics["loss"])


# -- a loss that is not finite -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["t5", "bert"])
@pytest.mark.parametrize("mode", ["fast", "first-order", "single-level"])
def test_a_search_that_diverges_names_its_step_and_stays_open(tmp_path: Path, form: str, mode: str) -> None:
    out = tmp_path / "run"
    with pytest.raises(NonFiniteLossError, match=r"^step \d+: .* is (nan|inf|not finite).*; the run in .*run keeps its last checkpoint"):
        s3.search(
            task=mood_data(32, 8), model=tiny_model(form), tokenizer=tokenizer_of(form), load={"task_spec": MOOD}, budget=64,
            space={"gates": [{"type": "BitFit", "modules": ["*.LN"]}, {"type": "LoRA", "modules": ["SelfAttn.Q"], "options": {"r": 1}}]},
            steps=12, lr=1e30, clip=0, mode=mode, batch_size=8, out=out, device="cpu", progress=False, checkpoint_every=2,
        )  # fmt: skip
    run = s3.open_run(out)
    assert run.status == "failed"
    assert "step" in str(run.error)
    assert run.n_steps < 12
    for name in ("run.json", "gates.parquet", "checkpoint/state.safetensors"):
        assert (out / name).exists()
    if run.n_steps:
        assert np.isfinite(run.alpha()).all()
        assert len(run.structure())
        s3.figures.heatmap(run)
    s3.health(run)
    repr(run), run._repr_html_()


def test_a_training_that_diverges_names_its_step() -> None:
    bench = Workbench.open(mood_data(32, 8), model=tiny_model("bert"), tokenizer=tokenizer_of("bert"), task_spec=MOOD, device="cpu")
    with pytest.raises(NonFiniteLossError, match=r"step \d+: train loss is (nan|inf)|loss is (nan|inf)"):
        s3.tune("full", task=None, workbench=bench, steps=6, full_lr=1e30, clip=0, evaluations=1, progress=False)
