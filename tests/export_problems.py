"""Adapters with weights that are far from zero, on tiny backbones."""

from __future__ import annotations

from typing import Any

import torch
from problems import tiny_model, tokenizer_of
from torch import nn

from s3pet_viz.backbones import Backbone, positions, wrap_backbone
from s3pet_viz.export import Adapter
from s3pet_viz.pet import Space, SpaceEntry, candidate_gates, insert, load_space
from s3pet_viz.structure import Structure

#: Two ranks and two scales, none a power of two.
RANKS = Space(
    "ranks",
    (
        SpaceEntry("LoRA", ("SelfAttn.Q", "FFN.W2"), options={"r": 3, "lora_alpha": 5}),
        SpaceEntry("LoRA", ("SelfAttn.V",), options={"r": 2, "lora_alpha": 7}),
    ),
)


def tiny_backbone(form: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Backbone:
    return wrap_backbone(tiny_model(form, **changes).to(dtype), tokenizer_of(form), name=f"tiny-{form}")


def structure_of(backbone: Backbone, space: Any = "S3PET-M", types: tuple[str, ...] = ()) -> Structure:
    gates, _ = candidate_gates(positions(backbone.model), load_space(space))
    kept = tuple(g for g in gates if not types or g.pet_type in types)
    return Structure(kept, backbone.name, backbone.n_params, None, {"task": "mood"})


def adapter_of(backbone: Backbone, structure: Structure, *, seed: int = 1, **facts: Any) -> Adapter:
    """Random PET weights, and for an encoder a head of its own."""
    generator = torch.Generator().manual_seed(seed)
    pets = insert(backbone.model, structure.gates)
    head = {p: p.detach().clone() for p in backbone.head.values()}
    with torch.no_grad():
        for p in [*pets.parameters(), *head]:
            p.copy_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    try:
        return Adapter.of(backbone, structure, pets, head=head, **{"task": "mood", **facts})
    finally:
        pets.detach()
        with torch.no_grad():
            for p, value in head.items():
                p.copy_(value)


def batch_of(model: nn.Module, rows: int = 3, length: int = 9) -> dict[str, torch.Tensor]:
    """Random tokens with padding at the end of the second row."""
    size = model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(5)
    # Away from the special tokens: a padding token has a meaning of its own for some models.
    ids = torch.randint(6, size, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    made = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        made["decoder_input_ids"] = torch.randint(6, size, (rows, 4), generator=generator)
    return made


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    model.eval()
    return model(**batch_of(model)).logits


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max())
