"""Tiny backbones with random weights, a word-level tokenizer, and a task that can be learned in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from s3pet_viz.pet import Space, SpaceEntry

FILLER = ("the", "a", "cat", "dog", "sees", "near", "river", "house", "quick", "slow", "over", "under")
CUES = {0: ("bad", "sad", "grim"), 1: ("good", "happy", "bright")}
LABELS = ("negative", "positive")
WORDS = (*FILLER, *CUES[0], *CUES[1], *LABELS, "mood", "first", "second", "sentence", "text", ":", ".")

#: Special tokens in id order, per tokenizer form. RoBERTa pads with id 1, from which it numbers positions.
SPECIALS = {
    "t5": ("<pad>", "</s>", "<unk>"),
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "gpt": ("<unk>", "<|endoftext|>"),
}

MOOD: dict[str, Any] = {
    "name": "mood",
    "kind": "classification",
    "fields": ["text"],
    "label_names": list(LABELS),
    "metrics": ["accuracy"],
    "prefix": "mood",
}
STRENGTH: dict[str, Any] = {
    "name": "strength",
    "kind": "regression",
    "fields": ["text"],
    "label_range": [0, 5],
    "metrics": ["pearson"],
    "prefix": "mood",
}
PAIRS: dict[str, Any] = {**MOOD, "name": "pairs", "fields": ["first", "second"]}


def mood_rows(n: int, seed: int) -> list[dict[str, Any]]:
    """Filler words and one cue word that decides the label; both labels equally often."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        words = list(rng.choice(FILLER, rng.integers(2, 7)))
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(CUES[i % 2])))
        # A serial number keeps the texts apart; the tokenizer reads it as an unknown word.
        rows.append({"text": f"{' '.join(words)} n{seed}x{i}", "label": i % 2})
    return rows


def mood_data(train: int = 160, held: int = 40) -> dict[str, list[dict[str, Any]]]:
    return {"train": mood_rows(train, 1), "validation": mood_rows(held, 2), "test": mood_rows(held, 3)}


def word_tokenizer(form: str) -> PreTrainedTokenizerFast:
    """One token per word; ``t5`` ends with </s>, ``bert`` and ``roberta`` have their usual frames.

    ``gpt`` has an end token alone: nothing around a text, and nothing to pad with.
    """
    vocabulary = {word: i for i, word in enumerate((*SPECIALS[form], *WORDS))}
    names = {"t5": "<unk>", "bert": "[UNK]", "roberta": "<unk>", "gpt": "<unk>"}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=names[form]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    frames = {
        "t5": ("$A </s>", "$A $B </s>", ["</s>"]),
        "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ["[CLS]", "[SEP]"]),
        "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>", ["<s>", "</s>"]),
    }
    if form == "gpt":
        return PreTrainedTokenizerFast(
            tokenizer_object=made, unk_token="<unk>", bos_token="<|endoftext|>", eos_token="<|endoftext|>",
            model_input_names=["input_ids", "attention_mask"],
        )  # fmt: skip
    single, pair, special = frames[form]
    made.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(s, vocabulary[s]) for s in special]
    )
    roles = {
        "t5": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        "bert": {
            "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
        "roberta": {
            "pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>",
            "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>",
        },
    }  # fmt: skip
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if form == "bert" else [])]
    return PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=inputs, **roles[form])


def t5_config(**changes: Any) -> T5Config:
    sizes = {
        "vocab_size": len(SPECIALS["t5"]) + len(WORDS), "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
        "num_decoder_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 8, "dropout_rate": 0.0,
        "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    return T5Config(**{**sizes, **changes})


def encoder_config(form: str, **changes: Any) -> Any:
    sizes = {
        "vocab_size": len(SPECIALS[form]) + len(WORDS), "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 24,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 2,
    }  # fmt: skip
    if form == "roberta":
        return RobertaConfig(
            **{**sizes, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1, **changes}
        )
    return BertConfig(**{**sizes, **changes})


FORMS = ("t5", "gated", "bert", "roberta")


def tiny_model(form: str, *, seed: int = 0, layers: int = 2, **changes: Any) -> nn.Module:
    """A model of one of `FORMS` with random weights; ``gated`` is T5 v1.1 (wi_0, wi_1). `layers`: of each stack."""
    torch.manual_seed(seed)
    names = ("num_layers", "num_decoder_layers") if form in ("t5", "gated") else ("num_hidden_layers",)
    changes = {**dict.fromkeys(names, layers), **changes}
    if form == "t5":
        return T5ForConditionalGeneration(t5_config(**changes))
    if form == "gated":
        changes = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, **changes}
        return T5ForConditionalGeneration(t5_config(**changes))
    if form == "bert":
        return BertForSequenceClassification(encoder_config("bert", **changes))
    return RobertaForSequenceClassification(encoder_config("roberta", **changes))


def tokenizer_of(form: str) -> PreTrainedTokenizerFast:
    return word_tokenizer("t5" if form in ("t5", "gated") else form)


def save_tiny(form: str, folder: Path, **changes: Any) -> Path:
    """A folder that `load_backbone` reads."""
    tiny_model(form, **changes).save_pretrained(folder)
    tokenizer_of(form).save_pretrained(folder)
    return folder


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def assert_same(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    """Same names, and the same values to the bit."""
    after = model.state_dict()
    assert list(after) == list(before)
    for name, value in before.items():
        assert torch.equal(after[name], value), name


#: Every PET type wherever it can go, cross-attention too.
EVERYTHING = Space(
    "everything",
    (
        SpaceEntry("LoRA", ("SelfAttn.?", "FFN.W*")),
        SpaceEntry("BitFit", ("SelfAttn.?", "FFN.W*", "*.LN")),
        SpaceEntry("LNFit", ("*.LN",)),
        SpaceEntry("Adapter", ("SelfAttn", "FFN"), options={"bottleneck": 3}),
        SpaceEntry("LowRankAdapter", ("SelfAttn", "FFN")),
        SpaceEntry("Compacter", ("SelfAttn", "FFN")),
    ),
)
