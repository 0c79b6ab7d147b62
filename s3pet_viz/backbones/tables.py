"""The tables of names: which module of a backbone family is what, in the canonical vocabulary.

To add a family: one table here, and its tiny model in ``tests/tiny_families.py``. Then run
``python tools/make_compatibility.py``.

CONTRIBUTING.md lists the canonical modules. Where one matrix computes queries, keys and values it is ``SelfAttn.QKV``,
a single position.
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


def _rules(stack: str, block: str, *places: str) -> list[Rule]:
    """Rules of ``<name within the block> <canonical module>``; the module says its kind."""
    made = []
    for place in places:
        name, module = place.split()
        kind: Kind = "norm" if module.endswith(".LN") else "linear" if "." in module else "block"
        made.append(Rule(block + name.replace(".", r"\."), module, kind, stack))
    return made


def _attention(stack: str, path: str, letters: str, *, name: str = "SelfAttn") -> list[Rule]:
    """Linear layers at ``<path>.<one of letters>``, given in the order Q, K, V, O and parted by spaces."""
    parts = zip("QKVO", letters.split(), strict=True)
    return _rules(stack, rf"{path}\.", *(f"{leaf} {name}.{part}" for part, leaf in parts))


def _t5() -> Family:
    rules: list[Rule] = []
    for stack, ffn in (("encoder", 1), ("decoder", 2)):
        block = rf"{stack}\.block\.(?P<layer>\d+)\.layer\."
        attention = [("SelfAttn", "0.SelfAttention", 0)]
        if stack == "decoder":
            attention.append(("CrossAttn", "1.EncDecAttention", 1))
        for name, path, index in attention:
            rules += _attention(stack, block + path.replace(".", r"\."), "q k v o", name=name)
            rules += _rules(stack, block, f"{path} {name}", f"{index}.layer_norm {name}.LN")
        dense = f"{ffn}.DenseReluDense"
        rules += _rules(stack, block, f"{dense}.(wi|wi_1) FFN.W1", f"{dense}.wi_0 FFN.W1.gate", f"{dense}.wo FFN.W2")
        rules += _rules(stack, block, f"{dense} FFN", f"{ffn}.layer_norm FFN.LN")
        rules += _rules(stack, "", f"{stack}.final_layer_norm Final.LN")
    return Family("t5", ("t5", "mt5"), tuple(rules))


def _bart_layers(block: str, stack: str) -> list[Rule]:
    """What a layer of BART and of OPT have in common. No module holds the feed-forward block: its output is fc2's."""
    places = ("self_attn SelfAttn", "self_attn_layer_norm SelfAttn.LN", "fc1 FFN.W1", "fc2 FFN.W2", "fc2 FFN")
    attention = _attention(stack, rf"{block}self_attn", "q_proj k_proj v_proj out_proj")
    return attention + _rules(stack, block, *places, "final_layer_norm FFN.LN")


def _bart() -> Family:
    rules: list[Rule] = []
    for stack in ("encoder", "decoder"):
        block = rf"{stack}\.layers\.(?P<layer>\d+)\."
        rules += [*_bart_layers(block, stack), *_rules(stack, "", f"{stack}.layernorm_embedding Emb.LN")]
        if stack == "decoder":
            rules += _attention(stack, rf"{block}encoder_attn", "q_proj k_proj v_proj out_proj", name="CrossAttn")
            rules += _rules(stack, block, "encoder_attn CrossAttn", "encoder_attn_layer_norm CrossAttn.LN")
    return Family("bart", ("bart",), tuple(rules))


def _bert(name: str, model_types: tuple[str, ...], qkv: str) -> Family:
    layer = r"encoder\.layer\.(?P<layer>\d+)\."
    rules = _attention("encoder", rf"{layer}attention", f"{qkv} output.dense")
    # The residual is added inside attention.output, so the block's output is its dense layer's.
    rules += _rules("encoder", layer, "attention.output.dense SelfAttn", "attention.output.LayerNorm SelfAttn.LN")
    rules += _rules("encoder", layer, "intermediate.dense FFN.W1", "output.dense FFN.W2", "output.dense FFN")
    rules += _rules("encoder", layer, "output.LayerNorm FFN.LN") + _rules("encoder", "", "embeddings.LayerNorm Emb.LN")
    return Family(name, model_types, tuple(rules))


def _distilbert() -> Family:
    layer = r"transformer\.layer\.(?P<layer>\d+)\."
    rules = _attention("encoder", rf"{layer}attention", "q_lin k_lin v_lin out_lin")
    rules += _rules("encoder", layer, "attention SelfAttn", "sa_layer_norm SelfAttn.LN", "ffn.lin1 FFN.W1")
    rules += _rules("encoder", layer, "ffn.lin2 FFN.W2", "ffn FFN", "output_layer_norm FFN.LN")
    return Family("distilbert", ("distilbert",), (*rules, *_rules("encoder", "", "embeddings.LayerNorm Emb.LN")))


def _gpt2() -> Family:
    block = r"h\.(?P<layer>\d+)\."
    rules = _rules("decoder", block, "attn.c_attn SelfAttn.QKV", "attn.c_proj SelfAttn.O", "attn SelfAttn")
    rules += _rules("decoder", block, "ln_1 SelfAttn.LN", "mlp.c_fc FFN.W1", "mlp.c_proj FFN.W2", "mlp FFN")
    rules += _rules("decoder", block, "ln_2 FFN.LN") + _rules("decoder", "", "ln_f Final.LN")
    return Family("gpt2", ("gpt2",), tuple(rules))


def _opt() -> Family:
    rules = _bart_layers(r"decoder\.layers\.(?P<layer>\d+)\.", "decoder")
    return Family("opt", ("opt",), (*rules, *_rules("decoder", "", "decoder.final_layer_norm Final.LN")))


def _llama() -> Family:
    """Also Mistral, Qwen2 and Gemma: the same names, with norms of their own (see `pet.modules.LNFit`)."""
    block = r"layers\.(?P<layer>\d+)\."
    rules = _attention("decoder", rf"{block}self_attn", "q_proj k_proj v_proj o_proj")
    rules += _rules("decoder", block, "self_attn SelfAttn", "input_layernorm SelfAttn.LN", "mlp.up_proj FFN.W1")
    rules += _rules("decoder", block, "mlp.gate_proj FFN.W1.gate", "mlp.down_proj FFN.W2", "mlp FFN")
    rules += _rules("decoder", block, "post_attention_layernorm FFN.LN") + _rules("decoder", "", "norm Final.LN")
    return Family("llama", ("llama", "mistral", "qwen2", "gemma"), tuple(rules))


#: The one place to add a backbone family.
FAMILIES: tuple[Family, ...] = (
    _t5(),
    _bart(),
    _bert("bert", ("bert", "roberta", "xlm-roberta", "camembert", "electra"), "self.query self.key self.value"),
    _bert("deberta-v2", ("deberta-v2",), "self.query_proj self.key_proj self.value_proj"),
    _distilbert(),
    _gpt2(),
    _opt(),
    _llama(),
)
