"""PET modules on live backbones: what changes, and above all what does not."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from problems import EVERYTHING, FORMS, assert_same, snapshot, tiny_model
from torch import nn

from s3pet_viz.backbones import positions
from s3pet_viz.errors import StructureError
from s3pet_viz.pet import PETs, Space, SpaceEntry, candidate_gates, insert
from s3pet_viz.pet.insertion import _hook
from s3pet_viz.pet.modules import PET
from s3pet_viz.structure import Gate


def gates_of(model: nn.Module, space: Space = EVERYTHING) -> list[Gate]:
    return candidate_gates(positions(model), space)[0]


def scramble(pets: PETs, scale: float = 0.3) -> PETs:
    generator = torch.Generator().manual_seed(9)
    for p in pets.parameters():
        p.data = scale * torch.randn(p.shape, generator=generator).to(p.dtype)
    return pets


def inputs(form: str) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[5, 9, 12, 7, 1], [8, 6, 1, 0, 0]])
    if form == "roberta":
        ids = torch.where(ids == 0, 1, ids)  # its padding
    made = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])}
    return {**made, "labels": torch.tensor([[4, 1], [6, 1]])} if form in ("t5", "gated") else made


@torch.no_grad()
def logits(model: nn.Module, form: str) -> torch.Tensor:
    return model(**inputs(form)).logits


@pytest.fixture(params=FORMS)
def form(request) -> str:
    return request.param


@pytest.fixture
def model(form) -> nn.Module:
    return tiny_model(form).eval().requires_grad_(False)


def test_the_backbone_stays_what_it_is(model, form):
    before, start = snapshot(model), logits(model, form)
    names = [n for n, _ in model.named_parameters()]
    modules = [n for n, _ in model.named_modules()]
    pointers = {n: p.data_ptr() for n, p in model.named_parameters()}
    pets = scramble(insert(model, gates_of(model)))
    assert [n for n, _ in model.named_parameters()] == names
    assert [n for n, _ in model.named_modules()] == modules
    assert {n: p.data_ptr() for n, p in model.named_parameters()} == pointers  # nothing was copied or moved
    assert not {p.data_ptr() for p in pets.parameters()} & set(pointers.values())
    assert not any(p.requires_grad for p in model.parameters())
    assert_same(model, before)
    assert not torch.allclose(logits(model, form), start, atol=1e-3)  # they do something
    pets.detach()
    assert_same(model, before)
    assert torch.equal(logits(model, form), start)
    assert all(not m._forward_hooks for m in model.modules())


def test_pets_hold_no_reference_to_the_backbone():
    model = tiny_model("t5")
    pets = insert(model, gates_of(model))
    assert sum(p.numel() for p in pets.parameters()) == sum(g.n_params for g in pets.gates)
    pets.detach()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_two_structures_in_turn(model, form):
    start = logits(model, form)
    gates = gates_of(model)
    outputs = []
    for half in (gates[::2], gates[1::2], gates[::2]):
        pets = scramble(insert(model, half))
        outputs.append(logits(model, form))
        pets.detach()
        assert torch.equal(logits(model, form), start)
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[1])


def test_the_order_of_gates_says_nothing(model, form):
    gates = gates_of(model)
    first = insert(model, gates)
    with torch.no_grad():
        for w in first.weights().values():
            w.add_(0.05)
    expected = logits(model, form)
    kept = {n: w.detach().clone() for n, w in first.weights().items()}
    first.detach()
    second = insert(model, gates[::-1])
    assert second.gates == tuple(gates[::-1])
    assert list(second.weights()) != list(kept)
    with torch.no_grad():
        for n, w in second.weights().items():
            w.copy_(kept[n])
    torch.testing.assert_close(logits(model, form), expected, rtol=1e-5, atol=1e-6)


def test_the_start_of_a_gate_depends_on_no_other_gate():
    model = tiny_model("t5")
    gates = gates_of(model)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    every = {n: w.clone() for n, w in insert(model, gates).weights().items()}
    assert torch.equal(torch.get_rng_state(), state)  # nor does it spend the caller's random numbers
    for gate in (gates[0], gates[7], gates[-1]):
        torch.manual_seed(gate.index)
        for name, weight in insert(model, [replace(gate, index=0)]).weights().items():
            assert torch.equal(weight, every[name])
    other = insert(model, gates, seed=1).weights()
    drawn = [n for n, w in every.items() if w.any()]
    assert drawn
    assert all(not torch.equal(every[n], other[n]) for n in drawn)
    lora = [n for n in drawn if n.endswith("q.LoRA.lora_A")]
    assert not torch.equal(every[lora[0]], every[lora[1]])  # and two positions do not start alike


def test_the_start_is_close_to_the_pretrained_model(model, form):
    zero = Space("zero", tuple(e for e in EVERYTHING.entries if e.type in ("LoRA", "BitFit", "LNFit")))
    start = logits(model, form)
    insert(model, gates_of(model, zero))
    assert torch.equal(logits(model, form), start)


def test_gates_scale_their_own_delta(model, form):
    pets = scramble(insert(model, gates_of(model)))
    full = logits(model, form)
    with pets.gated(torch.ones(len(pets))):
        torch.testing.assert_close(logits(model, form), full)
    assert torch.equal(logits(model, form), full)  # outside the context every gate is 1
    for i in range(0, len(pets), 5):
        z = torch.zeros(len(pets))
        z[i] = 0.7
        with pets.gated(z):
            one = logits(model, form)
        alone = insert_alone(model, pets, i, 0.7, form)
        torch.testing.assert_close(one, alone, rtol=1e-4, atol=1e-5)


def insert_alone(model: nn.Module, pets: PETs, index: int, z: float, form: str) -> torch.Tensor:
    """Gate `index` on a fresh copy of the backbone, its output-side weights scaled by z by hand."""
    copy = tiny_model(form).eval()
    single = insert(copy, [pets.gates[index]])
    last = {
        "LoRA": ["lora_B"], "BitFit": ["bias"], "LNFit": ["weight"], "Adapter": ["up", "up_bias"],
        "LowRankAdapter": ["up_right", "up_bias"], "Compacter": ["up_right", "up_bias"],
    }[pets.gates[index].pet_type]  # fmt: skip
    with torch.no_grad():
        for (name, mine), theirs in zip(single[0].named_parameters(), pets[index].parameters(), strict=True):
            mine.copy_(theirs * (z if name in last else 1))
    return logits(copy, form)


def test_an_error_inside_the_context_closes_it():
    model = tiny_model("t5")
    pets = insert(model, gates_of(model)[:3])
    with pytest.raises(KeyError), pets.gated(torch.zeros(3)):
        raise KeyError
    assert pets.z is None


class _Stub(PET):
    """A delta that is a known function of what it reads."""

    def __init__(self, method: str, function) -> None:
        nn.Module.__init__(self)
        self.method, self.function = method, function  # type: ignore[misc]

    def delta(self, x, z):
        return self.function(x) * (1 if z is None else z)


@pytest.mark.parametrize("as_tuple", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_parallel_terms_come_first_and_sequential_ones_read_their_sum(order, as_tuple):
    class Target(nn.Module):
        def forward(self, x):
            return (10 * x, "cache", None) if as_tuple else 10 * x

    stubs = [
        _Stub("parallel", lambda x: x + 1),
        _Stub("sequential", lambda h: h * h),
        _Stub("parallel", lambda x: 3 * x),
        _Stub("sequential", lambda h: 2 * h),
    ]
    target, pets = Target(), type("Holder", (), {"z": None, "closed": frozenset(), "fused": False})()
    target.register_forward_hook(_hook(pets, [(k, stubs[i]) for k, i in enumerate(order)]))
    x = torch.tensor([1.0, 2.0])

    def run():
        made = target(x)
        if as_tuple:
            assert made[1:] == ("cache", None)
            return made[0]
        return made

    h = 10 * x + (x + 1) + 3 * x
    assert torch.equal(run(), h + h * h + 2 * h)  # neither sequential term reads the other
    z = torch.tensor([0.5, 0.25, 2.0, 3.0])
    pets.z = [z[i] for i in order]
    h = 10 * x + 0.5 * (x + 1) + 2 * 3 * x
    assert torch.equal(run(), h + 0.25 * h * h + 3 * 2 * h)


def test_order_on_a_live_layer():
    """LoRA, then BitFit and an adapter from their sum, on the one dense layer that BERT has for both."""
    model = tiny_model("bert").double().eval()
    name = "encoder.layer.0.attention.output.dense"
    gates = [g for g in gates_of(model) if g.position == name]
    assert [(g.module, g.pet_type) for g in gates] == [
        ("SelfAttn.O", "LoRA"), ("SelfAttn.O", "BitFit"), ("SelfAttn", "Adapter"), ("SelfAttn", "LowRankAdapter"),
        ("SelfAttn", "Compacter"),
    ]  # fmt: skip
    pets = scramble(insert(model, gates))
    assert {p.dtype for p in pets.parameters()} == {torch.float64}
    target = model.base_model.get_submodule(name)
    x = torch.randn(3, 32, dtype=torch.float64)
    h = nn.functional.linear(x, target.weight, target.bias) + pets[0].delta(x, None)
    expected = h + pets[1].bias + sum(p.delta(h, None) for p in list(pets)[2:])
    torch.testing.assert_close(target(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_pets_take_the_backbones_precision(dtype):
    model = tiny_model("t5").to(dtype).eval()
    pets = scramble(insert(model, gates_of(model)))
    assert {p.dtype for p in pets.parameters()} == {dtype}
    assert logits(model, "t5").dtype == dtype


# -- errors --------------------------------------------------------------------------------------------


def some_gate(of: str = "LoRA", **changes) -> Gate:
    gate = next(g for g in gates_of(tiny_model("t5")) if g.pet_type == of)
    return replace(gate, **changes)


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ({"position": "encoder.block.7.layer.0.SelfAttention.q"}, "no position 'encoder.block.7.layer.0.SelfAttention.q'"),
        ({"module": "SelfAttn.LN"}, r"no position .*\(SelfAttn.LN\)"),  # there is a linear layer
        ({"of": "LNFit", "module": "SelfAttn.Q"}, r"no position .*\(SelfAttn.Q\)"),
        ({"of": "Adapter", "position": "encoder.block"}, r"no position 'encoder.block' \((SelfAttn|FFN)\)"),
        ({"pet_type": "Adapter", "options": {}}, "Adapter cannot go on .* which is a linear"),
        ({"pet_type": "LNFit", "options": {}}, "LNFit cannot go on .* which is a linear"),
        ({"of": "LNFit", "pet_type": "LoRA"}, "LoRA cannot go on .* which is a norm"),
        ({"of": "Adapter", "pet_type": "BitFit", "options": {}}, "BitFit cannot go on .* which is a block"),
        ({"n_params": 65}, "has 64 parameters in this backbone, expected 65; the structure is for another backbone"),
        ({"options": {"r": 2}}, "has 128 parameters in this backbone, expected 64"),
        ({"options": {"rank": 1}}, "LoRA has no option 'rank'"),
        ({"options": {"r": 0}}, "whole number of at least 1, found 0"),
        ({"options": {"r": 1, "lora_alpha": "16"}}, "expected a positive number, found '16'"),
        ({"pet_type": "Prompt"}, "expected a PET type among .* found 'Prompt'"),
    ],
)  # fmt: skip
def test_a_structure_for_another_backbone(gate, says):
    model = tiny_model("t5")
    good = gates_of(model)[0]
    with pytest.raises(StructureError, match=says):
        insert(model, [good, some_gate(**gate)])
    assert all(not m._forward_hooks for m in model.modules())  # nothing was attached on the way


# -- generation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["t5", "gated"])
def test_generation_with_a_cache_is_generation_without(form):
    model = tiny_model(form).eval()
    gates = gates_of(model, Space("cross", (*EVERYTHING.entries, SpaceEntry("LoRA", ("CrossAttn.?",)))))
    given = {k: v for k, v in inputs(form).items() if k != "labels"}

    def say(use_cache: bool) -> list[list[int]]:
        made = model.generate(**given, use_cache=use_cache, max_new_tokens=8, min_new_tokens=8, do_sample=False)
        return made.tolist()

    plain = say(True)
    pets = scramble(insert(model, gates), 1.0)
    with_cache = say(True)
    assert with_cache == say(False)
    assert with_cache != plain
    pets.detach()
    assert say(True) == plain
