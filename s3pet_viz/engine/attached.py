"""A backbone made ready for a search, and given back as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from s3pet_viz.backbones import Backbone
from s3pet_viz.config.search import SearchConfig
from s3pet_viz.pet import PETs, insert
from s3pet_viz.pet.dropout import quick_dropout
from s3pet_viz.training.model_state import as_found, raise_precision, set_training


@contextmanager
def attached(backbone: Backbone, gates: Sequence[Any], config: SearchConfig) -> Iterator[PETs]:
    """PET modules on a backbone for the length of a search; afterwards it is as it was."""
    model: Any = backbone.model
    with ExitStack() as stack:
        # The head becomes a view of the search's flat buffer, among other things.
        stack.enter_context(as_found(model))
        inner = getattr(model, "config", None)
        if config.mode == "exact" and getattr(inner, "_attn_implementation", None) not in (None, "eager"):
            model.set_attn_implementation("eager")  # the only one with second derivatives
        set_training(model, config.dropout)
        if config.gradient_checkpointing:
            checkpoint_layers(model)
        # The published recipe keeps the numbers that it had.
        stack.enter_context(quick_dropout(model, attention=config.mode != "paper"))
        pets = insert(model, gates, seed=config.seed)
        stack.callback(pets.detach)
        raise_precision(pets.parameters())
        yield pets


def checkpoint_layers(model: Any) -> None:
    """Switch gradient checkpointing on, called activation checkpointing since transformers 5."""
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    # Reentrant checkpoints know nothing of torch.autograd.grad.
    getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
