"""Units of one position: what a space offers, how they begin, and that they are one low-rank product."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from export_problems import batch_of
from tiny_families import tiny_family

import s3pet_viz.pet.insertion as insertion
from s3pet_viz.backbones import positions
from s3pet_viz.config.names import SPACES
from s3pet_viz.errors import SpaceError, StructureError
from s3pet_viz.pet import Space, SpaceEntry, candidate_gates, insert, load_space
from s3pet_viz.structure import Structure

RANKS = {"type": "LoRA", "modules": ["SelfAttn.Q"], "options": {"ranks": 3}}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (RANKS | {"options": {"ranks": 0}}, "option 'ranks': expected a whole number from 1 to 64, found 0"),
        (RANKS | {"options": {"ranks": -1}}, "option 'ranks': expected a whole number from 1 to 64, found -1"),
        (RANKS | {"options": {"ranks": 2.5}}, "option 'ranks': expected a whole number from 1 to 64, found 2.5"),
        (RANKS | {"options": {"ranks": True}}, "option 'ranks': expected a whole number from 1 to 64, found True"),
        (RANKS | {"options": {"ranks": 65}}, "option 'ranks': expected a whole number from 1 to 64, found 65"),
        (RANKS | {"options": {"ranks": 2, "r": 1}}, "expected LoRA's option 'r' (its rank) or 'ranks'"),
        (RANKS | {"type": "BitFit"}, "BitFit has no option 'ranks'"),
        (RANKS | {"type": "LowRankAdapter"}, "LowRankAdapter has no option 'ranks'"),
    ],
)
def test_what_a_space_cannot_offer(entry, says):
    with pytest.raises(SpaceError) as error:
        load_space({"gates": [entry]})
    assert says in str(error.value)
    space = Space("mine", (SpaceEntry(entry["type"], ("SelfAttn.Q",), options=entry["options"]),))
    if entry["type"] == "LoRA":
        with pytest.raises(SpaceError, match="space mine"):
            candidate_gates(positions(tiny_family("bert").model()), space)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "gemma", "bart"])
def test_lora_ranks_covers_every_linear_layer(name):
    assert "LoRA-ranks" in SPACES
    found = positions(tiny_family(name).model())
    gates, missing = candidate_gates(found, load_space("LoRA-ranks"))
    assert not missing
    linear = {p.name: p.in_features + p.out_features for p in found if p.kind == "linear"}
    assert {g.position for g in gates} == set(linear)
    assert [g.unit for g in gates] == [*range(8)] * len(linear)
    assert all(g.n_params == linear[g.position] and g.options == {"r": 1, "lora_alpha": 16} for g in gates)


def test_two_entries_must_agree():
    space = load_space({"gates": [RANKS, RANKS | {"options": {"ranks": 4}}]})
    with pytest.raises(SpaceError, match="asked for twice"):
        candidate_gates(positions(tiny_family("bert").model()), space)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_units_are_one_product(name, fused, monkeypatch):
    """In float64: the same output and gradients as one LoRA with the units side by side, gate by gate."""
    tiny = tiny_family(name)
    calls = []
    ranks = load_space(
        {"gates": [RANKS | {"modules": ["SelfAttn.O", "FFN.*"]}, {"type": "BitFit", "modules": ["FFN.W2"]}]}
    )
    if name == "llama":
        ranks = load_space({"gates": [RANKS | {"modules": ["SelfAttn.O", "FFN.*"]}]})
    whole = tiny.model().double().requires_grad_(False).eval()
    parts = tiny.model().double().requires_grad_(False).eval()
    gates, _ = candidate_gates(positions(whole), ranks)
    units = insert(whole, gates)
    for target in (insertion,):
        monkeypatch.setattr(target, "lora_delta", lambda *a, real=target.lora_delta: calls.append(1) or real(*a))
    starts = [p for n, p in units.weights().items() if n.endswith("lora_A")]
    assert len({tuple(p.flatten().tolist()) for p in starts}) == len(starts)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in units.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    z = torch.rand(len(gates), generator=generator, dtype=torch.float64).requires_grad_()
    units.fused = fused
    units.closed = frozenset([1])
    batch = batch_of(whole)
    with units.gated(z):
        made = whole(**batch).logits
    n_loras = len({g.position for g in gates if g.pet_type == "LoRA"})
    assert len(calls) == (0 if fused else n_loras)
    # The same, added to the weights.
    weights, places = units.weights(), {p.name: p.target for p in positions(parts)}
    deltas: dict[str, torch.Tensor] = {}
    for i, gate in enumerate(gates):
        if i == 1:
            continue
        start = ".".join(gate.key)
        if gate.pet_type == "LoRA":
            delta = 16 * z[i] * weights[f"{start}.lora_B"] @ weights[f"{start}.lora_A"]
            target = f"{gate.position}.weight"
            delta = delta.t() if name == "gpt2" else delta
        else:
            delta, target = z[i] * weights[f"{start}.bias"], f"{gate.position}.bias"
        deltas[target] = deltas.get(target, 0) + delta
    prefix = "transformer." if name == "gpt2" else "model."
    state = {
        f"{prefix}{n}": places[n.rpartition(".")[0]].get_parameter(n.rpartition(".")[2]) + d for n, d in deltas.items()
    }
    expected = torch.func.functional_call(parts, state, (), batch).logits
    torch.testing.assert_close(made, expected, atol=1e-9, rtol=1e-9)
    wanted = [p for i, pet in enumerate(units) if i != 1 for p in pet.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(made.square().mean(), [z, *wanted]),
        torch.autograd.grad(expected.square().mean(), [z, *wanted]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-7)
    units.detach()


def test_only_units_of_rank_one_go_in():
    model = tiny_family("bert").model()
    gates, _ = candidate_gates(positions(model), load_space({"gates": [RANKS]}))
    with pytest.raises(StructureError, match="expected units of LoRA of rank 1"):
        insert(model, [replace(gates[0], options={"r": 2})])
    with pytest.raises(StructureError, match="as one gate or as units"):
        insert(model, [gates[0], replace(gates[1], unit=None)])
    assert Structure(tuple(gates[:2])) == Structure(tuple(gates[1:3]))
