"""Frozen weights in half precision: half the bytes, nearly the same search, and a resumed one goes on bit for bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from problems import MOOD, mood_data, save_tiny, tiny_model, tokenizer_of

import s3pet_viz as s3
from s3pet_viz.engine.attached import attached

FAST = {"steps": 3, "batch_size": 8, "progress": False, "device": "cpu", "budget": 400}


class Look(s3.Callback):
    """Stops after so many steps; keeps the type of what is trained."""

    def __init__(self, steps=99):
        self.steps = steps

    def on_step_end(self, search, step, result):
        self.trained = search.state.w.flat.dtype
        if step + 1 == self.steps:
            search.request_stop("enough")


@pytest.fixture
def task(tmp_path):
    (folder := tmp_path / "mood").mkdir()
    (folder / "task.json").write_text(json.dumps(MOOD))
    for name, rows in mood_data(24, 8).items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def held(monkeypatch):
    """Bytes of the frozen weights of each search, by their type, while it runs."""
    seen = []

    def keep(backbone, *rest):
        bytes_of = dict.fromkeys((torch.float32, torch.bfloat16, torch.float16), 0)
        for name, p in backbone.model.named_parameters():
            if name not in backbone.head:
                bytes_of[p.dtype] += p.nbytes
        seen.append(bytes_of)
        return attached(backbone, *rest)

    monkeypatch.setitem(s3.search.__wrapped__.__globals__, "attached", keep)
    return seen


@pytest.mark.parametrize("form", ["t5", "bert"])
def test_half_the_bytes_and_nearly_the_same_search(tmp_path, task, held, form):
    backbone, alphas = save_tiny(form, tmp_path / "base"), {}
    for dtype in ("float32", "bfloat16", "float16"):
        look, given = Look(), {"task": task, "backbone": backbone, "dtype": dtype}
        whole = s3.search(**given, out=tmp_path / f"whole-{dtype}", callbacks=[look], **FAST)
        assert (whole.config["dtype"], look.trained) == (dtype, torch.float32)
        alphas[dtype] = whole.alpha()
        if dtype != "float32":
            s3.search(**given, out=tmp_path / dtype, callbacks=[Look(1)], **FAST)
            run = s3.search(resume=tmp_path / dtype, progress=False)
            assert (run.alphas() == whole.alphas()).all()
    single, bfloat16, float16 = held[0], held[1], held[4]
    assert sum(bfloat16.values()) == bfloat16[torch.bfloat16] == single[torch.float32] / 2
    rest = float16[torch.float32]  # norms, and T5's wo, which transformers keeps so
    assert 0 < rest < (0.2 if form == "t5" else 0.05) * single[torch.float32]
    assert sum(float16.values()) == (single[torch.float32] - rest) / 2 + rest
    for dtype in ("bfloat16", "float16"):
        # A gradient near 0 may change its sign, and AdamW's step with it: the most are the same.
        assert np.median(np.abs(alphas[dtype] - alphas["float32"])) < 0.005
    assert (alphas["float16"] != alphas["float32"]).any()


def test_a_float16_model_of_the_callers_comes_back_as_it_was(task):
    model = tiny_model("bert").half()
    before = {n: (p.dtype, p.data_ptr(), p.detach().clone()) for n, p in model.named_parameters()}
    given = {"task": task, "model": model, "tokenizer": tokenizer_of("bert"), "progress": False, "device": "cpu"}
    scores = s3.tune("full", steps=1, evaluations=1, **given)
    assert np.isfinite(scores.metrics["loss"])
    for name, p in model.named_parameters():
        dtype, place, value = before[name]
        assert (p.dtype, p.data_ptr()) == (dtype, place)
        assert torch.equal(p, value)
    assert not model.get_input_embeddings()._forward_hooks


def test_runs_of_before_had_float32():
    old = {"task": "sentiment", "backbone": "tiny-t5", "budget": "1%"}
    assert s3.SearchConfig.from_dict(old).dtype == "float32"
