"""A position's output belongs to whoever called it: changed in place, it gives the same numbers and gradients."""

from __future__ import annotations

import pytest
import torch
from family_checks import scramble
from tiny_families import TINY

from s3pet_viz.backbones import positions
from s3pet_viz.pet import PET_CLASSES, Space, SpaceEntry, candidate_gates, insert, load_space

PLACES = {"linear": ("SelfAttn.?", "FFN.W*"), "norm": ("*.LN",), "block": ("SelfAttn", "FFN")}


#: Each PET type wherever it can go.
ALONE = {
    name: SpaceEntry(name, tuple(m for kind in cls.kinds for m in PLACES[kind])) for name, cls in PET_CLASSES.items()
}
SPACES = {
    **{name: Space(name, (entry,)) for name, entry in ALONE.items()}, "S3PET-M": load_space("S3PET-M"),
    "all at once": Space("all", tuple(ALONE.values())),
    "LoRA of rank 3": Space("r3", (SpaceEntry("LoRA", PLACES["linear"], options={"r": 3}),)),
}  # fmt: skip


def _model(tiny):
    return tiny.model(layers=1).eval().requires_grad_(False)


def _changed(output, in_place):
    """As Longformer does with its queries: divided, and moved."""
    main = output[0] if isinstance(output, tuple) else output
    if in_place:
        main /= 8**0.5
        main += 0.125
    else:
        main = main / 8**0.5 + 0.125
    return (main, *output[1:]) if isinstance(output, tuple) else main


def _logits(model, tiny, found, in_place):
    """With every position's output changed."""
    handles = [p.target.register_forward_hook(lambda m, a, out: _changed(out, in_place)) for p in found]
    logits = model(**tiny.inputs()).logits
    for handle in handles:
        handle.remove()
    return logits


def _passed(model, tiny, found, pets, z, in_place):
    """A sum over the logits, and the gradients of z, the PET weights and the embedding."""
    table = model.get_input_embeddings().weight.requires_grad_()
    gate = None if z is None else z.clone().requires_grad_()
    with pets.gated(gate):
        logits = _logits(model, tiny, found, in_place)
    total = (logits * torch.linspace(-1, 1, logits.numel()).view(logits.shape).to(logits)).sum()
    asked = [*([] if gate is None else [gate]), table, *pets.parameters()]
    grads = torch.autograd.grad(total, asked, allow_unused=True)
    table.requires_grad_(False)
    return [total.detach(), *(torch.zeros(()) if g is None else g for g in grads)]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
@pytest.mark.filterwarnings("ignore:space .* names what this backbone lacks")
def test_an_output_may_be_changed_in_place(tiny, space):
    model = _model(tiny)
    found = positions(model)
    gates, _ = candidate_gates(found, SPACES[space])
    pets = scramble(insert(model, gates))
    z = torch.rand(len(gates), generator=torch.Generator().manual_seed(4))
    shut = [frozenset(), frozenset(range(0, len(gates), 2)), frozenset(range(len(gates)))]
    if SPACES[space].entries[0] in ALONE.values() and len(SPACES[space].entries) == 1:
        shut.pop()  # where no PET computes, spaces differ in nothing: "all at once" has each type, closed
    for pets.fused in (True, False):
        for closed in shut:
            pets.closed = closed
            for gate in (z, None):
                for a, b in zip(*(_passed(model, tiny, found, pets, gate, way) for way in (False, True)), strict=True):
                    assert torch.equal(a, b)
    pets.detach()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
def test_so_it_may_where_nothing_is_differentiated(tiny, context):
    model = _model(tiny)
    found = positions(model)
    pets = scramble(insert(model, candidate_gates(found, SPACES["all at once"])[0]))
    made = []
    for in_place in (False, True):
        with context():
            made.append(_logits(model, tiny, found, in_place))
    assert torch.equal(*made)
    pets.detach()
