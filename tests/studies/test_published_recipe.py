"""benchmarks/studies/published.py: the published recipe's steps, and one command from the search to the scores."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from problems import MOOD, mood_rows

import s3pet_viz as s3

ROOT = Path(__file__).parents[2]


@pytest.fixture
def published(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks/studies")
    import published

    return published


@pytest.fixture
def rte(tmp_path) -> Path:
    folder = tmp_path / "rte"
    folder.mkdir()
    (folder / "task.json").write_text(json.dumps(MOOD))
    for split, n in (("train", 40), ("validation", 16), ("test", 16)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mood_rows(n, len(split))))
    return folder


def run(published, monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["published.py", *map(str, arguments)])
    return published.main()


def test_steps_of_the_published_tasks(published):
    """RTE's 2,490 rows: 20 epochs of 1,245 in batches of 16, and of all of them; QQP trains three epochs of one."""
    assert published.steps_of(published.RECIPES["rte"], 2490) == (20 * 78, 20 * 156)
    assert published.steps_of(published.RECIPES["qqp"], 361_846) == (5654, 3 * 11_308)
    assert published.steps_of(published.RECIPES["cb"], 250) == (40 * 9, 40 * 16)


def test_one_command_searches_and_trains(published, monkeypatch, rte, tiny_folder, tmp_path, capsys):
    place = ("--task", rte, "--backbone", tiny_folder("t5"), "--budget", "2%", "--device", "cpu", "--epochs", 1)
    assert run(published, monkeypatch, *place, "--dry-run") == 0
    assert "2 search steps, 3 training steps" in capsys.readouterr().out
    out = tmp_path / "run"
    assert run(published, monkeypatch, *place, "--out", out) == 0
    made = s3.open_run(out)
    assert (made.status, made.n_steps, made.config["mode"], made.inert) == ("finished", 2, "paper", ())
    assert {k: made.config[k] for k in ("lr", "alpha_lr", "clip", "batch_size")} == {"lr": 3e-4, "alpha_lr": 0.1, "clip": 2.0, "batch_size": 16}
    assert "full" in capsys.readouterr().out
    before = (out / "structure.json").stat().st_mtime_ns
    assert run(published, monkeypatch, *place, "--out", out) == 0, "the search is not made again"
    assert (out / "structure.json").stat().st_mtime_ns == before


def test_another_task_and_a_missing_folder_are_said(published, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(published, monkeypatch, "--task", "sentiment")
    assert "expected a name that ends with one of cola" in capsys.readouterr().err
    assert run(published, monkeypatch, "--task", tmp_path / "rte", "--dry-run") == 1
    assert "rte" in capsys.readouterr().err
