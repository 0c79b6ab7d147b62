"""What a backbone is, loaded or from memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from s3pet_viz.backbones.families import positions
from s3pet_viz.backbones.heads import TOKENS
from s3pet_viz.backbones.position import Position, base_of, text_config
from s3pet_viz.structure.tables import Family
from s3pet_viz.tasks.forms import ANSWER_CUE

Form = Literal["text", "pair"]


@dataclass
class Backbone:
    """A frozen pretrained model with its tokenizer.

    Attributes:
        model: a transformers model with the head that the task needs; every weight is frozen.
        form: ``text`` (a language model, evaluated by generation) or ``pair`` (a classification head).
        n_params: parameters of the backbone proper: what fractions of a budget refer to. Tied weights
            count once, the task's head does not count, an encoder's pooler and a language model's output matrix do.
        head: the task's own trainable modules by parameter name (empty for language models).
        pad_id: the token that batches are padded with.
        drawn: names of backbone weights that no file holds (a pooler) and that were drawn instead.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    form: Form
    family: Family
    n_params: int
    head: dict[str, nn.Parameter] = field(default_factory=dict)
    pad_id: int = 0
    drawn: tuple[str, ...] = ()

    @property
    def causal(self) -> bool:
        """A decoder-only language model: it reads the question and goes on with the answer."""
        return self.form == "text" and self.family.decoder_only

    @property
    def problem(self) -> str:
        """What its head is for, see `heads.PROBLEMS`; empty of a language model."""
        if self.form == "text":
            return ""
        if any(cls.__name__.endswith("ForTokenClassification") for cls in type(self.model).__mro__):
            return TOKENS
        config: Any = self.model.config
        return str(config.problem_type or "single_label_classification")

    @property
    def body(self) -> nn.Module:
        """What `n_params` counts: a language model whole, else the model without its head."""
        return self.model if self.form == "text" else base_of(self.model)

    def positions(self) -> list[Position]:
        """Where PET modules can go, as its family names it. Raises BackboneError: as `backbones.positions`."""
        return positions(self.model, self.family)

    @property
    def head_params(self) -> int:
        return sum(p.numel() for p in self.head.values())

    @property
    def end_id(self) -> int | None:
        """The token that ends an answer (BERT's tokenizers, which some T5 have, end texts with [SEP])."""
        end: int | None = self.tokenizer.eos_token_id
        return self.tokenizer.sep_token_id if end is None and not self.causal else end

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
