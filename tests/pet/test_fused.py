"""The fused forms give the plain forms' numbers: outputs and every gradient, on every backbone family."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from problems import FORMS, tiny_model
from torch import nn
from transformers.models.t5.modeling_t5 import T5LayerNorm

import s3pet_viz.pet.fused as fused_module
from s3pet_viz.backbones import positions
from s3pet_viz.pet import Space, SpaceEntry, candidate_gates, insert, load_space
from s3pet_viz.pet.fused import _Linear, _LowRankAdapter, _RMSNorm
from s3pet_viz.pet.insertion import _hook
from s3pet_viz.pet.modules import LowRankAdapter

SPACES = {
    "S3PET-M": load_space("S3PET-M"),
    "LoRA of rank 3": Space("r3", (SpaceEntry("LoRA", ("SelfAttn.?", "FFN.W*"), options={"r": 3}),)),
    "BitFit": Space("b", (SpaceEntry("BitFit", ("SelfAttn.?", "*.LN")),)),
    "everything": Space(
        "e",
        (
            SpaceEntry("LoRA", ("SelfAttn.?",)), SpaceEntry("BitFit", ("SelfAttn.?", "FFN.W*", "*.LN")),
            SpaceEntry("LNFit", ("*.LN",)), SpaceEntry("LowRankAdapter", ("SelfAttn", "FFN")),
            SpaceEntry("Compacter", ("FFN",)),
        ),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def squares_in_double(monkeypatch):
    """transformers sums T5's squares in float32 even in a float64 model; then only six digits could be compared."""

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))

    monkeypatch.setattr(T5LayerNorm, "forward", forward)
    monkeypatch.setattr(fused_module, "_SQUARES", torch.float64)


def inputs(form):
    ids = torch.tensor([[5, 9, 12, 7, 1], [8, 6, 1, 0, 0]])
    if form == "roberta":
        ids = torch.where(ids == 0, 1, ids)  # its padding
    made = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])}
    return {**made, "labels": torch.tensor([[4, 1], [6, 1]])} if form in ("t5", "gated") else made


def passed(model, form, pets, z, *, fused, weights=True):
    """Loss and the gradients of z, of the PET weights, and of the embedding (through everything)."""
    pets.fused = fused
    table = model.get_input_embeddings().weight.requires_grad_()
    own = list(pets.parameters()) if weights else []
    for p in pets.parameters():
        p.requires_grad_(weights)
    gate = z.clone().requires_grad_()
    with pets.gated(gate):
        out = model(**inputs(form))
    loss = out.loss if form in ("t5", "gated") else (out.logits * torch.arange(1.0, 3.0).to(z)).sum()
    grads = torch.autograd.grad(loss, [gate, table, *own], allow_unused=True)
    table.requires_grad_(False)
    return [loss.detach(), *(torch.zeros(()) if g is None else g for g in grads)]


def scrambled(model, space):
    gates, _ = candidate_gates(positions(model), SPACES[space])
    pets = insert(model, gates)
    generator = torch.Generator().manual_seed(9)
    for p in pets.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=generator).to(p.dtype)
    return pets, torch.rand(len(gates), generator=generator).double()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weights", [True, False], ids=["weights move", "weights fixed"])
def test_outputs_and_gradients_are_the_plain_ones(form, space, weights):
    model = tiny_model(form).double().eval().requires_grad_(False)
    pets, z = scrambled(model, space)
    plain = passed(model, form, pets, z, fused=False, weights=weights)
    fused = passed(model, form, pets, z, fused=True, weights=weights)
    for a, b in zip(plain, fused, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10 * float(a.abs().max() + 1))


@pytest.mark.parametrize("form", FORMS)
def test_without_gates_as_with_gates_of_one(form):
    model = tiny_model(form).double().eval().requires_grad_(False)
    pets, z = scrambled(model, "S3PET-M")
    with torch.no_grad():
        free = model(**inputs(form)).logits
        with pets.gated(torch.ones_like(z)):
            torch.testing.assert_close(model(**inputs(form)).logits, free, rtol=1e-9, atol=1e-9)


def test_the_fused_forms_are_in_use():
    model = tiny_model("t5").requires_grad_(False)
    pets, _ = scrambled(model, "S3PET-M")
    patched = [m for m in model.modules() if "forward" in vars(m)]
    assert {type(m).__name__ for m in patched} == {"Linear", "T5LayerNorm"}
    pets.detach()
    assert not [m for m in model.modules() if "forward" in vars(m) or m._forward_hooks]


@pytest.mark.parametrize("gates", [True, False], ids=["gated", "open"])
@pytest.mark.parametrize("parts", [(True, True), (True, False), (False, True)], ids=["both", "LoRA", "BitFit"])
@pytest.mark.parametrize("own_bias", [True, False])
def test_linear_gradients_against_differences(gates, parts, own_bias):
    make = lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    lora, shift = parts
    x, weight = make(2, 3, 5), torch.randn(4, 5, dtype=torch.float64)
    bias = torch.randn(4, dtype=torch.float64) if own_bias else None
    a, b = (make(2, 5), make(4, 2)) if lora else (None, None)
    zl = make(1).squeeze() if gates and lora else None
    zb = make(1).squeeze() if gates and shift else None
    arguments = (x, weight, bias, a, b, make(4) if shift else None, zl, zb, 8.0)
    assert torch.autograd.gradcheck(_Linear.apply, arguments)


def test_norm_and_adapter_gradients_against_differences():
    make = lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    assert torch.autograd.gradcheck(_RMSNorm.apply, (make(2, 3, 6), make(6), make(6), 1e-6))
    assert torch.autograd.gradcheck(_RMSNorm.apply, (make(4, 6), make(6), None, 1e-6))
    args = (make(2, 3, 6), make(6), make(3), make(3), make(3), make(6), make(6))
    assert torch.autograd.gradcheck(_LowRankAdapter.apply, (*args, make(1).squeeze()))
    assert torch.autograd.gradcheck(_LowRankAdapter.apply, (*args, None))


def test_a_second_derivative_is_refused_in_words():
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    y = _RMSNorm.apply(x, torch.ones(4, dtype=torch.float64, requires_grad=True), None, 1e-6)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice: set `fused = False`"):
        torch.autograd.grad(y.square().sum(), x, create_graph=True)


def test_trainable_backbones_take_the_plain_path():
    """The fused forms take the backbone's weights as frozen."""
    layer = nn.Sequential(tiny_model("t5"))[0].double()
    layer.requires_grad_(True)
    pets, z = scrambled(layer, "S3PET-M")
    with pets.gated(z):
        loss = layer(**inputs("t5")).loss
    weight = layer.encoder.block[0].layer[0].SelfAttention.q.weight
    assert torch.autograd.grad(loss, weight)[0].abs().sum() > 0
    pets.detach()


class _InFloat32(nn.Module):
    """A block that ends in float32 in the midst of mixed precision, as one that ends in a norm does on a GPU."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6).requires_grad_(False)

    def forward(self, x):
        return self.inner(x).float()


def test_an_adapter_on_a_float32_block_in_mixed_precision():
    block = _InFloat32()
    pet = LowRankAdapter(SimpleNamespace(in_features=6, out_features=6), {"reduction": 2})
    pet.reset(torch.Generator().manual_seed(0))
    pets = SimpleNamespace(z=None, closed=frozenset(), fused=True)
    handle = block.register_forward_hook(_hook(pets, [(0, pet)]))
    made = []
    for pets.fused in (True, False):
        pet.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = block(torch.arange(12.0).view(2, 6))
        assert out.dtype == torch.float32
        out.sum().backward()
        made.append([out.detach(), *(p.grad.clone() for p in pet.parameters())])
    handle.remove()
    for a, b in zip(*made, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("form", FORMS)
def test_in_mixed_precision_nothing_is_fused(form):
    """Blocks of encoders end in a norm, which autocast leaves in float32: their type alone does not tell."""
    model = tiny_model(form).eval().requires_grad_(False)
    pets, z = scrambled(model, "S3PET-M")
    made = []
    for fused in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made.append(passed(model, form, pets, z.float(), fused=fused))
    for a, b in zip(*made, strict=True):
        assert torch.equal(a, b)


def test_t5_norm_is_transformers_own_to_the_last_digit(monkeypatch):
    monkeypatch.undo()
    norm = T5LayerNorm(16).requires_grad_(False)
    x = torch.randn(3, 5, 16)
    assert torch.equal(_RMSNorm.apply(x, norm.weight, None, norm.variance_epsilon), norm(x))
