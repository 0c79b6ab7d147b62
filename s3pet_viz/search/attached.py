"""A backbone made ready for a search, and given back as it was."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from s3pet_viz.backbones import Backbone
from s3pet_viz.pet import PETs, insert
from s3pet_viz.pet.dropout import quick_dropout
from s3pet_viz.search.config import SearchConfig


class attached:
    """PET modules on a backbone for the length of a search; afterwards it is as it was."""

    def __init__(self, backbone: Backbone, gates: Sequence[Any], config: SearchConfig) -> None:
        self.backbone, self.gates, self.config = backbone, gates, config

    def __enter__(self) -> PETs:
        model = self.backbone.model
        self.training = model.training
        self.head = {n: p.detach().clone() for n, p in self.backbone.head.items()}
        self.implementation = getattr(model.config, "_attn_implementation", None)
        if self.config.mode == "exact" and self.implementation != "eager":
            model.set_attn_implementation("eager")  # type: ignore[operator]  # the only one with second derivatives
        model.train(self.config.dropout)
        if self.config.gradient_checkpointing:
            switch_checkpointing(model, True)
        # NumPy's masks would cut a compiled graph at every dropout.
        self.dropout = nullcontext() if self.config.compile else quick_dropout(model)
        self.dropout.__enter__()
        try:
            self.pets = insert(model, self.gates, seed=self.config.seed)
        except BaseException:
            self._leave()
            raise
        return self.pets

    def __exit__(self, *exc: object) -> None:
        self.pets.detach()
        self._leave()

    def _leave(self) -> None:
        model = self.backbone.model
        self.dropout.__exit__(None, None, None)
        model.train(self.training)
        if self.config.gradient_checkpointing:
            switch_checkpointing(model, False)
        if self.config.mode == "exact" and self.implementation not in (None, "eager"):
            model.set_attn_implementation(self.implementation)  # type: ignore[operator]
        with torch.no_grad():
            for name, p in self.backbone.head.items():
                # The head was a view of the search's flat buffer; give it memory of its own again.
                p.data = self.head[name]
                p.requires_grad_(False)


def switch_checkpointing(model: Any, on: bool) -> None:
    """Switch gradient checkpointing, called activation checkpointing since transformers 5."""
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if on:
        # Reentrant checkpoints know nothing of torch.autograd.grad.
        getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{kind}_checkpointing_disable")()
