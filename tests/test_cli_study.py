"""`s3pet sweep` and `s3pet transfer`."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from transfer_problems import write_study
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.cli import app

SMALL = ["--steps", "2", "--tune-steps", "2", "--max-rows", "16", "--batch-size", "8", "--seeds", "1", "--device", "cpu", "--quiet"]


def s3pet(*words):
    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)


def test_transfer_over_three_tasks_and_again(tmp_path, tiny_folder, studies_in_threads):
    """The default executor. The same line again has nothing left to do."""
    line = [
        "transfer", "--targets", "sentiment,entailment,similarity", "--budget", "2%", "--references", "random",
        "--backbone", tiny_folder("bert"), "--out", tmp_path / "s", *SMALL,
    ]  # fmt: skip
    first = s3pet(*line, "--html", tmp_path / "matrix.html", "--table", tmp_path / "t.csv")
    assert first.exit_code == 0, first.output
    for word in ("consensus", "random", "similarity", "18 of 18 cells done"):
        assert word in first.output
    assert len(pd.read_csv(tmp_path / "t.csv")) == 15
    assert "plotly" in (tmp_path / "matrix.html").read_text()
    assert len(studies_in_threads) == 1
    journal = (tmp_path / "s" / "journal.jsonl").read_text()
    again = s3pet(*line)
    assert again.exit_code == 0
    assert (tmp_path / "s" / "journal.jsonl").read_text() == journal
    assert s3.Transfer(tmp_path / "s").targets == ["sentiment", "entailment", "similarity"]


@pytest.mark.parametrize(
    ("worth", "said"),
    [(1, "searched - random = +25.0 points ("), (40, "searched - random = +10.000 (")],
)
def test_sweep_says_the_difference_in_words(tmp_path, monkeypatch, worth, said):
    """Points where scores are fractions; with the mode where there are several."""
    folder = write_study(tmp_path / "s", lambda source, *_: worth * (0.25 if source == "random" else 0.5), targets=["a"])
    info = json.loads((folder / "study.json").read_text())
    for cell in info["cells"]:
        if cell["labels"].get("method") == "searched" and cell["labels"]["seed"] == 1:
            cell["labels"]["mode"] = "prune"
    monkeypatch.setattr(s3, "sweep", lambda **options: s3.open_study(folder))
    one = s3pet("sweep", "--tasks", "a")
    assert f"a 0.2%: {said}" in one.output
    (folder / "study.json").write_text(json.dumps(info))
    several = s3pet("sweep", "--tasks", "a")
    assert f"a 0.2% fast: {said}" in several.output
    assert f"a 0.2% prune: {said}" in several.output


def test_sweep_takes_as_many_workers_as_it_is_told(tmp_path, studies_in_threads):
    out = s3pet(
        "sweep", "--tasks", "sentiment", "--budgets", "0.2%", "--methods", "random,LoRA", "--out", tmp_path / "s",
        "--workers", "1", *SMALL,
    )  # fmt: skip
    assert out.exit_code == 0, out.output
    assert studies_in_threads == [1]
    assert "2 of 2 cells done" in out.output
    assert "LoRA" in out.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep"], "--tasks: expected at least one"),
        (["transfer"], "--targets: expected at least one task"),
        (["sweep", "--tasks", "sentiment", "--methods", "magic"], "methods: expected names among searched"),
        (["sweep", "--tasks", "sentiment", "--budgets", "x%"], "budget"),
        (["transfer", "--targets", "nowhere"], "task 'nowhere'"),
        (["transfer", "--targets", "sentiment", "--sources", "consensus"], "a consensus needs source tasks"),
    ],
)
def test_wrong_words(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    out = s3pet(*words)
    assert out.exit_code == 2
    assert said in out.output
    assert not list(tmp_path.iterdir())
