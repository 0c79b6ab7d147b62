"""A packed study (benchmarks/studies/pack.py) opens as the same study, and goes on."""

from __future__ import annotations

import json
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

import s3pet_viz as s3
from s3pet_viz.analysis import Study
from s3pet_viz.errors import RunError, StudyError
from s3pet_viz.resources import find_resource, list_resources
from s3pet_viz.runs.lock import WriterLock

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "studies"))
from pack import pack

SMALL = {
    "backbone": "tiny-t5", "budgets": ["0.2%"], "seeds": 1, "steps": 2, "tune_steps": 2, "evaluations": 1,
    "device": "cpu", "load": {"max_rows": 48}, "progress": False,
}  # fmt: skip


def unpacked(source: Path, folder: Path) -> Path:
    """The study as it was before it was packed: a file a cell."""
    (folder / "cells").mkdir(parents=True)
    shutil.copy(source / "study.json", folder)
    for line in (source / "cells.jsonl").read_text(encoding="utf-8").splitlines():
        (folder / "cells" / f"{json.loads(line)['key']}.json").write_text(line, encoding="utf-8")
    return folder


def same(a: Study, b: Study) -> None:
    assert a.status() == b.status()
    pd.testing.assert_frame_equal(a.table(), b.table())
    pd.testing.assert_frame_equal(a.failed(), b.failed())
    assert a.structures() == b.structures()
    assert [r.name for r in a.runs()] == [r.name for r in b.runs()]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A sweep with one failed cell, as it was written."""
    folder = tmp_path_factory.mktemp("studies") / "small"
    with ThreadPoolExecutor(1) as pool:
        study = s3.sweep(tasks=["sentiment"], methods=["searched", "LoRA", "random"], executor=pool, out=folder, **SMALL)
    failed = next(c["key"] for c in study.cells if c["labels"]["method"] == "random")
    error = {"kind": "MemoryError", "message": "none left", "traceback": ""}
    (folder / "cells" / f"{failed}.json").write_text(json.dumps({"status": "failed", "attempts": 1, "error": error}))
    return folder, failed


@pytest.fixture
def copy(small, tmp_path):
    return shutil.copytree(small[0], tmp_path / "small")


@pytest.mark.parametrize("name", list_resources("studies"))
def test_a_recorded_study_is_packed_and_equals_its_unpacked_self(name, tmp_path):
    source = find_resource("studies", name)
    assert sorted(p.name for p in source.iterdir() if p.name not in ("lock", "TABLES.md")) == ["cells.jsonl", "study.json"]
    open_form = s3.open_study(unpacked(source, tmp_path / name))
    assert open_form.status()["missing"] == 0
    same(s3.open_study(name), open_form)
    lines = (source / "cells.jsonl").read_bytes()
    assert pack(open_form.path) == open_form.status()["planned"]
    assert (open_form.path / "cells.jsonl").read_bytes() == lines
    assert not (open_form.path / "cells").exists()


def test_a_sweep_goes_on_in_a_packed_study(small, copy):
    before = Study(small[0])
    pack(copy)
    same(before, s3.open_study(copy))
    ended = []
    with ThreadPoolExecutor(1) as pool:
        more = {"executor": pool, "out": copy, "on_cell": lambda cell, result: ended.append(cell.key), **SMALL}
        again = s3.sweep(tasks=["sentiment"], methods=["searched", "LoRA", "random"], **more)
        assert ended == []  # every cell is known, the failed one too
        same(before, again)
        retried = s3.sweep(tasks=["sentiment"], methods=["searched", "LoRA", "random"], retry=True, **more)
        assert ended == [small[1]]
        grown = s3.sweep(tasks=["sentiment"], methods=["BitFit"], **more)
    assert retried.status()["failed"] == 0
    assert retried.result(small[1])["attempts"] == 2
    assert len(ended) == 2
    assert len(grown.table()) == len(before.table()) + 2
    assert pack(copy) == len(grown.cells)  # and again, with what it gained
    same(grown, s3.open_study(copy))


def test_a_file_of_a_cell_goes_before_its_line(copy):
    pack(copy)
    study = Study(copy)
    key = study.cells[0]["key"]
    (copy / "cells").mkdir()
    (copy / "cells" / f"{key}.json").write_text(json.dumps({**study.result(key), "seconds": 12345.0}))
    assert study.result(key)["seconds"] == 12345.0


def test_a_rewritten_file_is_read_anew(copy):
    pack(copy)
    study, path = Study(copy), copy / "cells.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join(others))
    assert study.result(json.loads(first)["key"]) is None


def test_a_study_that_is_being_run_is_not_packed_and_nothing_is_lost(copy):
    files = {p.name: p.read_bytes() for p in (copy / "cells").glob("*.json")}
    stray = copy / "cells" / "of-another-plan.json"
    stray.write_text(json.dumps({"status": "done", "row": {"score": 0.5}}))
    for name in ("lock", "cells/worker.lock"):
        lock = WriterLock(copy / name)
        with pytest.raises(RunError, match="held|being written"):
            pack(copy)
        lock.release()
    stray.write_text("{")
    with pytest.raises(StudyError, match="of-another-plan.json: expected JSON"):
        pack(copy)
    assert {p.name: p.read_bytes() for p in (copy / "cells").glob("*.json") if p != stray} == files
    assert not (copy / "cells.jsonl").exists()
    stray.write_text(json.dumps({"status": "done", "row": {"score": 0.5}}))
    assert pack(copy) == len(files) + 1
    assert Study(copy).result("of-another-plan")["row"] == {"score": 0.5}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 4: it is damaged"),
        ("[1]", "line 4: it is damaged (expected an object with the cell's 'key'"),
        ('{"key": "../../etc", "status": "done", "row": {}}', "line 4: it is damaged (expected an object with the cell's 'key'"),
        ('{"key": "x", "row": {"score": 1e999}}', "line 4: it is damaged (the number 1e999"),
        ("FIRST", "is there twice"),
        ('{"key": "KEY", "status": "maybe"}', "line 4: field 'status': expected done or failed"),
        ('{"key": "KEY", "status": "done", "row": {"score": "high"}}', "line 4: field 'row.score': expected a number"),
        ('{"key": "KEY", "status": "failed", "error": {"kind": "x"}}', "line 4: field 'error.message' is missing"),
    ],
)
def test_a_damaged_line_is_named(copy, line, words):
    pack(copy)
    path = copy / "cells.jsonl"
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    line = line.replace("KEY", json.loads(lines[-1])["key"])
    path.write_text("\n".join([*lines[:3], lines[0] if line == "FIRST" else line]) + "\n")
    with pytest.raises(StudyError, match=re.escape(words)) as caught:
        Study(copy).table(), Study(copy).failed()
    assert str(path) in str(caught.value)


def test_something_else_by_that_name_is_refused(copy):
    shutil.rmtree(copy / "cells")
    (copy / "cells.jsonl").mkdir()
    with pytest.raises(StudyError, match=r"cells\.jsonl: cannot be read \(expected a plain file, found a folder"):
        Study(copy).table()
