"""A structure of chosen ranks computes the same in PEFT, merged, and in an adapter's folder."""

from __future__ import annotations

import pytest
import torch
from export_problems import batch_of, gap, logits, structure_of
from peft import PeftModel
from tiny_families import tiny_family

from s3pet_viz.backbones import Backbone, load_backbone, wrap_backbone
from s3pet_viz.export import Adapter, merge, to_peft
from s3pet_viz.pet import Space, SpaceEntry, insert
from s3pet_viz.structure import Structure, from_s3delta, to_s3delta

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
#: Another scale at one module than elsewhere.
SPACE = Space(
    "ranks",
    (
        SpaceEntry("LoRA", ("SelfAttn.O", "FFN.*"), options={"ranks": 4}),
        SpaceEntry("LoRA", ("SelfAttn.Q",), options={"ranks": 5, "lora_alpha": 3}),
    ),
)


def fresh(form: str) -> Backbone:
    if form == "tiny-t5":
        return load_backbone(form)
    tiny = tiny_family(form)
    return wrap_backbone(tiny.model(), tiny.make_tokenizer(), name=f"tiny-{form}")


def some_units(backbone: Backbone, seed: int = 0) -> Structure:
    """Any ranks from 0 to all, and any of the units."""
    whole = structure_of(backbone, SPACE)
    keep = torch.rand(len(whole), generator=torch.Generator().manual_seed(seed)) < 0.4
    chosen = tuple(g for g, k in zip(whole.gates, keep, strict=True) if k)
    return Structure(chosen, whole.backbone, whole.backbone_params, None, whole.source)


def trained(backbone: Backbone, structure: Structure, steps: int = 4) -> Adapter:
    """A few steps of AdamW towards random answers."""
    batch = batch_of(backbone.model)
    backbone.model.requires_grad_(False).eval()
    pets = insert(backbone.model, structure.gates)
    optimizer = torch.optim.AdamW(pets.parameters(), lr=0.02)
    labels = batch.get("decoder_input_ids", batch["input_ids"]).flip(1)
    try:
        for _ in range(steps):
            optimizer.zero_grad()
            backbone.model(**batch, labels=labels).loss.backward()
            optimizer.step()
        return Adapter.of(backbone, structure, pets, task="mood")
    finally:
        pets.detach()


@pytest.mark.parametrize("form", ["tiny-t5", "gpt2", "llama"])
def test_ranks_are_the_same_in_peft_and_merged(form, tmp_path):
    backbone = fresh(form)
    structure = some_units(backbone)
    adapter = trained(backbone, structure)
    with torch.no_grad():
        plain = logits(backbone.model)
        with adapter.attach(backbone):
            ours = logits(backbone.model)
    assert gap(ours, plain) > 1e-3
    made = to_peft(adapter, backbone, folder=tmp_path / "peft")
    ranks: dict[str, int] = {}
    for gate in structure.gates:
        ranks[gate.position] = ranks.get(gate.position, 0) + 1
    assert {g.position: g.options["r"] for g in made.held} == ranks
    assert len(set(ranks.values())) > 2
    assert not made.config.use_rslora
    assert gap(logits(PeftModel.from_pretrained(fresh(form).model, str(tmp_path / "peft"))), ours) < 1e-5
    # Sums of weights are rounded to float32 here.
    assert gap(logits(merge(adapter, backbone)), ours) < 1e-5 * float(ours.abs().max())
    folder = adapter.save_pretrained(tmp_path / "adapter")
    again = Adapter.from_pretrained(folder)
    assert again.structure.gates == structure.gates
    with torch.no_grad(), again.attach(backbone):
        assert gap(logits(backbone.model), ours) == 0


def test_a_structure_alone_becomes_patterns():
    backbone = fresh("llama")
    structure = some_units(backbone)
    config = to_peft(structure, backbone).config
    sizes = [*config.rank_pattern.values(), config.r]
    assert len(set(sizes)) > 2
    for gate in to_peft(structure, backbone).held:
        at = next((k for k in config.rank_pattern if k.endswith(gate.position.replace(".", "\\."))), None)
        assert config.rank_pattern.get(at, config.r) == gate.options["r"]


def test_s3delta_keeps_the_ranks_and_not_what_was_offered():
    structure = some_units(load_backbone("tiny-t5"))
    back = from_s3delta(to_s3delta(structure), backbone="tiny-t5")
    assert back.n_params == structure.n_params
    scales = {(g.position, g.options["lora_alpha"] / g.options["r"]) for g in back.gates}
    assert scales == {(g.position, float(g.options["lora_alpha"])) for g in structure.gates}
    assert all(g.unit is None for g in back.gates)
