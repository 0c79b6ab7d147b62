"""The tables of names: which module of a backbone family is what, in the canonical vocabulary.

To add a family: one table here, and its tiny model in ``tests/tiny_families.py``. Then run
``python tools/make_compatibility.py``.

Canonical modules: ``SelfAttn.Q/K/V/O``, ``CrossAttn.Q/K/V/O``, ``FFN.W1``, ``FFN.W2`` (and ``FFN.W1.gate`` where the
feed-forward block is gated), the blocks ``SelfAttn``, ``CrossAttn``, ``FFN`` (their output before the residual
addition), and the norms ``Emb.LN``, ``SelfAttn.LN``, ``CrossAttn.LN``, ``FFN.LN``, ``Final.LN``. Where one matrix
computes queries, keys and values it is ``SelfAttn.QKV``, a single position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "norm", "block"]

#: Positions that stand for several canonical modules at once: who asks for one of those gets the whole.
PARTS: dict[str, tuple[str, ...]] = {"SelfAttn.QKV": ("SelfAttn.Q", "SelfAttn.K", "SelfAttn.V")}


@dataclass(frozen=True)
class Rule:
    """`pattern` matches a whole module name relative to the base model; group ``layer`` is its block."""

    pattern: str
    module: str
    kind: Kind
    stack: str = "encoder"


@dataclass(frozen=True)
class Family:
    """A family of backbones: the ``model_type`` values of its configs and its table of names."""

    name: str
    model_types: tuple[str, ...]
    rules: tuple[Rule, ...]

    @property
    def encoder_only(self) -> bool:
        return all(rule.stack == "encoder" for rule in self.rules)

    @property
    def decoder_only(self) -> bool:
        """No encoder: a causal language model."""
        return all(rule.stack == "decoder" for rule in self.rules)


def _attention(path: str, letters: str, stack: str, *, name: str = "SelfAttn") -> list[Rule]:
    """Linear layers at ``<path>.<one of letters>``, given in the order Q, K, V, O and parted by spaces."""
    return [
        Rule(rf"{path}\.{leaf}", f"{name}.{part}", "linear", stack)
        for part, leaf in zip("QKVO", letters.split(), strict=True)
    ]


def _t5() -> Family:
    rules: list[Rule] = []
    for stack, ffn in (("encoder", 1), ("decoder", 2)):
        block = rf"{stack}\.block\.(?P<layer>\d+)\.layer"
        attention = [("SelfAttn", rf"{block}\.0\.SelfAttention", 0)]
        if stack == "decoder":
            attention.append(("CrossAttn", rf"{block}\.1\.EncDecAttention", 1))
        for name, path, index in attention:
            rules += [
                *_attention(path, "q k v o", stack, name=name),
                Rule(path, name, "block", stack),
                Rule(rf"{block}\.{index}\.layer_norm", f"{name}.LN", "norm", stack),
            ]
        dense = rf"{block}\.{ffn}\.DenseReluDense"
        rules += [
            Rule(rf"{dense}\.(wi|wi_1)", "FFN.W1", "linear", stack),
            Rule(rf"{dense}\.wi_0", "FFN.W1.gate", "linear", stack),
            Rule(rf"{dense}\.wo", "FFN.W2", "linear", stack),
            Rule(dense, "FFN", "block", stack),
            Rule(rf"{block}\.{ffn}\.layer_norm", "FFN.LN", "norm", stack),
            Rule(rf"{stack}\.final_layer_norm", "Final.LN", "norm", stack),
        ]
    return Family("t5", ("t5", "mt5"), tuple(rules))


def _bart_layers(block: str, stack: str) -> list[Rule]:
    """What a layer of BART and of OPT have in common. No module holds the feed-forward block: its output is fc2's."""
    return [
        *_attention(rf"{block}\.self_attn", "q_proj k_proj v_proj out_proj", stack),
        Rule(rf"{block}\.self_attn", "SelfAttn", "block", stack),
        Rule(rf"{block}\.self_attn_layer_norm", "SelfAttn.LN", "norm", stack),
        Rule(rf"{block}\.fc1", "FFN.W1", "linear", stack),
        Rule(rf"{block}\.fc2", "FFN.W2", "linear", stack),
        Rule(rf"{block}\.fc2", "FFN", "block", stack),
        Rule(rf"{block}\.final_layer_norm", "FFN.LN", "norm", stack),
    ]


def _bart() -> Family:
    rules: list[Rule] = []
    for stack in ("encoder", "decoder"):
        block = rf"{stack}\.layers\.(?P<layer>\d+)"
        rules += [*_bart_layers(block, stack), Rule(rf"{stack}\.layernorm_embedding", "Emb.LN", "norm", stack)]
        if stack == "decoder":
            cross = rf"{block}\.encoder_attn"
            rules += [
                *_attention(cross, "q_proj k_proj v_proj out_proj", stack, name="CrossAttn"),
                Rule(cross, "CrossAttn", "block", stack),
                Rule(rf"{block}\.encoder_attn_layer_norm", "CrossAttn.LN", "norm", stack),
            ]
    return Family("bart", ("bart",), tuple(rules))


def _bert(name: str, model_types: tuple[str, ...], qkv: str) -> Family:
    layer = r"encoder\.layer\.(?P<layer>\d+)"
    return Family(
        name,
        model_types,
        (
            *_attention(rf"{layer}\.attention", rf"{qkv} output\.dense", "encoder"),
            # The residual is added inside attention.output, so the block's output is its dense layer's.
            Rule(rf"{layer}\.attention\.output\.dense", "SelfAttn", "block"),
            Rule(rf"{layer}\.attention\.output\.LayerNorm", "SelfAttn.LN", "norm"),
            Rule(rf"{layer}\.intermediate\.dense", "FFN.W1", "linear"),
            Rule(rf"{layer}\.output\.dense", "FFN.W2", "linear"),
            Rule(rf"{layer}\.output\.dense", "FFN", "block"),
            Rule(rf"{layer}\.output\.LayerNorm", "FFN.LN", "norm"),
            Rule(r"embeddings\.LayerNorm", "Emb.LN", "norm"),
        ),
    )


def _distilbert() -> Family:
    layer = r"transformer\.layer\.(?P<layer>\d+)"
    return Family(
        "distilbert",
        ("distilbert",),
        (
            *_attention(rf"{layer}\.attention", "q_lin k_lin v_lin out_lin", "encoder"),
            Rule(rf"{layer}\.attention", "SelfAttn", "block"),
            Rule(rf"{layer}\.sa_layer_norm", "SelfAttn.LN", "norm"),
            Rule(rf"{layer}\.ffn\.lin1", "FFN.W1", "linear"),
            Rule(rf"{layer}\.ffn\.lin2", "FFN.W2", "linear"),
            Rule(rf"{layer}\.ffn", "FFN", "block"),
            Rule(rf"{layer}\.output_layer_norm", "FFN.LN", "norm"),
            Rule(r"embeddings\.LayerNorm", "Emb.LN", "norm"),
        ),
    )


def _gpt2() -> Family:
    block = r"h\.(?P<layer>\d+)"
    places: tuple[tuple[str, str, Kind], ...] = (
        (rf"{block}\.attn\.c_attn", "SelfAttn.QKV", "linear"),
        (rf"{block}\.attn\.c_proj", "SelfAttn.O", "linear"),
        (rf"{block}\.attn", "SelfAttn", "block"),
        (rf"{block}\.ln_1", "SelfAttn.LN", "norm"),
        (rf"{block}\.mlp\.c_fc", "FFN.W1", "linear"),
        (rf"{block}\.mlp\.c_proj", "FFN.W2", "linear"),
        (rf"{block}\.mlp", "FFN", "block"),
        (rf"{block}\.ln_2", "FFN.LN", "norm"),
        (r"ln_f", "Final.LN", "norm"),
    )
    return Family("gpt2", ("gpt2",), tuple(Rule(*place, "decoder") for place in places))


def _opt() -> Family:
    rules = _bart_layers(r"decoder\.layers\.(?P<layer>\d+)", "decoder")
    return Family("opt", ("opt",), (*rules, Rule(r"decoder\.final_layer_norm", "Final.LN", "norm", "decoder")))


def _llama() -> Family:
    """Also Mistral, Qwen2 and Gemma: the same names, with norms of their own (see `pet.modules.LNFit`)."""
    block = r"layers\.(?P<layer>\d+)"
    return Family(
        "llama",
        ("llama", "mistral", "qwen2", "gemma"),
        (
            *_attention(rf"{block}\.self_attn", "q_proj k_proj v_proj o_proj", "decoder"),
            Rule(rf"{block}\.self_attn", "SelfAttn", "block", "decoder"),
            Rule(rf"{block}\.input_layernorm", "SelfAttn.LN", "norm", "decoder"),
            Rule(rf"{block}\.mlp\.up_proj", "FFN.W1", "linear", "decoder"),
            Rule(rf"{block}\.mlp\.gate_proj", "FFN.W1.gate", "linear", "decoder"),
            Rule(rf"{block}\.mlp\.down_proj", "FFN.W2", "linear", "decoder"),
            Rule(rf"{block}\.mlp", "FFN", "block", "decoder"),
            Rule(rf"{block}\.post_attention_layernorm", "FFN.LN", "norm", "decoder"),
            Rule(r"norm", "Final.LN", "norm", "decoder"),
        ),
    )


#: The one place to add a backbone family.
FAMILIES: tuple[Family, ...] = (
    _t5(),
    _bart(),
    _bert("bert", ("bert", "roberta", "xlm-roberta", "camembert", "electra"), r"self\.query self\.key self\.value"),
    _bert("deberta-v2", ("deberta-v2",), r"self\.query_proj self\.key_proj self\.value_proj"),
    _distilbert(),
    _gpt2(),
    _opt(),
    _llama(),
)
