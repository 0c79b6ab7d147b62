"""`s3pet sweep` and `s3pet transfer`."""

from __future__ import annotations

import pandas as pd
import pytest
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


def test_sweep_says_the_difference_in_words(tmp_path, studies_in_threads):
    """As many workers as it is told."""
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
