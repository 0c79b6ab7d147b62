"""The two embedded backbones before they have learned anything, and how each reads an example of the mixture."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from skills import CAUSAL_MIXTURE, MIXTURE, Mixture
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Qwen3Config, Qwen3ForCausalLM, T5Config, T5ForConditionalGeneration

from s3pet_viz.tasks.forms import ANSWER_CUE

PAD_ID, EOS_ID, IGNORE = 0, 1, -100
Ids = list[list[int]]


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:  # (rows, longest)
    """Rows of ids as one tensor."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *([value] * (width - len(row)))] for row in rows])


class TinyModel(ABC):
    """What is one backbone's own in pretraining.

    Attributes:
        model_class, objective, start, mixture: what it is, and what ``training.json`` says of it.
        words, special, chat_template: that its tokenizer has beside the shared vocabulary. ends_texts: whether the
            tokenizer appends ``</s>``.
        rates: of the two stages, and of some weights as multiples of them.
    """

    model_class: type[Any]
    mixture: Mixture
    objective: str
    start: str
    words: tuple[str, ...] = ()
    special: tuple[str, ...] = ()
    chat_template: str | None = None
    ends_texts: bool
    rates: ClassVar[dict[str, float]]

    @abstractmethod
    def build(self, vocab: int) -> Any:
        """A model with its first weights."""

    @abstractmethod
    def groups(self, model: nn.Module) -> list[tuple[list[nn.Parameter], float]]:
        """All weights, with the multiple of the learning rate that each takes."""

    @abstractmethod
    def read(self, tokenizer: Any, pairs: Sequence[tuple[str, str]], rng: random.Random) -> tuple[Ids, Ids]:
        """Token ids of sources and of targets."""

    @abstractmethod
    def length(self, source: Sequence[int], target: Sequence[int]) -> int:
        """By what rows are put together into batches."""

    @abstractmethod
    def passed(self, model: Any, sources: Ids, targets: Ids) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, logits (rows, tokens, vocabulary) and labels (rows, tokens): the targets, `IGNORE` elsewhere."""


class TinyT5(TinyModel):
    """An encoder-decoder: T5 v1.0 in miniature."""

    model_class = T5ForConditionalGeneration
    mixture = MIXTURE
    objective = "span corruption and a supervised mixture, cross-entropy"
    start = "T5 initialisation with structured attention (start_structured)"
    ends_texts = True
    rates: ClassVar = {"lr": 1.5e-3, "second_lr": 1e-3, "embed_lr": 6.0, "query_lr": 0.5}
    sizes: ClassVar = {"d_model": 128, "d_kv": 32, "num_heads": 4, "d_ff": 512, "num_layers": 4, "num_decoder_layers": 4}

    def build(self, vocab: int) -> T5ForConditionalGeneration:
        """Dropout is off, as T5 1.1 did for pretraining: no example is seen twice."""
        config = T5Config(
            vocab_size=vocab,
            dropout_rate=0.0,
            feed_forward_proj="relu",
            tie_word_embeddings=True,
            relative_attention_num_buckets=32,
            relative_attention_max_distance=64,
            pad_token_id=PAD_ID,
            eos_token_id=EOS_ID,
            decoder_start_token_id=PAD_ID,
            **self.sizes,
        )
        model = T5ForConditionalGeneration(config)
        self.start_structured(model)
        return model

    @torch.no_grad()
    def start_structured(self, model: T5ForConditionalGeneration) -> None:
        """Starts attention where trained transformers end up, so that minutes of training are enough.

        As in mimetic initialisation (Trockman and Kolter, 2023): queries and keys agree, so heads find equal words;
        cross-attention passes words on unchanged, so copying is possible from the first step; one head looks one
        word back, another one word ahead; and two encoder heads look for the same word elsewhere, not at themselves,
        and subtract what they find, so a word that has a partner can be told from one that has none.
        """
        width, head = self.sizes["d_model"], self.sizes["d_kv"]
        for side in (model.encoder, model.decoder):
            bias = side.block[0].layer[0].SelfAttention.relative_attention_bias.weight
            bias[1, 0] += 4.0
            if side is model.encoder:
                bias[17, 1] += 4.0
                bias[0, 2:] -= 6.0
            for block in side.block:
                for layer in block.layer:
                    attention = getattr(layer, "SelfAttention", None) or getattr(layer, "EncDecAttention", None)
                    if attention is None:
                        continue
                    for h in range(self.sizes["num_heads"]):
                        rows = slice(h * head, (h + 1) * head)
                        basis = torch.linalg.qr(torch.randn(width, head))[0].T
                        strength = 0.45 if h >= 2 or hasattr(layer, "EncDecAttention") else 0.1
                        attention.q.weight[rows] = strength * basis
                        attention.k.weight[rows] = strength * basis
                        if side is model.encoder and h >= 2:
                            attention.v.weight[rows] = basis
                            attention.o.weight[:, rows] = -0.5 * basis.T
                    if hasattr(layer, "EncDecAttention"):
                        turn = torch.linalg.qr(torch.randn(width, width))[0]
                        attention.v.weight.copy_(turn)
                        attention.o.weight.copy_(0.5 * turn.T)

    def groups(self, model: T5ForConditionalGeneration) -> list[tuple[list[nn.Parameter], float]]:
        """Adam moves every entry by about the rate, so the rate has to fit the size entries start with: T5 draws
        embeddings with deviation 1 and queries with 1 / sqrt(d_model * d_kv), other matrices in between.
        """
        shared = [model.shared.weight]
        queries = [p for n, p in model.named_parameters() if n.endswith(".q.weight")]
        apart = {id(p) for p in shared + queries}
        rest = [p for p in model.parameters() if id(p) not in apart]
        return [(shared, self.rates["embed_lr"]), (rest, 1.0), (queries, self.rates["query_lr"])]

    def read(self, tokenizer: Any, pairs: Sequence[tuple[str, str]], rng: random.Random) -> tuple[Ids, Ids]:
        encode = tokenizer.backend_tokenizer.encode_batch
        sources, targets = ([e.ids for e in encode(list(side))] for side in zip(*pairs, strict=True))
        return sources, targets

    def length(self, source: Sequence[int], target: Sequence[int]) -> int:
        return len(source)

    def passed(
        self, model: T5ForConditionalGeneration, sources: Ids, targets: Ids
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, y = pad(sources, PAD_ID), pad(targets, IGNORE)
        out = model(input_ids=x, attention_mask=(x != PAD_ID).long(), labels=y)
        return out.loss, out.logits, y


class TinyQwen3(TinyModel):
    """A decoder-only model: Qwen 3 in miniature. It reads plain text, and examples as tasks have them: the source,
    the cue, the answer; one in ten as two messages of a chat.
    """

    model_class = Qwen3ForCausalLM
    mixture = CAUSAL_MIXTURE
    objective = "next word of plain text and of a supervised mixture, cross-entropy; the words read count less"
    start = "normal deviates of 1 / sqrt(inputs) with structured attention (start_structured)"
    words = (ANSWER_CUE.strip(), "assistant", "system", "user")
    special = ("<|system|>", "<|user|>", "<|assistant|>")
    chat_template = (
        "{% for message in messages %}{{ '<|' + message['role'] + '|> ' + message['content'] + eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    ends_texts = False
    rates: ClassVar = {"lr": 1e-3, "second_lr": 7e-4, "embed_lr": 2.0}
    sizes: ClassVar = {
        "hidden_size": 160,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 448,
    }
    #: What a word of the source counts against one of the answer, and how many examples are chats.
    source_weight, chats = 0.1, 0.1

    def build(self, vocab: int) -> Qwen3ForCausalLM:
        config = Qwen3Config(
            vocab_size=vocab,
            tie_word_embeddings=True,
            max_position_embeddings=512,
            pad_token_id=PAD_ID,
            eos_token_id=EOS_ID,
            bos_token_id=None,
            **self.sizes,
        )
        model = Qwen3ForCausalLM(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() == 2:
                    weight.normal_(0.0, weight.shape[1] ** -0.5)
                    if name.endswith(("o_proj.weight", "down_proj.weight")):
                        weight *= 0.07  # at first words say more than what is added to them
        self.start_structured(model)
        return model

    @torch.no_grad()
    def start_structured(self, model: Qwen3ForCausalLM) -> None:
        """Starts attention with the circuits of in-context copying (Olsson et al. 2022), as `TinyT5` does with its own.

        Embeddings get one entry that all share. In the first layer it alone makes the queries and keys of three heads,
        turned so that they look one, two and three words back, and the word before is written to a subspace. In the
        other layers two heads look, by that subspace, for the word behind an earlier equal one, and pass it on; in all
        layers two heads find equal words elsewhere and subtract what they find. Dimensions that turn fast with the distance take no part in finding words.
        """
        width, head = self.sizes["hidden_size"], self.sizes["head_dim"]
        group = self.sizes["num_attention_heads"] // self.sizes["num_key_value_heads"]
        half = head // 2
        speed = model.config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)  # radians a word
        slow = (speed < 0.05).repeat(2)[:, None]

        def basis() -> Tensor:  # (head, width), orthonormal rows
            return torch.linalg.qr(torch.randn(width, head))[0].T

        words, before = basis(), basis()
        model.get_input_embeddings().weight[:, 0] = 0.5
        for n, layer in enumerate(model.model.layers):
            attention = layer.self_attn
            q, k, v, o = (getattr(attention, f"{m}_proj").weight for m in "qkvo")
            attention.q_norm.weight.fill_(2.0)
            equal, elsewhere = basis() * slow, basis()
            equal[:2, 0] = 0.5
            k[head : 2 * head] = equal
            equal[:2, 0] = -0.5  # not the word itself
            q[group * head : (group + 2) * head] = equal.repeat(2, 1)
            v[head : 2 * head] = elsewhere
            o[:, group * head : (group + 2) * head] = -0.05 * elsewhere.T.repeat(1, 2)
            if n == 0:
                k[:head], q[: group * head] = 0.0, 0.0
                k[:2, 0] = 0.1
                for h in range(group):
                    q[h * head : h * head + 2, 0] = 0.1 * torch.cos(speed[:2] * (h + 1))
                    q[h * head + half : h * head + half + 2, 0] = -0.1 * torch.sin(speed[:2] * (h + 1))
                v[:head] = words
                o[:, :head] = 0.2 * before.T
            else:
                k[:head] = before * slow
                q[: 2 * head] = (words * slow).repeat(2, 1)
                passed = basis()
                v[:head] = passed
                o[:, : group * head] = 0.1 * passed.T.repeat(1, group)

    def groups(self, model: Qwen3ForCausalLM) -> list[tuple[list[nn.Parameter], float]]:
        words = [model.get_input_embeddings().weight]
        return [(words, self.rates["embed_lr"]), ([p for p in model.parameters() if p is not words[0]], 1.0)]

    def read(self, tokenizer: Any, pairs: Sequence[tuple[str, str]], rng: random.Random) -> tuple[Ids, Ids]:
        """A source without words is none: its target is plain text."""
        user, assistant = tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>"])
        encode = tokenizer.backend_tokenizer.encode_batch
        before, after = ([e.ids for e in encode(list(side))] for side in zip(*pairs, strict=True))
        (cue,) = (e.ids for e in encode([ANSWER_CUE.strip()]))
        sources = []
        for ids in before:
            chat = rng.random() < self.chats
            sources.append([] if not ids else [user, *ids, EOS_ID, assistant] if chat else [*ids, *cue])
        return sources, [[*ids, EOS_ID] for ids in after]

    def length(self, source: Sequence[int], target: Sequence[int]) -> int:
        return len(source) + len(target)

    def passed(self, model: Qwen3ForCausalLM, sources: Ids, targets: Ids) -> tuple[Tensor, Tensor, Tensor]:
        rows = [s + t for s, t in zip(sources, targets, strict=True)]
        said = pad([[IGNORE] * len(s) + t for s, t in zip(sources, targets, strict=True)], IGNORE)[:, 1:]
        x, words = pad(rows, PAD_ID), pad(rows, IGNORE)[:, 1:]
        # Padding on the right is behind every word, and so needs no mask.
        logits = model(input_ids=x, use_cache=False).logits[:, :-1]
        each = cross_entropy(logits.flatten(0, 1), words.flatten(), ignore_index=IGNORE, reduction="none").view_as(words)
        answers = said != IGNORE
        read = (words != IGNORE) & ~answers
        loss = each[answers].mean() + self.source_weight * each[read].sum() / read.sum().clamp(min=1)
        return loss, logits, said


MODELS: dict[str, TinyModel] = {"tiny-t5": TinyT5(), "tiny-qwen3": TinyQwen3()}
