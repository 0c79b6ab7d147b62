"""What a search takes, told before any weight is read, against what it takes."""

from __future__ import annotations

import shutil

import pytest
import torch
from problems import MOOD, mood_data
from tiny_families import tiny_family
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.backbones import load_backbone, positions
from s3pet_viz.cli import app
from s3pet_viz.engine.backbone_problem import BackboneProblem
from s3pet_viz.engine.estimate import COPIES, Held
from s3pet_viz.errors import BackboneError, BudgetError, SpaceError, TaskError
from s3pet_viz.pet import candidate_gates, insert, load_space
from s3pet_viz.tasks import load_task
from s3pet_viz.training.batches import Features

GIVEN = {"task": mood_data(24, 8), "load": {"task_spec": MOOD}, "budget": 400, "batch_size": 8}


@pytest.fixture(scope="module")
def bare(tiny_folder, tmp_path_factory):
    """Folders with a config and a tokenizer, and no weights."""

    def folder(form, layers=1):
        out = tmp_path_factory.mktemp("bare") / form
        return shutil.copytree(tiny_folder(form, layers), out, ignore=shutil.ignore_patterns("*.safetensors"))

    return folder


def frozen(loaded):
    """Bytes of all but the head."""
    tensors = [*loaded.model.named_parameters(), *loaded.model.named_buffers()]
    return sum(t.nbytes for n, t in tensors if n not in loaded.head)


@pytest.mark.parametrize("form", ["t5", "bert"])
def test_what_it_says_is_what_is_held(bare, tiny_folder, form):
    """The bytes of a real pass, counted in the same way, and those of the loaded weights."""
    made = s3.estimate(backbone=bare(form), **GIVEN)
    loaded = load_backbone(tiny_folder(form, layers=1))
    assert (made.backbone_params, made.budget, made.batch) == (loaded.n_params, 400, 8)
    half = load_backbone(tiny_folder(form, layers=1), dtype="bfloat16")
    assert made.weights == frozen(loaded)
    assert s3.estimate(backbone=bare(form), dtype="bfloat16", **GIVEN).weights == frozen(half) < 0.6 * made.weights
    assert "SelfAttn.Q" in made._repr_html_()
    assert "frozen weights" in made._repr_html_()
    gates, _ = candidate_gates(positions(loaded.model), load_space("S3PET-M"))
    assert list(made.gates) == gates
    assert made.trained == 4 * COPIES * (sum(g.n_params for g in gates) + loaded.head_params)
    data = load_task(GIVEN["task"], form=loaded.form, task_spec=MOOD)
    features = Features(data.train, loaded, data.task)
    batch = features.batch(features.lengths.argsort()[-8:], "cpu")
    loaded.model.train()
    problem = BackboneProblem(loaded.model, insert(loaded.model, gates), lambda *_: {}, head=loaded.head)
    for p in problem.weights:
        p.requires_grad_(True)
    z = torch.full((len(gates),), 0.5, requires_grad=True)
    with Held() as held:
        torch.autograd.grad(problem.loss(batch, z), [z, *problem.weights], allow_unused=True)
    assert made.passes == pytest.approx(held.most, rel=0.1)
    assert made.total == made.weights + made.trained + made.passes
    assert held.now < 0.5 * held.most  # what is freed is counted off


def test_what_makes_it_less(bare):
    folder = bare("bert", layers=2)
    passes = lambda **more: s3.estimate(backbone=folder, **{**GIVEN, **more}).passes  # noqa: E731
    whole = passes()
    assert passes(accumulation=4) < 0.5 * whole
    assert passes(gradient_checkpointing=True) < 0.8 * whole
    assert passes(batch_size=12) == passes(batch_size=99) == pytest.approx(1.5 * whole, rel=0.2)  # a half has 12 rows


@pytest.mark.parametrize("name", ["gpt2", "llama", "deberta-v2 / v3"])
def test_other_families(tmp_path, name):
    tiny = tiny_family(name)
    tiny.model(layers=1).config.save_pretrained(tmp_path)
    tiny.make_tokenizer().save_pretrained(tmp_path)
    made = s3.estimate(backbone=tmp_path, **GIVEN)
    assert made.passes, made.why


def test_a_pass_that_asks_for_numbers_is_not_told(bare, monkeypatch):
    def asks(self, batch, z):
        return self.model(**batch).loss * (1 if bool(z.sum() > 0) else 2)

    monkeypatch.setattr("s3pet_viz.engine.backbone_problem._GatedLoss.forward", asks)
    made = s3.estimate(backbone=bare("bert"), **GIVEN)
    assert (made.passes, made.total) == (None, None)
    assert "not known without numbers" in made.facts()["a pass of 8 x 10 tokens"]


def test_what_a_search_would_refuse(bare, tmp_path):
    folder, other = bare("bert"), [{"words": word, "label": i} for i, word in enumerate("ab")]
    for error, says, more in (
        (BudgetError, "below the smallest module", {"budget": 5}),
        (BudgetError, "over 100 %", {"budget": 10**9}),
        (SpaceError, "expected one of S3PET-M", {"space": "S3"}),
        (TaskError, "column", {"task": {"train": other, "validation": other}}),
        (BackboneError, "no folder", {"backbone": str(tmp_path / "gone")}),
    ):
        with pytest.raises(error, match=says):
            s3.estimate(**{"backbone": folder, **GIVEN, **more})


def test_dry_run(bare, tmp_path):
    line = ["search", "--task", "sentiment", "--budget", "0.2%", "--out", str(tmp_path / "run"), "--dry-run", "--max-rows", "40"]
    said = CliRunner().invoke(app, line)
    assert said.exit_code == 0, said.output
    for words in ("SelfAttn.Q", "156, 39,616 parameters", "4,106 parameters = 0.2000% of the backbone", "7.8 MiB (float32)"):
        assert words in said.output
    assert not (tmp_path / "run").exists()
    for more, says in ((["--budget", "5"], "smallest module"), (["--detach"], "cannot be used with --detach")):
        said = CliRunner().invoke(app, [*line, *more])
        assert (said.exit_code, says in said.output) == (2, True), said.output
