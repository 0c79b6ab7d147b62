"""What a backbone is, loaded or from memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from s3pet_viz.backbones.families import positions
from s3pet_viz.backbones.heads import TOKENS
from s3pet_viz.backbones.position import Position, base_of, text_config, understood
from s3pet_viz.structure.tables import Family
from s3pet_viz.tasks.forms import ANSWER_CUE

#: Of a model and a batch: a scalar.
Loss = Callable[[Any, Any], Tensor]


def model_loss(model: Any, batch: Any) -> Tensor:
    """What a transformers model says itself of a batch with ``labels``."""
    # A decoder's cache is for generation; in training it is only memory.
    options = understood(model, use_cache=False) if model.can_generate() else {}
    made: Tensor = model(**batch, **options).loss
    return made


@dataclass
class Backbone:
    """A frozen pretrained model with its tokenizer.

    Attributes:
        model: a transformers model with the head that the task needs, or (`own`) any; every weight is frozen.
        form: ``text`` (a language model, evaluated by generation), ``pair`` (a classification head) or ``own`` (a loss
            of the user's).
        n_params: parameters of the backbone proper: what fractions of a budget refer to. Tied weights
            count once, the task's head does not count, an encoder's pooler and a language model's output matrix do.
        head: the task's own trainable modules by parameter name (empty for language models).
        pad_id: the token that batches are padded with.
        drawn: names of backbone weights that no file holds (a pooler) and that were drawn instead.
        loss_of: the loss of the model on a batch.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    form: Literal["text", "pair", "own"]
    family: Family
    n_params: int
    head: dict[str, nn.Parameter] = field(default_factory=dict)
    pad_id: int = 0
    drawn: tuple[str, ...] = ()
    loss_of: Loss = model_loss

    def loss(self, batch: Any) -> Tensor:
        """A scalar, in the modes and at the gates that the model is in."""
        return self.loss_of(self.model, batch)

    @property
    def causal(self) -> bool:
        """A decoder-only language model: it reads the question and goes on with the answer."""
        return self.form == "text" and self.family.decoder_only

    @property
    def problem(self) -> str:
        """What its head is for, see `heads.PROBLEMS`; empty of a language model and of a loss of the user's."""
        if self.form != "pair":
            return ""
        if any(cls.__name__.endswith("ForTokenClassification") for cls in type(self.model).__mro__):
            return TOKENS
        config: Any = self.model.config
        return str(config.problem_type or "single_label_classification")

    @property
    def body(self) -> list[nn.Parameter]:
        """What `n_params` counts: a language model whole, else the model without its head."""
        if self.form == "pair":
            return list(base_of(self.model).parameters())
        head = {id(p) for p in self.head.values()}
        return [p for p in self.model.parameters() if id(p) not in head]

    def positions(self) -> list[Position]:
        """Where PET modules can go, as its family names it. Raises BackboneError: as `backbones.positions`."""
        head = {id(p) for p in self.head.values()}  # trained whole
        found = positions(self.model, self.family)
        return [p for p in found if not any(id(w) in head for w in p.target.parameters())]

    @property
    def head_params(self) -> int:
        return sum(p.numel() for p in self.head.values())

    @property
    def end_id(self) -> int | None:
        """The token that ends an answer (BERT's tokenizers, which some T5 have, end texts with [SEP])."""
        end: int | None = self.tokenizer.eos_token_id
        return self.tokenizer.sep_token_id if end is None and not self.causal else end

    @property
    def start_id(self) -> int | None:
        """The token that a decoder's rows begin with, as its model itself shifts labels (T5Gemma's config calls it its
        decoder's bos token); else its config's. None: there is none.
        """
        model: Any = self.model
        found: Any = getattr(model.config, "decoder_start_token_id", None)
        if hasattr(model, "prepare_decoder_input_ids_from_labels"):
            end = torch.full((1, 2), self.end_id or 0, device=model.device)
            with contextlib.suppress(Exception):  # it has none, and says so in a way of its own
                found = int(model.prepare_decoder_input_ids_from_labels(labels=end)[0, 0])
        return found if isinstance(found, int) else None

    @property
    def longest_input(self) -> int:
        """Models with learned positions cannot read further, in tokens; T5's relative positions have no end."""
        config = text_config(self.model.config)
        limit = getattr(config, "max_position_embeddings", None)
        if limit is None or limit < 0:  # XLNet says -1
            return 10**6
        # RoBERTa and its kin number positions from padding_idx + 1, and keep a row for that.
        own = (
            getattr(m, "padding_idx", None)
            for n, m in self.model.named_modules()
            if n.endswith("embeddings.position_embeddings")
        )
        padding = next(own, None)
        return int(limit) - (0 if padding is None else int(padding) + 1)

    def answers(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of a language model's answers, uncut, each with its end token."""
        if not self.causal:
            made: list[list[int]] = self.tokenizer(list(texts))["input_ids"]
            return made

        def ids(texts: list[str]) -> list[list[int]]:
            made: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
            return made

        # Tokenised behind the cue, for the same word has another token at the start of a text.
        (before,) = ids([ANSWER_CUE.strip()])
        behind = ids([f"{ANSWER_CUE.strip()} {text}" for text in texts])
        return [
            [*(whole[len(before) :] if whole[: len(before)] == before else own), self.tokenizer.eos_token_id]
            for whole, own in zip(behind, ids(list(texts)), strict=True)
        ]

    def said(self, ids: Any) -> list[str]:
        """The texts of token ids, special tokens left out: what an answer is read from."""
        texts: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts

    def __repr__(self) -> str:
        return f"Backbone({self.name}, {self.family.name}, {self.n_params:,} parameters)"
