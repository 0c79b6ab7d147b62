"""A small config of any text model of transformers: its default config with every size made small."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: Sizes by the field's name, the first that matches: width 32, 4 heads of 8, 2 layers.
SIZES: tuple[tuple[str, int], ...] = tuple(
    (rf"(\w+_)?({names})", size)
    for names, size in (
        ("(max|n|original_max)_(position_embeddings|positions|ctx|seq_len|source_positions|target_positions)", 128),
        ("seq_length|max_seq_len|max_sequence_length|max_length|context_length|max_latents_size", 128),
        ("vocab_size(_per_layer_input)?|ngram_vocab_size|num_embeddings", 64),
        ("intermediate_size|ffn_dim|ffn_hidden_size|n_inner|d_ff|d_inner|ff_dim|mlp_hidden_size|inner_dim", 48),
        ("num_(hidden_)?layers|n_layers?|(en|de)coder_layers|decoder_layers|num_blocks", 2),
        ("num_key_value_heads|num_kv_heads|n_head_kv|num_query_groups|num_k_heads", 2),
        ("num_(attention_)?heads?|n_heads?|attention_heads|num_v_heads", 4),
        ("head_dim|d_kv|d_head|attention_head_size|kv_channels|qk_(nope|rope)_head_dim|v_head_dim|qk_head_dim", 8),
        ("lora_rank|low_rank_dim|rank", 8),
        ("num_(local_|routed_)?experts|n_routed_experts|moe_num_experts|num_shared_experts_pool", 4),
        ("num_experts_per_tok(en)?|moe_topk|moe_k|moe_top_k|top_k_experts|experts_top_k", 2),
        ("n_group|topk_group|num_expert_groups|n_shared_experts|num_shared_experts", 1),
        ("hidden_size(_per_layer_input)?|d_model|n_embd|embed_dim|embedding_size|dim|model_dim|lru_width|d_embed", 32),
        ("state_size|d_state|ssm_state_size|state_dim", 8),
        ("sliding_window|attention_window|window_size|local_attention|block_size|chunk_size", 16),
        ("feature_size|input_dim|output_dim|proj_dim|projection_dim|word_embed_proj_dim", 32),
        ("num_hash_functions|num_hash_buckets", 4),
    )
)
#: What no rule of names says, of one model type: fields of its config.
OWN: dict[str, dict[str, Any]] = {}


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
    fields = _small(default, tokens) | OWN.get(kind, {})
    if head == "causal" and hasattr(default, "is_decoder"):
        fields["is_decoder"] = True
    return config_class(**fields)


def _small(config: Any, tokens: Mapping[str, int | None]) -> dict[str, Any]:
    """The fields of a config that are to be other than by default."""
    found: dict[str, Any] = {}
    inner = set(getattr(type(config), "sub_configs", {}))
    for name, value in config.to_dict().items():
        if name in tokens:
            found[name] = tokens[name]
        elif name in inner and getattr(config, name, None) is not None:
            found[name] = _small(getattr(config, name), tokens)
        elif isinstance(value, bool):
            if name == "use_cache":
                found[name] = False
        elif isinstance(value, int) and (size := _size(name)) is not None and value > size:
            found[name] = size
        elif (isinstance(value, float) and "dropout" in name) or name.endswith("_pdrop"):
            found[name] = 0.0
        elif name in ("initializer_range", "init_std") and isinstance(value, float):
            found[name] = 0.3
        elif isinstance(value, list) and value and re.search("layer|pattern|block", name):
            found[name] = value[:2]
    return found


def _size(name: str) -> int | None:
    return next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), None)
