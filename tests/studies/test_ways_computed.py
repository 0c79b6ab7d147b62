"""`figures.ways(compute=True)`: what one pass of scores gives is made on the spot; of the rest it says the call."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.cli import app
from s3pet_viz.errors import ConfigError


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_folder):
    small = {"tune_steps": 2, "evaluations": 1, "device": "cpu", "load": {"max_rows": 16}, "batch_size": 8, "progress": False}
    with ThreadPoolExecutor(1) as pool:
        return s3.sweep(
            tasks="sentiment", backbone=str(tiny_folder("bert", layers=1)), budgets="3%", seeds=[1], methods=["random", "LoRA"],
            executor=pool, out=tmp_path_factory.mktemp("ways") / "study", **small,
        )  # fmt: skip


def test_what_is_not_there_says_what_makes_it(study):
    table = s3.figures.ways_table(study, draws=5)
    missing = table.attrs["missing"]
    assert list(missing) == ["gora", "plop", "AdaLoRA"]
    assert missing["gora"] == missing["plop"] == f"s3pet ways {study.path} --task sentiment --budget 3% --compute"
    assert missing["AdaLoRA"].startswith("s3.sweep(")
    assert "methods=['AdaLoRA']" in missing["AdaLoRA"]
    title = s3.figures.ways(study, draws=5).layout.title.text
    assert "not scored: gora, plop (compute=True)" in title
    assert "not trained: AdaLoRA" in title
    with pytest.raises(ConfigError, match=r"methods: gora is not there; it is made by: s3pet ways .* --compute"):
        s3.figures.ways(study, methods=["random", "gora"])
    with pytest.raises(ConfigError, match="methods: expected one of"):
        s3.figures.ways(study, methods=["nonsense"])


def test_scores_are_those_of_the_study_s_task_backbone_budget_and_seed(study, tmp_path):
    out = CliRunner().invoke(
        app, ["ways", str(study.path), "--compute", "--table", str(tmp_path / "t.csv"), "--html", str(tmp_path / "f.html")]
    )
    assert out.exit_code == 0, out.output
    assert "not there: AdaLoRA; made by: s3.sweep(" in out.output.replace("\n", " ")
    assert "plop" in (tmp_path / "t.csv").read_text()
    cells = s3.figures.ways_table(study, compute=True, methods=["random", "gora"], of="gates")
    row = study.table().iloc[0]
    bench = study.cells[0]["what"]["bench"]
    by_hand = s3.score(
        task="sentiment", backbone=bench["backbone"], budget="3%", method="gora", seed=1, load={"max_rows": 16},
        device="cpu", progress=False,
    ).structure()  # fmt: skip
    mine = cells[(cells["method"] == "gora") & cells["most"]]
    assert set(zip(mine["position"], mine["pet_type"], strict=True)) == set(by_hand.keys)
    assert by_hand.n_params <= row["budget_params"]


def test_what_cannot_be_computed_is_refused(study, monkeypatch):
    with pytest.raises(ConfigError, match="compute: expected a study to choose from"):
        s3.figures.ways({"a": study.structure(study.table()["key"].iloc[0])}, compute=True)
    with pytest.raises(ConfigError, match="compute: expected True or False, found 'yes'"):
        s3.figures.ways(study, compute="yes")
    for cell in (cells := [dict(cell) for cell in study.cells]):
        cell["what"] = {**cell["what"], "bench": {**cell["what"]["bench"], "task": "nowhere"}}
    monkeypatch.setattr(type(study), "cells", property(lambda self: cells))
    out = s3.figures.ways_table(study, compute=True, draws=5).attrs["left_out"]
    assert out["gora"].startswith("cannot be computed: task 'nowhere': expected a folder")
    with pytest.raises(ConfigError, match="compute: cannot be computed: task 'nowhere'"):
        s3.figures.ways_table(study, compute=True, methods=["gora"])
