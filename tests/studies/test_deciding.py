"""benchmarks/studies/deciding.py: each cell once, by several processes, and what is written opens as a study."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import s3pet_viz as s3
from s3pet_viz.errors import StudyError
from s3pet_viz.runs.lock import WriterLock

STUDIES = Path(__file__).parents[2] / "benchmarks" / "studies"


@pytest.fixture
def deciding(monkeypatch):
    monkeypatch.syspath_prepend(str(STUDIES))
    for name in ("deciding", "studies_common", "tiny_t5", "pack"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    made = importlib.import_module("deciding")
    training = {"steps": "auto", "max_steps": 2, "evaluations": 2, "patience": 1, **made.RATES}
    for name, value in {"TRAINING": training, "TASKS": ("sentiment",), "SEEDS": (0,), "BUDGETS": ("0.2%",)}.items():
        monkeypatch.setattr(made, name, value)
    monkeypatch.setattr(made, "SEARCH_STEPS", {"fast": 200, "prune": 5})
    monkeypatch.setattr(
        made, "bench_of", lambda task: made.Workbench.open(task, made.BACKBONE, device="cpu", max_rows=32)
    )
    return made


def call(module, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["deciding.py", *map(str, words)])
    return module.main()


def test_each_cell_once_and_it_opens_as_a_study(deciding, monkeypatch, tmp_path, capsys):
    out = tmp_path / "deciding"
    assert call(deciding, monkeypatch, "--out", out, "--limit", 2) == 0
    assert len((out / "cells.jsonl").read_text().splitlines()) == 2
    (out / "cells").mkdir(exist_ok=True)
    other = WriterLock(out / "cells" / "sentiment-LoRA-s0.lock")  # another process is at it
    try:
        assert call(deciding, monkeypatch, "--out", out) == 0
    finally:
        other.release()
    assert len((out / "cells.jsonl").read_text().splitlines()) == 5
    capsys.readouterr()
    assert call(deciding, monkeypatch, "--out", out, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "1 cells left, 5 done" in said
    assert "LoRA: 1 cells of " in said
    assert "on an idle core), from 5 cells" in said
    assert call(deciding, monkeypatch, "--out", out, "--only", "LoRA") == 0
    assert call(deciding, monkeypatch, "--out", out) == 0
    assert "0 cells done now" in capsys.readouterr().out
    study = s3.open_study(out)
    assert study.status() == {"planned": 6, "done": 6, "failed": 0, "missing": 0}
    rows = study.table().set_index("method")
    assert list(rows["steps_taken"] > 0) == [True] * 6
    assert dict(rows["passes"]) == {"fast": 580, "prune": 400, "gradient": 1, "random": 0, "LoRA": 0, "full": 0}
    assert rows.loc["prune", "task_learned"] in (True, False)
    assert rows.loc["gradient", "pet_params"] <= 4106
    assert not list((out / "cells").iterdir())


def test_ctrl_c_loses_the_cell_that_runs_alone(deciding, monkeypatch, tmp_path):
    out, real, seen = tmp_path / "deciding", deciding.do, []

    def stop(labels):
        seen.append(labels["method"])
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(labels)

    monkeypatch.setattr(deciding, "do", stop)
    words = ("--out", out, "--only", "LoRA", "full")
    with pytest.raises(KeyboardInterrupt):
        call(deciding, monkeypatch, *words)
    assert len((out / "cells.jsonl").read_text().splitlines()) == 1
    assert call(deciding, monkeypatch, *words) == 0
    assert seen == ["LoRA", "full", "full"]


def test_one_go_is_a_seventh_way(deciding, monkeypatch, tmp_path):
    assert call(deciding, monkeypatch, "--out", tmp_path / "d", "--only", "one-go") == 0
    (row,) = s3.open_study(tmp_path / "d").table().to_dict("records")
    assert (row["steps_taken"], row["passes"], row["metric"]) == (7, 7, "accuracy")
    assert 0 <= row["score"] <= 1
    assert row["task_learned"] in (True, False)


def test_one_study_is_not_made_of_two(deciding, monkeypatch, tmp_path):
    deciding.write_plan(tmp_path, deciding.plan(("full",)))
    deciding.write_plan(tmp_path, deciding.plan(("full", "LoRA")))
    assert len(s3.open_study(tmp_path).cells) == 2
    monkeypatch.setattr(deciding, "TRAINING", {**deciding.TRAINING, "max_steps": 3})
    with pytest.raises(StudyError, match=r"expected sentiment-full-s0 with .*'max_steps': 3.*found .*'max_steps': 2"):
        deciding.write_plan(tmp_path, deciding.plan(("full",)))
