"""One tiny model of random weights, and its tokenizer, for each backbone family and each head that it can have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf
from problems import SPECIALS, WORDS, tiny_model, word_tokenizer
from torch import nn

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
VOCABULARY = {form: len(special) + len(WORDS) for form, special in SPECIALS.items()}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_ENDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
_LM = {"vocab_size": VOCABULARY["gpt"], "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "initializer_range": 0.3}


#: Of the config of a family, whichever it has.
_LAYERS = {"num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"}


@dataclass(frozen=True)
class TinyFamily:
    """How to make a tiny model.

    Attributes:
        name: of the backbone and its head, e.g. ``llama`` and ``llama, classification``.
        model_class: of transformers, by name; config: its config's class and fields.
        tokenizer: a form of `problems.word_tokenizer`.
        family: of `backbones.FAMILIES`.
        left_out: linear layers and norms of the stacks that are no position: name pattern -> why.
    """

    name: str
    model_class: str
    config_class: str
    tokenizer: str
    family: str
    config: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    build: Callable[..., nn.Module] | None = None

    def model(self, *, seed: int = 0, layers: int | None = None, **changes: Any) -> nn.Module:
        """A model; `layers` of each stack, where one is like the next."""
        if self.build is not None:
            return self.build(seed=seed, layers=layers or 2, **changes)
        torch.manual_seed(seed)
        if layers is not None:
            changes = {**dict.fromkeys(_LAYERS & self.config.keys(), layers), **changes}
        config = getattr(hf, self.config_class)(**{**self.config, **changes})
        return getattr(hf, self.model_class)(config)

    def make_tokenizer(self) -> Any:
        return word_tokenizer(self.tokenizer)

    @property
    def form(self) -> str:
        return "pair" if self.model_class.endswith("ForSequenceClassification") else "text"

    @property
    def decoder_only(self) -> bool:
        return self.tokenizer == "gpt"

    @property
    def causal(self) -> bool:
        return self.decoder_only and self.form == "text"

    def inputs(self) -> dict[str, torch.Tensor]:
        """Two rows of unequal length, with labels for a language model."""
        pad = {"roberta": 1}.get(self.tokenizer, 0)
        ids = torch.tensor([[5, 9, 12, 7, 6], [8, 6, 7, pad, pad]])
        made = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])}
        if self.causal:
            made["labels"] = torch.tensor([[-100, -100, -100, 7, 6], [-100, 6, 7, -100, -100]])
        elif self.form == "text":
            made["labels"] = torch.tensor([[7, 6], [9, 6]])
        else:
            made["labels"] = torch.tensor([0, 1])
        return made


_LLAMA = {**_LM, **SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64}
_GPT2 = {
    **_LM, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
_POOLER = {"pooler.dense": "reads the first token for a head, behind the last block"}
_TIED = {"lm_head": "the output matrix, tied to the embedding"}


def _t5(form: str) -> Callable[..., nn.Module]:
    return lambda **changes: tiny_model(form, **changes)


TINY: tuple[TinyFamily, ...] = (
    TinyFamily("t5", "T5ForConditionalGeneration", "T5Config", "t5", "t5", left_out=_TIED, build=_t5("t5")),
    TinyFamily(
        "t5 v1.1 (Flan)", "T5ForConditionalGeneration", "T5Config", "t5", "t5", left_out=_TIED, build=_t5("gated")
    ),
    TinyFamily(
        "bart", "BartForConditionalGeneration", "BartConfig", "roberta", "bart",
        {
            **_ENDS, "vocab_size": VOCABULARY["roberta"], "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
            "max_position_embeddings": 64, "dropout": 0.0, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
            "init_std": 0.3,
        },
    ),
    TinyFamily("bert", "BertForSequenceClassification", "BertConfig", "bert", "bert", left_out=_POOLER, build=_t5("bert")),
    TinyFamily("roberta", "RobertaForSequenceClassification", "RobertaConfig", "roberta", "bert", build=_t5("roberta")),
    TinyFamily(
        "deberta-v2 / v3", "DebertaV2ForSequenceClassification", "DebertaV2Config", "bert", "deberta-v2",
        {
            **SIZES, **_NO_DROPOUT, "vocab_size": VOCABULARY["bert"], "max_position_embeddings": 64,
            "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm",
            "position_buckets": 8, "share_att_key": True, "position_biased_input": False, "type_vocab_size": 0,
        },
        {"encoder.LayerNorm": "normalises the table of relative positions, not a layer's stream"},
    ),
    TinyFamily(
        "distilbert", "DistilBertForSequenceClassification", "DistilBertConfig", "bert", "distilbert",
        {
            "vocab_size": VOCABULARY["bert"], "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48,
            "max_position_embeddings": 64, "dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0,
        },
    ),
    TinyFamily("gpt2", "GPT2LMHeadModel", "GPT2Config", "gpt", "gpt2", _GPT2),
    TinyFamily("gpt2, classification", "GPT2ForSequenceClassification", "GPT2Config", "gpt", "gpt2", _GPT2),
    TinyFamily(
        "opt", "OPTForCausalLM", "OPTConfig", "gpt", "opt",
        {
            **_LM, "hidden_size": 32, "word_embed_proj_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
            "ffn_dim": 48, "max_position_embeddings": 64, "dropout": 0.0, "init_std": 0.3,
        },
        {
            "decoder.project_in": "between the embedding and the first block (OPT-350m alone)",
            "decoder.project_out": "between the last block and the output (OPT-350m alone)",
        },
    ),
    TinyFamily("llama", "LlamaForCausalLM", "LlamaConfig", "gpt", "llama", _LLAMA),
    TinyFamily("llama, classification", "LlamaForSequenceClassification", "LlamaConfig", "gpt", "llama", _LLAMA),
    TinyFamily("mistral", "MistralForCausalLM", "MistralConfig", "gpt", "llama", {**_LLAMA, "sliding_window": 16}),
    TinyFamily("qwen2", "Qwen2ForCausalLM", "Qwen2Config", "gpt", "llama", _LLAMA),
    TinyFamily("gemma", "GemmaForCausalLM", "GemmaConfig", "gpt", "llama", {**_LLAMA, "head_dim": 16}),
)  # fmt: skip


def tiny_family(name: str) -> TinyFamily:
    return next(tiny for tiny in TINY if tiny.name == name)
