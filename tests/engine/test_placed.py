"""Weights that wait on disk: the numbers of the model in memory, and what cannot be done so."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pytest
import torch
from accelerate.utils import OffloadedWeightsLoader
from problems import MOOD, mood_data
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.backbones import load_backbone
from s3pet_viz.backbones.placed import computes_on, is_placed, stored
from s3pet_viz.cli import app
from s3pet_viz.config.search import SearchConfig
from s3pet_viz.engine.attached import checkpoint_layers
from s3pet_viz.engine.fingerprint import fingerprint_of
from s3pet_viz.errors import ConfigError
from s3pet_viz.export.adapter import digest
from s3pet_viz.tasks import load_task

FAST = {"batch_size": 8, "progress": False, "device": "cpu"}
DATA = {"task": mood_data(24, 8), "load": {"task_spec": MOOD}}
PLACES = {
    "t5": {
        "shared": "cpu", "encoder.embed_tokens": "cpu", "encoder.block.0": "disk", "encoder.block.1": "cpu", "lm_head": "cpu",
        "encoder.final_layer_norm": "disk", "decoder.embed_tokens": "cpu", "decoder.block": "disk", "decoder.final_layer_norm": "cpu",
    },
    "bert": {"bert": "disk", "classifier": "disk"},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Some parameters are on the meta device")
@pytest.mark.parametrize(
    ("form", "more"),
    [
        ("t5", {"second_order_from": 0}),
        ("bert", {"mode": "paper"}),
        ("bert", {"mode": "first-order", "gradient_checkpointing": True}),
        ("bert", {"mode": "prune", "steps": 8}),
    ],
)
def test_the_numbers_of_a_model_in_memory(tiny_folder, tmp_path, monkeypatch, form, more):
    # A module that accelerate has hooked takes the plain forms; T5's norms round in float32, whatever the type.
    monkeypatch.setattr("s3pet_viz.pet.insertion.fused_forward", lambda *_: None)
    alphas = []
    for places in (None, PLACES[form]):
        made = load_backbone(tiny_folder(form), dtype=torch.float64, device_map=places)
        assert is_placed(made.model) == (places is not None)
        given = {"model": made.model, "tokenizer": made.tokenizer, "budget": 400, "out": tmp_path / str(places is None)}
        waiting = {n for n, p in made.model.named_parameters() if p.is_meta}
        run = s3.search(**DATA, **given, **FAST, **{"steps": 4, **more})
        assert {n for n, p in made.model.named_parameters() if p.is_meta} == waiting
        alphas.append(run.alphas().astype(np.float64))
    assert waiting
    assert np.abs(alphas[0] - alphas[1]).max() < 1e-6  # a run keeps float32
    assert np.abs(alphas[0]).max() > 0.1


@pytest.mark.filterwarnings("ignore:Some parameters are on the meta device")
def test_gradients_through_what_waits(tiny_folder):
    """In float64, to 1e-9: loss and gradients of the embeddings, through layers on disk."""
    found = []
    for places in (None, PLACES["bert"]):
        made = load_backbone(tiny_folder("bert"), dtype=torch.float64, device_map=places)
        x = torch.linspace(-1, 1, 2 * 5 * 32, dtype=torch.float64).reshape(2, 5, 32).requires_grad_()
        loss = made.model(inputs_embeds=x, labels=torch.tensor([0, 1])).loss
        found.append((loss.detach(), torch.autograd.grad(loss, x)[0]))
    for whole, placed in zip(*found, strict=True):
        assert torch.allclose(whole, placed, rtol=0, atol=1e-9)
        assert whole.abs().max() > 0


def test_how_long_what_was_read_is_kept(tiny_folder, monkeypatch):
    """Until the backward pass; with checkpointed layers, for one layer."""
    alive, most = set(), [0]

    def read(self, key, own=OffloadedWeightsLoader.__getitem__):
        value = own(self, key)
        alive.add(key)
        most[0] = max(most[0], len(alive))
        weakref.finalize(value.untyped_storage(), alive.discard, key)
        return value

    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", read)
    made = load_backbone(tiny_folder("bert"), device_map=PLACES["bert"])
    x = torch.zeros(2, 5, 32, requires_grad=True)
    peaks = []
    for checkpointed in (False, True):
        if checkpointed:
            made.model.train()
            checkpoint_layers(made.model)
        most[0] = 0
        torch.autograd.grad(made.model(inputs_embeds=x, labels=torch.tensor([0, 1])).loss, x)
        gc.collect()
        peaks.append(most[0])
    assert peaks[1] < 0.75 * peaks[0]


@pytest.mark.filterwarnings("ignore:Some parameters are on the meta device")
def test_a_run_keeps_it_and_what_follows_loads_so(tiny_folder, tmp_path):
    (folder := tmp_path / "mood").mkdir()
    (folder / "task.json").write_text(json.dumps(MOOD))
    for name, rows in mood_data(24, 8).items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ["search", "--task", str(folder), "--backbone", str(tiny_folder("bert")), "--budget", "400", "--steps", "2"]
    line += ["--out", str(tmp_path / "run"), "--device-map", json.dumps(PLACES["bert"]), "--batch-size", "8", "--dtype", "bfloat16"]
    said = CliRunner().invoke(app, line)
    assert said.exit_code == 0, said.output
    run = s3.open_run(tmp_path / "run")
    assert run.config["device_map"] == PLACES["bert"]
    whole = load_backbone(tiny_folder("bert"), dtype="bfloat16")
    placed = load_backbone(tiny_folder("bert"), dtype="bfloat16", device_map=PLACES["bert"])
    assert digest(whole.model) == digest(placed.model)
    data = load_task(mood_data(24, 8), form="pair", task_spec=MOOD)
    assert fingerprint_of(whole, [], data, 1) == fingerprint_of(placed, [], data, 1)
    assert all(torch.equal(a, dict(stored(placed.model))[n]) for n, a in whole.model.named_parameters() if n not in whole.head)
    assert computes_on(placed.model) == torch.device("cpu")
    assert not any(p.is_meta for p in placed.head.values())
    scores = s3.tune(run, steps=2, save=tmp_path / "adapter", **FAST)
    again = s3.evaluate(tmp_path / "adapter", task=folder, load={"device_map": PLACES["bert"], "dtype": "bfloat16"})
    assert again["loss"] == pytest.approx(scores.metrics["loss"], rel=1e-6)
    assert s3.explain(run, steps=2, **FAST).n_rows == 8


@pytest.mark.filterwarnings("ignore:Some parameters are on the meta device")
def test_what_is_refused(tiny_folder):
    own = {"task": "a", "backbone": "b", "budget": 1}
    for value, says in (
        ("all", "expected auto, or a mapping of module names .*found 'all'"),
        ({}, "expected auto, or a mapping"),
        ({"": 0, "x": "cuda:1"}, "expected one device to compute on, found 0 and cuda:1"),
        ({"": None}, "expected auto, or a mapping .*found None"),
    ):
        with pytest.raises(ConfigError, match=f"device_map: {says}"):
            SearchConfig(**own, device_map=value)
    with pytest.raises(ConfigError, match="expected another than 'exact' with device_map"):
        SearchConfig(**own, device_map="auto", mode="exact")
    for places, says in (
        ({"model": "disk"}, "expected names of modules of BertForSequenceClassification, found 'model'"),
        ({"bert": "disk"}, "expected a place for each weight, found none for classifier"),
        ("gpu", "expected auto, or module names with places, found 'gpu'"),
        ({"": "gpu"}, "expected cpu, disk or a device that is here, found 'gpu'"),
        ({"": "cuda:9"}, "expected cpu, disk or a device that is here, found 'cuda:9'"),
    ):
        with pytest.raises(ConfigError, match=f"device_map: {says}"):
            load_backbone(tiny_folder("bert"), device_map=places)
    assert SearchConfig(**own, device_map='{"": "cpu"}').device_map == {"": "cpu"}
    given = {**DATA, "load": {**DATA["load"], "device_map": PLACES["bert"]}, "backbone": tiny_folder("bert")}
    with pytest.raises(ConfigError, match="device_map: expected a method that leaves the backbone frozen, found 'full'"):
        s3.tune("full", steps=1, **given, **FAST)
    with pytest.raises(ConfigError, match="device_map: expected weights in memory for a score that reads them"):
        s3.score(method="gora", space="S3PET-L", budget=400, **given, progress=False)
