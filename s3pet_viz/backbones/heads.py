"""The heads that a family can have, transformers' classes that load them, and the token that rows are padded with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from s3pet_viz.errors import BackboneError, ConfigError
from s3pet_viz.structure.tables import Family

#: What a head can be for: transformers' ``problem_type`` of one that answers once a row, and one that tags each token.
PROBLEMS = ("single_label_classification", "regression", "multi_label_classification", "token_classification")
TOKENS = "token_classification"
HEAD_NAMES = {"lm": "a language model's head", "classification": "a classification head"}


def heads_of(family: Family) -> tuple[str, ...]:
    """The heads that a family can have, its default first."""
    return ("classification",) if family.encoder_only else ("lm", "classification")


def auto_class(family: Family, head: str, problem: str = "") -> str:
    """transformers' class that loads this head, for one of `PROBLEMS`."""
    if head == "classification":
        return f"AutoModelFor{'Token' if problem == TOKENS else 'Sequence'}Classification"
    return "AutoModelForCausalLM" if family.decoder_only else "AutoModelForSeq2SeqLM"


def either(words: Iterable[str]) -> str:
    return " or ".join(words)


def is_text(family: Family, head: str) -> bool:
    """Whether a head makes the text form of this family."""
    kinds = heads_of(family)
    chosen = kinds[0] if head == "auto" else head
    if chosen not in kinds:
        raise ConfigError(f"head: expected {either(kinds)} for family {family.name}, found {head!r}")
    return chosen == "lm"


def padding(tokenizer: Any, text: bool, pad: int | None = None) -> int:
    """What a decoder-only model is padded with: the given token, the tokenizer's, or its end token."""
    end = tokenizer.eos_token_id
    tokens = [t for t in (pad, tokenizer.pad_token_id, end) if t is not None and t >= 0]
    if not tokens:
        raise BackboneError("backbone: expected a tokenizer with a pad token or an end token (eos), found neither")
    if text and end is None:
        raise BackboneError("backbone: expected a tokenizer with an end token (eos) for the end of answers, found none")
    return int(tokens[0])
