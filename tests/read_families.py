"""Tiny models of families that have no table: their positions are read off the model."""

from __future__ import annotations

from tiny_families import _LLAMA, _LM, _NO_DROPOUT, SIZES, VOCABULARY, TinyFamily, tiny_family

_BERT = {**SIZES, **_NO_DROPOUT, "vocab_size": VOCABULARY["bert"], "max_position_embeddings": 64}
_GPT = {**_LM, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_BART = {**tiny_family("bart").config, "activation_function": "relu"}
_IDS = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
_LOOP = {"experts_implementation": "eager"}  # the fast one computes nothing in float64
_MOE = {**_LOOP, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
_V1 = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16}
_T5 = {
    "vocab_size": VOCABULARY["t5"], "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "dropout_rate": 0.0,
}  # fmt: skip


def _tiny(kind: str, head: str, tokenizer: str, config: dict, config_class: str = "") -> TinyFamily:
    return TinyFamily(kind, f"{kind}{head}", config_class or f"{kind}Config", tokenizer, kind, config)


#: Tiny models of families that are read off the model, and what the layers of each hold (`modules_of`).
READ: dict[str, tuple[TinyFamily, str]] = {
    tiny.name: (tiny, layer)
    for tiny, layer in (
        (_tiny("Qwen3", "ForCausalLM", "gpt", {**_LLAMA, "head_dim": 8}), "Q K V O | gate W1 | LN Q.LN K.LN FFN.LN"),
        (
            _tiny("Gemma2", "ForCausalLM", "gpt", {**_LLAMA, "head_dim": 8}),
            "Q K V O | gate W1 | LN post.LN FFN.LN FFN.post.LN",
        ),
        (
            _tiny("Gemma3", "ForCausalLM", "gpt", {**_LLAMA, "head_dim": 8}, "Gemma3TextConfig"),
            "Q K V O | gate W1 | LN Q.LN K.LN post.LN FFN.LN FFN.post.LN",
        ),
        (_tiny("Phi3", "ForCausalLM", "gpt", _LLAMA), "QKV O | both | LN FFN.LN"),
        (_tiny("GPTNeoX", "ForCausalLM", "gpt", {**_LM, **SIZES}), "QKV O | W1 | LN FFN.LN"),
        (_tiny("Falcon", "ForCausalLM", "gpt", _GPT), "QKV O | W1 | LN"),
        (_tiny("Bloom", "ForCausalLM", "gpt", {**_LM, "hidden_size": 32, "n_layer": 2, "n_head": 4}), "QKV O | W1 | LN FFN.LN"),
        (_tiny("Cohere", "ForCausalLM", "gpt", _LLAMA), "Q K V O | gate W1 | LN"),
        (_tiny("ModernBert", "ForSequenceClassification", "bert", {**_BERT, **_IDS, "num_hidden_layers": 3}), "QKV O | both | LN FFN.LN"),
        (_tiny("Albert", "ForSequenceClassification", "bert", {**_BERT, **_IDS, "embedding_size": 16, "intermediate_size": 96}), "Q K V O | W1 | LN FFN.LN"),
        (_tiny("MPNet", "ForSequenceClassification", "bert", {**_BERT, **_IDS, "initializer_range": 0.3}), "Q K V O | W1 | LN FFN.LN"),
        (_tiny("RoFormer", "ForSequenceClassification", "bert", _BERT), "Q K V O | W1 | LN FFN.LN"),
        (_tiny("MBart", "ForConditionalGeneration", "roberta", _BART), "Q K V O | W1 | LN FFN.LN"),
        (_tiny("Pegasus", "ForConditionalGeneration", "roberta", _BART), "Q K V O | W1 | LN FFN.LN"),
        (_tiny("Marian", "MTModel", "roberta", {**_BART, "scale_embedding": True}), "Q K V O | W1 | LN FFN.LN"),
        (_tiny("SmolLM3", "ForCausalLM", "gpt", _LLAMA), "Q K V O | gate W1 | LN FFN.LN"),
        (_tiny("Olmo2", "ForCausalLM", "gpt", _LLAMA), "Q K V O | gate W1 | post.LN Q.LN K.LN FFN.post.LN"),
        (_tiny("Starcoder2", "ForCausalLM", "gpt", _LLAMA), "Q K V O | W1 | LN FFN.LN"),
        (_tiny("Mixtral", "ForCausalLM", "gpt", {**_LLAMA, "num_local_experts": 4, **_LOOP}), "Q K V O | experts | LN FFN.LN"),
        (_tiny("Qwen3Moe", "ForCausalLM", "gpt", {**_LLAMA, **_MOE}), "Q K V O | experts | LN Q.LN K.LN FFN.LN"),
        (_tiny("Longformer", "ForSequenceClassification", "bert", {**_BERT, **_IDS, "attention_window": 8}), "Q K V O | W1 | LN FFN.LN | query_global key_global value_global"),
        (_tiny("Deberta", "ForSequenceClassification", "bert", {**_BERT, **_V1}), "QKV O | W1 | LN FFN.LN | pos_proj pos_q_proj"),
        (_tiny("UMT5", "ForConditionalGeneration", "t5", _T5), "Q K V O | gate W1 | LN FFN.LN"),
    )
}  # fmt: skip


def modules_of(layer: str) -> set[str]:
    """The short words above, as canonical modules: attention, feed-forward, norms, and what is not certain."""
    attention, ffn, norms, *others = (part.split() for part in layer.split("|"))
    words = {"gate": "FFN.W1.gate", "W1": "FFN.W1", "both": "FFN.W1.both"}
    return {
        *(f"SelfAttn.{x}" for x in attention),
        *(words[x] for x in ffn if x != "experts"),
        *(x if x.startswith("FFN") else f"SelfAttn.{x}" for x in norms),
        *(f"Block.{x}" for part in others for x in part),
        "SelfAttn", "FFN", *(() if ffn == ["experts"] else ("FFN.W2",)),
    }  # fmt: skip
