"""Sweeps, transfers and the commands on tasks of every kind: a head, a metric and a row of the tables for each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.cli import app

TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} . {% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
)
SMALL = {
    "steps": 2, "tune_steps": 2, "evaluations": 1, "seeds": 1, "device": "cpu", "load": {"max_rows": 16}, "batch_size": 8,
    "progress": False,
}  # fmt: skip
#: The first metric of each, which its score is.
METRICS = {"entities": "f1", "topics": "micro_f1", "sentiment": "accuracy", "headline": "rougeL", "conversation": "exact_match"}
KINDS = {"bert": ["entities", "topics", "sentiment"], "t5": ["headline", "conversation"]}
pytestmark = pytest.mark.filterwarnings("ignore:.* are cut:UserWarning")  # a tiny model's words are letters


def s3pet(*words):
    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """A folder of each form whose tokenizer has a chat template."""

    def made(form: str) -> Path:
        place = tmp_path_factory.mktemp("kinds") / form
        shutil.copytree(tiny_folder(form, layers=1), place)
        config = json.loads((place / "tokenizer_config.json").read_text())
        (place / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
        if form == "bert":  # each task puts a head of its own on the pretrained model
            config = json.loads((place / "config.json").read_text())
            (place / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
        return place

    return {form: made(form) for form in KINDS}


@pytest.mark.parametrize("form", KINDS)
def test_swept_and_carried_on(form, folder, tmp_path, studies_in_threads):
    """A transfer takes the sweep's cells over, and each target's rows are scored by that target's own metric."""
    tasks = KINDS[form]
    what = {"backbone": str(folder[form]), **SMALL}
    study = s3.sweep(
        tasks=tasks, budgets=["3%"], methods=["searched", "random", "gradient", "full"], out=tmp_path / "s", **what
    )  # fmt: skip
    table = study.table()
    assert not len(study.failed()), study.failed()
    assert table.groupby("task")["metric"].unique().map(list).to_dict() == {name: [METRICS[name]] for name in tasks}
    assert table["loss"].notna().all()
    moved = s3.transfer(targets=tasks, budget="3%", references=["random"], out=tmp_path / "t", **what)
    assert moved.targets == tasks
    scores = moved.table()
    assert set(scores["target"]) == set(tasks)
    assert scores["score"].notna().all()


@pytest.mark.parametrize(("form", "task"), [("bert", "entities"), ("bert", "topics"), ("t5", "headline"), ("t5", "conversation")])
def test_from_a_shell(form, task, folder, tmp_path):
    """Each command that trains or scores, one after the other on what the first wrote."""
    few = ["--max-rows", "16", "--batch-size", "8", "--device", "cpu", "--quiet"]
    run = tmp_path / "run"
    out = s3pet("search", "--task", task, "--backbone", folder[form], "--budget", "3%", "--steps", "2", "--out", run, *few)
    assert out.exit_code == 0, out.output
    out = s3pet("tune", run, "--steps", "2", "--save", tmp_path / "kept", *few)
    assert out.exit_code == 0, out.output
    assert METRICS[task] in out.output
    out = s3pet("explain", run, "--steps", "1", "--rows", "4", "--out", tmp_path / "effects.json", *few)
    assert out.exit_code == 0, out.output
    effects = json.loads((tmp_path / "effects.json").read_text())
    assert len(effects["gates"]) == len(s3.open_run(run).structure())
    out = s3pet(
        "baselines", "--task", task, "--backbone", folder[form], "--budget", "3%", "--methods", "random", "--steps", "1", "--seeds", "1",
        "--n-random", "1", *few,
    )  # fmt: skip
    assert out.exit_code == 0, out.output
    out = s3pet("score", "--task", task, "--backbone", folder[form], "--budget", "3%", "--method", "gradient", *few)
    assert out.exit_code == 0, out.output
