"""benchmarks/studies/deciding.py: each cell once, by several processes, and what is written opens as a study."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import s3pet_viz as s3
from s3pet_viz.errors import StudyError
from s3pet_viz.runs.lock import WriterLock

STUDIES = Path(__file__).parents[2] / "benchmarks" / "studies"


@pytest.fixture
def deciding(monkeypatch):
    """The script with parts of a seed and a task, and trainings of two steps of 32 rows."""
    monkeypatch.syspath_prepend(str(STUDIES))
    for name in ("deciding", "studies_common", "tiny_t5", "pack"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    made = importlib.import_module("deciding")
    monkeypatch.setattr(made, "TRAINING", {"steps": "auto", "max_steps": 2, "evaluations": 2, "patience": 1})
    monkeypatch.setattr(made, "SEARCH_STEPS", {"fast": 200, "prune": 5})
    small = {name: replace(part, tasks=("sentiment",), seeds=(0,)) for name, part in made.PARTS.items()}
    small["tiny"] = replace(small["tiny"], budgets=("0.2%",), methods=[m for m in made.WAYS if m != "one-go"])
    monkeypatch.setattr(made, "PARTS", small)
    place = made.Work.place
    monkeypatch.setattr(made.Work, "place", lambda work, task: {**place(work, task), "max_rows": 32})
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
    out, real, seen = tmp_path / "deciding", deciding.Work.do, []

    def stop(work, labels):
        seen.append(labels["method"])
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(work, labels)

    monkeypatch.setattr(deciding.Work, "do", stop)
    words = ("--out", out, "--only", "LoRA", "full")
    with pytest.raises(KeyboardInterrupt):
        call(deciding, monkeypatch, *words)
    assert len((out / "cells.jsonl").read_text().splitlines()) == 1
    assert call(deciding, monkeypatch, *words) == 0
    assert seen == ["LoRA", "full", "full"]


def test_one_go_is_scored_with_the_weights_it_ends_with(deciding, monkeypatch, tmp_path):
    monkeypatch.setitem(deciding.PARTS, "tiny", replace(deciding.PARTS["tiny"], methods=("one-go",)))
    assert call(deciding, monkeypatch, "--out", tmp_path / "d") == 0
    (row,) = s3.open_study(tmp_path / "d").table().to_dict("records")
    assert (row["steps_taken"], row["passes"], row["metric"], row["head_params"]) == (7, 7, "accuracy", 0)
    assert 0 <= row["score"] <= 1
    assert row["task_learned"] in (True, False)


def test_one_study_is_not_made_of_two(deciding, monkeypatch, tmp_path):
    part = deciding.PARTS["tiny"]
    deciding.write_plan(tmp_path, part, part.cells(("full",)))
    deciding.write_plan(tmp_path, part, part.cells(("full", "LoRA")))
    assert len(s3.open_study(tmp_path).cells) == 2
    monkeypatch.setattr(deciding, "TRAINING", {**deciding.TRAINING, "max_steps": 3})
    with pytest.raises(StudyError, match=r"expected sentiment-full-s0 with .*'max_steps': 3.*found .*'max_steps': 2"):
        deciding.write_plan(tmp_path, part, part.cells(("full",)))


def test_ways_of_rank_meet_at_one_budget_and_say_where_they_do_not(deciding, monkeypatch, tmp_path):
    pytest.importorskip("peft")
    ways = ("gora", "AdaLoRA", "LoRA-everywhere", "full")
    known = {"row": {"score": 0.5, "loss": 0.7, "steps_taken": 2}, "history": [], "decided_on": "", "key": "sentiment-full-s0"}
    monkeypatch.setattr(deciding, "finished", lambda folder: {known["key"]: known} if folder.name == "deciding" else {})
    assert call(deciding, monkeypatch, "--part", "ranks", "--only", *ways, "--out", tmp_path / "ranks") == 0
    study = s3.open_study(tmp_path / "ranks")
    rows = study.table().set_index("method")
    assert set(rows.index) == set(ways)
    assert rows.loc["full", "score"] == 0.5  # not trained again
    within = rows.drop(["full", "LoRA-everywhere"])
    assert (within["pet_params"] <= within["budget_params"]).all()
    for method, row in rows.drop("full").iterrows():
        assert row["meets_budget"] == (0.95 * row["budget_params"] <= row["pet_params"] <= row["budget_params"]), method
        assert bool(row["words"]) != row["meets_budget"], method


def test_the_parts_of_minilm_need_their_data_before_any_work(deciding, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call(deciding, monkeypatch, "--part", "minilm", "--out", tmp_path / "m")
    assert "expected --data with the folder that has sentiment" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
    assert call(deciding, monkeypatch, "--part", "minilm", "--out", tmp_path / "m", "--dry-run") == 0
