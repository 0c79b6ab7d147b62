"""A backbone around a model that is in memory, loaded here or by its user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from s3pet_viz.backbones import check
from s3pet_viz.backbones.backbone import Backbone
from s3pet_viz.backbones.families import family_of, read
from s3pet_viz.backbones.heads import HEAD_NAMES, auto_class, either, heads_of, padding
from s3pet_viz.backbones.position import base_of, known_tokens, text_config
from s3pet_viz.backbones.quantised import check_trained, count, refuse_quantised
from s3pet_viz.errors import BackboneError
from s3pet_viz.structure.tables import read_family


def wrap_backbone(
    model: nn.Module, tokenizer: Any, *, name: str | None = None, family: Mapping[str, Any] | str | Path | None = None
) -> Backbone:
    """A `Backbone` around a transformers model that is in memory already. Its weights are frozen. `family`: as of
    `load_backbone`.

    Raises:
        BackboneError: a table that does not fit it, not a model of transformers, quantised weights, PET modules in it
            already, weights on the meta device, NaN or infinite, no tokenizer or one of another model, no token to pad
            or to start with, or a head that is neither a language model's nor for classification.
    """
    if not isinstance(model, nn.Module):
        raise BackboneError(f"backbone: expected a model of transformers, found {type(model).__name__}")
    check.check_bare(model)
    if not hasattr(getattr(model, "config", None), "model_type"):
        raise BackboneError(
            f"backbone: expected a model of transformers, found {type(model).__name__!r}; any model will do with "
            "loss=, train= and validation="
        )
    known = family_of(model, None if family is None else read_family(family))
    if tokenizer is None:
        raise BackboneError("backbone: model= needs tokenizer= too")
    label = name or getattr(model.config, "_name_or_path", "") or type(model).__name__
    refuse_quantised(model.config, model, label)
    check.check_model(model, tokenizer, label)
    check.check_finite(model)
    if known.own is not None:
        read(model, known)
    inside = {id(p) for p in base_of(model).parameters()}
    text = not known.encoder_only and bool(model.can_generate())  # type: ignore[operator]
    head = {} if text else {n: p for n, p in model.named_parameters() if id(p) not in inside}
    kinds = heads_of(known)
    writes: Any = model.get_output_embeddings  # a masked language model's head predicts tokens
    if not text and (not head or writes() is not None or "classification" not in kinds):
        wanted, use = either(HEAD_NAMES[k] for k in kinds), either(auto_class(known, k) for k in kinds)
        raise BackboneError(f"backbone: expected a model with {wanted}, found {type(model).__name__}; use {use}")
    check_trained(head, label)
    made = Backbone(model, tokenizer, label, "text" if text else "pair", known, n_params=0, head=head)
    made.n_params = count(made.body)
    made.pad_id = _pad_id(made)
    check.check_tokens(made)
    model.requires_grad_(False)
    model.eval()
    return made


def _pad_id(backbone: Backbone) -> int:
    """The token that batches are padded with; a decoder-only model's is checked."""
    tokenizer, model = backbone.tokenizer, backbone.model
    own: Any
    if not backbone.family.decoder_only:
        own = tokenizer.pad_token_id
        return int(own if own is not None else getattr(text_config(model.config), "pad_token_id", None) or 0)
    found = padding(tokenizer, backbone.causal)
    if not backbone.causal:
        own = getattr(text_config(model.config), "pad_token_id", None)
        if own is None:
            raise BackboneError(
                f"backbone: expected model.config.pad_token_id, by which the head of {type(model).__name__} finds a "
                f"row's last token, found none; set it to {found}"
            )
        found = int(own)
    known = known_tokens(model)
    if known is not None and not 0 <= found < known:
        raise BackboneError(
            f"backbone: expected a pad token among the model's {known:,} embeddings, found token {found}; "
            "resize the embeddings, or use tokenizer.pad_token = tokenizer.eos_token"
        )
    return found
