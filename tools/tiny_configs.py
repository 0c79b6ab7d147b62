"""A small config of any text model of transformers: its default config with every size made small."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: Sizes by the field's name, the first that matches: width 32, 4 heads of 8, 2 layers.
SIZES: tuple[tuple[str, int], ...] = tuple(
    (rf"(\w+_)?({names})", size)
    for names, size in (
        ("rotary_dim|coordinate_size", 4),
        ("qk_head_dim", 16),
        ("true_hidden_size|intra_bottleneck_size", 32),
        ("mamba_n_heads|mamba_d_head", 8),
        ("(max|n|original_max)_(position_embeddings|positions|ctx|seq_len|source_positions|target_positions)", 128),
        ("seq_length|max_seq_len|max_sequence_length|max_length|context_length|max_latents_size", 128),
        ("vocab_size(_per_layer_input)?|ngram_vocab_size|num_embeddings|byte_group_vocab", 64),
        ("intermediate_size|ffn_dim|ffn_hidden_size|n_inner|d_ff|d_inner|ff_dim|mlp_hidden_size|inner_dim", 48),
        ("num_(hidden_)?layers|n_layers?|(en|de)coder_layers|decoder_layers|num_blocks", 2),
        ("num_(kv|key_value)_heads|n_head_kv|num_query_groups|num_k_heads|kv_n_heads", 2),
        ("num_(attention_)?heads?|n_heads?|attention_heads|num_v_heads", 4),
        ("head_dim|d_kv|d_head|attention_head_size|kv_channels|qk_(nope|rope)_head_dim|v_head_dim", 8),
        ("lora_rank|low_rank_dim|rank", 8),
        ("num_(local_|routed_)?experts|n_routed_experts|moe_num_experts|num_shared_experts_pool", 4),
        ("num_experts_per_tok(en)?|moe_topk|moe_k|moe_top_k|top_k_experts|experts_top_k", 2),
        ("n_groups?|topk_group|num_expert_groups?|n_shared_experts|num_shared_experts", 1),
        ("hidden_size_per_layer_input", 8),
        ("hidden_size|adapter_input_size|d_model|n_embd|embed_dim|embedding_size|dim|model_dim|lru_width|d_embed", 32),
        ("state_size|d_state|ssm_state_size|state_dim", 8),
        ("sliding_window|attention_window|window_size|local_attention|block_size|chunk_size", 16),
        ("feature_size|input_dim|output_dim|proj_dim|projection_dim|word_embed_proj_dim", 32),
    )
)
#: What no rule of names says, of one model type: fields of its config.
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1]},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "deepseek_v2": {"n_routed_experts": 4, "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "gemma3n_text": {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0, 0.0]},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8, "layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lilt": {"hidden_size": 48, "intermediate_size": 96},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "mistral4": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 64}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "hybrid"], "hybrid_layer_ids": [1, 2], "num_mem_blocks": 1, "attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "hybrid"], "attn_layer_period": 2, "attn_layer_offset": 1, "attention_hidden_size": 64, "attention_head_dim": 16},
    "ministral": {"head_dim": 8},
    "nemotron_h": {"layers_block_type": ["linear_attention", "full_attention", "mlp"]},
    "nemotron": {"num_key_value_heads": 2},
    "olmo_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "perceiver": {"d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 2, "vocab_size": 64},
    "qwen4_exp_text": {
        "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 16, "indexer_compress_ratio": 4,
    },
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"]},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}


def tiny_config(kind: str, head: str, tokens: Mapping[str, int | None]) -> Any:
    """A small config of this model type.

    Args:
        head: ``causal``, ``classification`` or ``sequence to sequence``.
        tokens: ``pad_token_id`` and the like, as the tokenizer has them, and ``vocab_size``.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[kind]
    try:
        default = config_class()
    except Exception:
        default = config_class(**OWN.get(kind, {}))
    made = _small(default, tokens) | OWN.get(kind, {})
    made |= {name: token for name, token in tokens.items() if name not in made and hasattr(default, name)}
    if head == "causal" and hasattr(default, "is_decoder"):
        made["is_decoder"] = True
    if head == "classification":
        made["num_labels"] = 2
    if getattr(default, "is_encoder_decoder", False):
        made["decoder_start_token_id"] = tokens["decoder_start_token_id"]
    return config_class(**made)


def _small(config: Any, tokens: Mapping[str, int | None]) -> dict[str, Any]:
    """The fields of a config that are to be other than by default."""
    found: dict[str, Any] = {}
    inner = set(getattr(type(config), "sub_configs", {}))
    fields = config.to_dict()
    for name, value in fields.items():
        if name in ("decoder_vocab_size", "src_vocab_size", "tgt_vocab_size"):
            found[name] = tokens["vocab_size"]
        elif name in tokens:
            found[name] = 1 if tokens[name] is None and name[:3] in ("cls", "sep") else tokens[name]
        elif name == "num_key_value_heads" and isinstance(value, int):
            found[name] = 4 if value == fields.get("num_attention_heads") else 2
        elif name in inner and getattr(config, name, None) is not None:
            inside = getattr(config, name)
            found[name] = _small(inside, tokens) | OWN.get(inside.model_type, {})
        elif isinstance(value, bool):
            if name == "use_cache":
                found[name] = False
        elif isinstance(value, int) and (size := _size(name)) is not None and value > size:
            found[name] = size
        elif (isinstance(value, float) and "dropout" in name) or name.endswith("_pdrop"):
            found[name] = type(value)(0)
        elif name in ("initializer_range", "init_std") and isinstance(value, float):
            found[name] = 0.1
        elif isinstance(value, list) and value and re.search("layer|pattern|block", name):
            # Of words, the first two kinds: a hybrid with one of them alone is another model.
            found[name] = ([*dict.fromkeys(value), *value] if isinstance(value[0], str) else value)[:2]
    return found


def _size(name: str) -> int | None:
    return next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), None)
