"""Checkpoints with something wrong in them: a search resumes, or says that its checkpoint is damaged."""

from __future__ import annotations

import json

import pytest
import torch
from fuzz_problems import NO_FILE, WRONG, changed, fuzz, outcome, wrong_bytes
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from s3pet_viz.engine import SearchConfig
from s3pet_viz.engine.api import make_state
from s3pet_viz.engine.checkpoint import FILE, load_checkpoint, next_step_of, save_checkpoint
from s3pet_viz.engine.stability import Stability

PRINT = {"backbone parameters": 10, "gates": "abc", "training rows": 8, "data": "def"}
META = {
    "next_step": "3",
    "fingerprint": json.dumps(PRINT),
    "stability": json.dumps({"selected": [0, 2], "since": 1, "latest": 2, "unchanged": 1}),
}


class Nothing:
    """The weights of a problem, without the problem."""

    closed = frozenset()

    def __init__(self) -> None:
        self.weights = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))]
        self.lr_scale = [1.0, 1.0]


def fresh():
    return make_state(Nothing(), [2, 3, 4], 5, SearchConfig("x", "y", 5), 1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("fuzz-checkpoint")
    stability = Stability(2)
    stability.load(json.loads(META["stability"]))
    save_checkpoint(made, fresh(), next_step=3, fingerprint=PRINT, stability=stability)
    return made


def use(folder):
    state = fresh()
    stability = Stability(2)
    step = load_checkpoint(folder, state, fingerprint=PRINT, stability=stability)
    assert next_step_of(folder) == step
    assert 0 <= step < 2**53
    assert torch.isfinite(state.alpha).all()
    assert state.alpha.dtype == fresh().alpha.dtype
    assert torch.isfinite(state.w.flat).all()
    assert stability.patience == 2
    state.alpha_opt.update(state.alpha, torch.ones_like(state.alpha), 0.1)
    state.w_opt.update(state.w.flat, torch.ones_like(state.w.flat), 0.1)


def test_bytes(folder):
    path = folder / FILE
    use(folder)

    @given(st.one_of(wrong_bytes(path.read_bytes()), st.sampled_from(NO_FILE)))
    @fuzz(80)
    def check(content):
        with changed(path, content):
            outcome("checkpoint, bytes", lambda: use(folder), names=FILE)

    check()


WORDS = st.sampled_from([json.dumps(w) for w in WRONG if w != "@deep@"] + ["", "{", "[" * 100_000, "9" * 5000, "-1", "3.5", "NaN", '{"a": 1, "a": 2}'])
DTYPES = st.sampled_from([torch.float16, torch.float64, torch.int64, torch.bool, torch.complex64, torch.bfloat16])
VALUES = st.sampled_from([float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e30])


@st.composite
def wrong_content(draw, data: bytes) -> bytes:
    tensors, meta = load(data), dict(META)
    name = draw(st.sampled_from([*tensors, *meta]))
    if name in meta:
        if draw(st.booleans()):
            meta[name] = draw(WORDS)
        else:
            del meta[name]
    else:
        how = draw(st.sampled_from(["drop", "shape", "flat", "type", "value", "value"]))
        if how == "drop":
            del tensors[name]
        elif how == "shape":
            tensors[name] = torch.zeros(draw(st.sampled_from([(), (0,), (1,), (3, 3), (10_000,)])))
        elif how == "flat":
            tensors[name] = tensors[name].reshape(1, -1)
        elif how == "type":
            tensors[name] = tensors[name].to(draw(DTYPES))
        else:
            tensors[name] = torch.full_like(tensors[name].to(torch.float64), draw(VALUES))
    return save(tensors, metadata=meta)


def test_content(folder):
    path = folder / FILE

    @given(wrong_content(path.read_bytes()))
    @fuzz(80)
    def check(content):
        with changed(path, content):
            outcome("checkpoint, content", lambda: use(folder), names=FILE)

    check()
