"""What the PET modules mean on each family's own linear layers and norms, and their fused forms there."""

from __future__ import annotations

import pytest
import torch
from family_checks import EVERYTHING, scramble
from tiny_families import TINY, tiny_family
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

import s3pet_viz.pet.fused as fused_module
from s3pet_viz.analysis.grid import row_order
from s3pet_viz.backbones import is_conv1d, positions, wrap_backbone
from s3pet_viz.errors import SpaceError
from s3pet_viz.pet import Space, SpaceEntry, candidate_gates, insert, load_space
from s3pet_viz.tuning.baselines import manual_structure

#: What can be said by the weights that a model has.
WEIGHTS = Space(
    "weights",
    (
        SpaceEntry("LoRA", ("SelfAttn.?", "FFN.W*"), options={"r": 2}), SpaceEntry("LNFit", ("*.LN",)),
        SpaceEntry("BitFit", ("SelfAttn.?", "FFN.W*")),
    ),
)  # fmt: skip

every = pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
RMS = (T5LayerNorm, LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm)


@pytest.fixture
def in_double(monkeypatch):
    """transformers takes root mean squares in float32 even in a float64 model; then only six digits could be compared."""

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))

    def gemma(self, x):
        return (1 + self.weight) * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))

    for norm in RMS:
        monkeypatch.setattr(norm, "forward", forward)
    monkeypatch.setattr(GemmaRMSNorm, "forward", gemma)
    monkeypatch.setattr(fused_module, "_SQUARES", torch.float64)


def passed(model, tiny, pets, z, *, fused):
    """A sum over the logits, and the gradients of z, of the PET weights, and of the embedding (through everything)."""
    pets.fused = fused
    table = model.get_input_embeddings().weight.requires_grad_()
    gate = z.clone().requires_grad_()
    with pets.gated(gate):
        out = model(**tiny.inputs()).logits
    total = (out * torch.linspace(-1, 1, out.numel()).view(out.shape).to(out)).sum()
    grads = torch.autograd.grad(total, [gate, table, *pets.parameters()], allow_unused=True)
    table.requires_grad_(False)
    return [total.detach(), *(torch.zeros(()) if g is None else g for g in grads)]


@every
@pytest.mark.usefixtures("in_double")
def test_fused_forms_give_the_plain_ones_numbers(tiny):
    model = tiny.model().double().eval().requires_grad_(False)
    gates, _ = candidate_gates(positions(model), EVERYTHING)
    pets = scramble(insert(model, gates))
    patched = {type(m).__name__ for m in model.modules() if "forward" in vars(m)}
    z = torch.rand(len(gates), generator=torch.Generator().manual_seed(4)).double()
    plain, fused = (passed(model, tiny, pets, z, fused=f) for f in (False, True))
    for a, b in zip(plain, fused, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10 * float(a.abs().max() + 1))
    linear = "Conv1D" if tiny.family == "gpt2" else "Linear"
    norms = {type(p.target).__name__ for p in positions(model) if p.kind == "norm"}
    assert patched == {linear, *(norms - {"GemmaRMSNorm"})}  # Gemma's takes the plain form


@every
def test_a_bfloat16_model_stays_one(tiny):
    model = tiny.model().to(torch.bfloat16).eval().requires_grad_(False)
    pets = insert(model, candidate_gates(positions(model), load_space("S3PET-M"))[0])
    out = model(**tiny.inputs())
    assert out.logits.dtype == torch.bfloat16
    out.loss.backward()
    assert {p.grad.dtype for p in pets.parameters() if p.grad is not None} == {torch.bfloat16}


@every
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.usefixtures("in_double")
def test_deltas_are_changes_of_the_weights(tiny, fused):
    """LoRA adds s B A to a matrix (transposed in GPT-2), LNFit to a norm's own weight (Gemma's 1 + w), BitFit to a bias."""
    model, changed = (tiny.model().double().eval().requires_grad_(False) for _ in range(2))
    twins = {p.name: p.target for p in positions(changed)}
    pets = scramble(insert(model, candidate_gates(positions(model), WEIGHTS)[0]))
    pets.fused = fused
    with torch.no_grad():
        for gate, pet in zip(pets.gates, pets, strict=True):
            target = twins[gate.position]
            if gate.pet_type == "LoRA":
                update = 8 * pet.lora_B @ pet.lora_A
                target.weight += update.t() if is_conv1d(target) else update
            elif gate.pet_type == "LNFit":
                target.weight += pet.weight
            else:
                target.bias = nn.Parameter(pet.bias + (0 if target.bias is None else target.bias))
        torch.testing.assert_close(
            model(**tiny.inputs()).logits, changed(**tiny.inputs()).logits, rtol=1e-9, atol=1e-9
        )


# -- one matrix for queries, keys and values -----------------------------------------------------------------


def test_who_asks_for_queries_gets_the_matrix_that_makes_them():
    model = tiny_family("gpt2").model()
    gates, missing = candidate_gates(positions(model), load_space("S3PET-M"))
    assert missing == []
    at = [g for g in gates if g.position == "h.1.attn.c_attn"]
    assert [(g.module, g.pet_type, g.n_params) for g in at] == [("SelfAttn.QKV", "LoRA", 32 + 96), ("SelfAttn.QKV", "BitFit", 96)]
    assert row_order(gates)[:3] == ["SelfAttn.QKV · LoRA", "SelfAttn.QKV · BitFit", "SelfAttn.O · LoRA"]
    backbone = wrap_backbone(model, tiny_family("gpt2").make_tokenizer())
    manual = manual_structure("LoRA", backbone)
    assert [g.position for g in manual.gates] == ["h.0.attn.c_attn", "h.1.attn.c_attn"]
    own = Space("own", (SpaceEntry("LoRA", ("SelfAttn.QKV",)),))
    assert [g.key for g in candidate_gates(positions(model), own)[0]] == [g.key for g in manual.gates]


def test_two_wishes_for_one_matrix():
    space = Space("two", (SpaceEntry("LoRA", ("SelfAttn.Q",)), SpaceEntry("LoRA", ("SelfAttn.V",), options={"r": 4})))
    with pytest.raises(SpaceError, match=r"LoRA at h\.0\.attn\.c_attn is asked for twice"):
        candidate_gates(positions(tiny_family("gpt2").model()), space)
