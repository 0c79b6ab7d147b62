"""Each backbone family's table of names, on a tiny model of it: one abstract case, subclassed per family."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest
import torch
from problems import tiny_model
from torch import nn
from transformers import ElectraConfig, ElectraForSequenceClassification, GPT2Config, GPT2LMHeadModel

from s3pet_viz.backbones import FAMILIES, family_of, positions
from s3pet_viz.errors import BackboneError

ATTENTION = ("Q", "K", "V", "O")


class FamilyCase:
    form: ClassVar[str]
    family: ClassVar[str]
    #: (stack, layer) -> canonical modules there, sorted
    layers: ClassVar[dict[tuple[str, int], list[str]]]
    #: a few names by hand: name -> (module, stack, layer, kind, in, out)
    named: ClassVar[dict[str, tuple]]
    #: linear layers and norms that are no position
    not_named: ClassVar[list[str]]

    def model(self) -> nn.Module:
        return tiny_model(self.form)

    def test_family(self):
        assert family_of(self.model()).name == self.family

    def test_every_layer_has_its_modules(self):
        found: dict[tuple[str, int], list[str]] = {}
        for p in positions(self.model()):
            found.setdefault((p.stack, p.layer), []).append(p.module)
        assert {k: sorted(v) for k, v in found.items()} == {k: sorted(v) for k, v in self.layers.items()}

    def test_names_by_hand(self):
        found = {(p.name, p.module): p for p in positions(self.model())}
        for name, (module, stack, layer, kind, width_in, width_out) in self.named.items():
            p = found[name, module]
            assert (p.stack, p.layer, p.kind) == (stack, layer, kind)
            assert (p.in_features, p.out_features) == (width_in, width_out)

    def test_targets_are_the_models_own_modules(self):
        model = self.model()
        for p in positions(model):
            assert p.target is model.base_model.get_submodule(p.name)
            if p.kind == "linear":
                assert tuple(p.target.weight.shape) == (p.out_features, p.in_features)
            if p.kind == "norm":
                assert tuple(p.target.weight.shape) == (p.in_features,)
                assert p.module.endswith(".LN")

    def test_every_linear_layer_and_norm_of_the_stacks_is_named(self):
        model = self.model()
        named = {p.name for p in positions(model)}
        left = [
            n
            for n, m in model.base_model.named_modules()
            if (isinstance(m, nn.Linear) or type(m).__name__.endswith("LayerNorm")) and n not in named
        ]
        assert left == self.not_named

    def test_no_place_twice(self):
        counts = Counter((p.name, p.module) for p in positions(self.model()))
        assert set(counts.values()) == {1}

    def test_block_outputs_are_as_wide_as_the_residual_stream(self):
        """An adapter on a block reads its output, so that has to have the declared width."""
        model = self.model().eval()
        seen = {}
        handles = [
            p.target.register_forward_hook(
                lambda _, __, out, p=p: seen.update({p.name: (out[0] if isinstance(out, tuple) else out).shape[-1]})
            )
            for p in positions(model)
            if p.kind == "block"
        ]
        ids = torch.tensor([[5, 6, 7]])
        model(input_ids=ids, **({"labels": ids} if self.form in ("t5", "gated") else {}))
        assert len(seen) == len(handles)
        assert set(seen.values()) == {32}


def t5_layers(gate: list[str]) -> dict[tuple[str, int], list[str]]:
    def attention(name: str) -> list[str]:
        return [*(f"{name}.{x}" for x in ATTENTION), name, f"{name}.LN"]

    ffn = [*gate, "FFN.W1", "FFN.W2", "FFN", "FFN.LN"]
    encoder = [*attention("SelfAttn"), *ffn]
    decoder = [*attention("SelfAttn"), *attention("CrossAttn"), *ffn]
    return {
        **{("encoder", i): encoder for i in range(2)}, ("encoder", 2): ["Final.LN"],
        **{("decoder", i): decoder for i in range(2)}, ("decoder", 2): ["Final.LN"],
    }  # fmt: skip


class TestT5(FamilyCase):
    form, family = "t5", "t5"
    not_named: ClassVar = ["lm_head"]
    layers = t5_layers([])
    named: ClassVar = {
        "encoder.block.1.layer.0.SelfAttention.q": ("SelfAttn.Q", "encoder", 1, "linear", 32, 32),
        "encoder.block.0.layer.0.SelfAttention": ("SelfAttn", "encoder", 0, "block", 32, 32),
        "encoder.block.0.layer.1.DenseReluDense.wi": ("FFN.W1", "encoder", 0, "linear", 32, 48),
        "decoder.block.1.layer.2.DenseReluDense.wo": ("FFN.W2", "decoder", 1, "linear", 48, 32),
        "decoder.block.0.layer.2.DenseReluDense": ("FFN", "decoder", 0, "block", 32, 32),
        "decoder.block.1.layer.1.EncDecAttention.k": ("CrossAttn.K", "decoder", 1, "linear", 32, 32),
        "decoder.block.1.layer.1.layer_norm": ("CrossAttn.LN", "decoder", 1, "norm", 32, 32),
        "decoder.block.1.layer.2.layer_norm": ("FFN.LN", "decoder", 1, "norm", 32, 32),
        "encoder.final_layer_norm": ("Final.LN", "encoder", 2, "norm", 32, 32),
        "decoder.final_layer_norm": ("Final.LN", "decoder", 2, "norm", 32, 32),
    }

    def test_stacks_of_unequal_depth(self):
        found = positions(tiny_model("t5", num_layers=3, num_decoder_layers=1))
        assert {(p.stack, p.layer) for p in found if p.module == "Final.LN"} == {("encoder", 3), ("decoder", 1)}

    def test_heads_need_not_add_up_to_the_width(self):
        """T5's inner width is num_heads * d_kv, whatever d_model is."""
        found = {p.module: p for p in positions(tiny_model("t5", d_kv=5)) if p.stack == "encoder"}
        assert (found["SelfAttn.Q"].in_features, found["SelfAttn.Q"].out_features) == (32, 20)
        assert (found["SelfAttn.O"].in_features, found["SelfAttn.O"].out_features) == (20, 32)
        assert found["SelfAttn"].out_features == 32


class TestGatedT5(FamilyCase):
    form, family = "gated", "t5"
    not_named: ClassVar = ["lm_head"]
    layers = t5_layers(["FFN.W1.gate"])
    named: ClassVar = {
        "encoder.block.0.layer.1.DenseReluDense.wi_0": ("FFN.W1.gate", "encoder", 0, "linear", 32, 48),
        "encoder.block.0.layer.1.DenseReluDense.wi_1": ("FFN.W1", "encoder", 0, "linear", 32, 48),
        "decoder.block.1.layer.2.DenseReluDense.wo": ("FFN.W2", "decoder", 1, "linear", 48, 32),
    }


_ENCODER_LAYER = [
    *(f"SelfAttn.{x}" for x in ATTENTION), "SelfAttn", "SelfAttn.LN", "FFN.W1", "FFN.W2", "FFN", "FFN.LN",
]  # fmt: skip


class TestBert(FamilyCase):
    form, family = "bert", "bert"
    not_named: ClassVar = ["pooler.dense"]
    layers: ClassVar = {
        ("encoder", -1): ["Emb.LN"], ("encoder", 0): _ENCODER_LAYER, ("encoder", 1): _ENCODER_LAYER,
    }  # fmt: skip
    named: ClassVar = {
        "embeddings.LayerNorm": ("Emb.LN", "encoder", -1, "norm", 32, 32),
        "encoder.layer.0.attention.self.query": ("SelfAttn.Q", "encoder", 0, "linear", 32, 32),
        "encoder.layer.1.attention.output.dense": ("SelfAttn.O", "encoder", 1, "linear", 32, 32),
        "encoder.layer.1.attention.output.LayerNorm": ("SelfAttn.LN", "encoder", 1, "norm", 32, 32),
        "encoder.layer.0.intermediate.dense": ("FFN.W1", "encoder", 0, "linear", 32, 48),
        "encoder.layer.0.output.dense": ("FFN.W2", "encoder", 0, "linear", 48, 32),
        "encoder.layer.1.output.LayerNorm": ("FFN.LN", "encoder", 1, "norm", 32, 32),
    }

    def test_dense_layers_are_blocks_too(self):
        found = {(p.name, p.module): p for p in positions(self.model())}
        assert found["encoder.layer.0.attention.output.dense", "SelfAttn"].kind == "block"
        block = found["encoder.layer.0.output.dense", "FFN"]
        assert (block.kind, block.in_features, block.out_features) == ("block", 32, 32)


class TestRoberta(TestBert):
    form = "roberta"
    not_named: ClassVar = []


class TestElectra(TestBert):
    """Embeddings narrower than the layers."""

    not_named: ClassVar = ["embeddings_project"]
    named: ClassVar = {
        "embeddings.LayerNorm": ("Emb.LN", "encoder", -1, "norm", 16, 16),
        "encoder.layer.0.output.dense": ("FFN.W2", "encoder", 0, "linear", 48, 32),
    }

    def model(self):
        return ElectraForSequenceClassification(
            ElectraConfig(
                vocab_size=40, embedding_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                intermediate_size=48,
            )
        )  # fmt: skip


def test_an_unknown_family_is_named_with_those_known():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=4))
    for ask in (family_of, positions):
        with pytest.raises(BackboneError, match=r"known family \(t5, mt5, bert, .*\), found 'gpt2'"):
            ask(model)
    with pytest.raises(BackboneError, match="found 'Linear'"):
        family_of(nn.Linear(2, 2))


def test_a_model_that_its_table_does_not_fit():
    class Hollow(nn.Module):
        config = tiny_model("bert").config

    with pytest.raises(BackboneError, match="no module of this Hollow matches the table of 'bert'"):
        positions(Hollow())


def test_no_model_type_twice():
    types = [t for f in FAMILIES for t in f.model_types]
    assert len(types) == len(set(types))
