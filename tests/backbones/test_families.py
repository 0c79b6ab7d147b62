"""Each backbone family's table of names, on a tiny model of it: one abstract case, subclassed per family."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import ClassVar

import pytest
from problems import tiny_model
from tiny_families import TINY, TinyFamily, tiny_family
from torch import nn
from transformers import ElectraConfig, ElectraForSequenceClassification

from s3pet_viz.backbones import FAMILIES, family_of, is_conv1d, positions
from s3pet_viz.errors import BackboneError

ATTENTION = ("Q", "K", "V", "O")


class FamilyCase:
    #: of `tiny_families.TINY`
    name: ClassVar[str]
    family: ClassVar[str]
    #: (stack, layer) -> canonical modules there, sorted
    layers: ClassVar[dict[tuple[str, int], list[str]]]
    #: a few names by hand: name -> (module, stack, layer, kind, in, out)
    named: ClassVar[dict[str, tuple]]

    @property
    def tiny(self) -> TinyFamily:
        return tiny_family(self.name)

    def model(self) -> nn.Module:
        return self.tiny.model()

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
                shape = tuple(p.target.weight.shape)
                assert (shape[::-1] if is_conv1d(p.target) else shape) == (p.out_features, p.in_features)
            if p.kind == "norm":
                assert tuple(p.target.weight.shape) == (p.in_features,)
                assert p.module.endswith(".LN")

    def test_every_linear_layer_and_norm_of_the_stacks_is_named(self):
        """Or left out for a reason that the compatibility table gives."""
        model = self.model()
        named = {p.name for p in positions(model)}
        left = [n for n, m in model.base_model.named_modules() if is_layer(m) and n not in named]
        assert sorted(left) == sorted(self.tiny.left_out)
        assert all(self.tiny.left_out.values())

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
        model(**self.tiny.inputs())
        assert len(seen) == len(handles)
        assert set(seen.values()) == {32}


def is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_conv1d(module) or type(module).__name__.endswith("Norm")


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
    name, family = "t5", "t5"
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
    name, family = "t5 v1.1 (Flan)", "t5"
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
    name, family = "bert", "bert"
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
    name = "roberta"


class TestElectra(TestBert):
    """Embeddings narrower than the layers."""

    @property
    def tiny(self) -> TinyFamily:
        return replace(tiny_family("bert"), left_out={"embeddings_project": "between the embedding and the first block"})

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


class TestDeberta(FamilyCase):
    name, family = "deberta-v2 / v3", "deberta-v2"
    layers = TestBert.layers
    named: ClassVar = {
        "embeddings.LayerNorm": ("Emb.LN", "encoder", -1, "norm", 32, 32),
        "encoder.layer.0.attention.self.query_proj": ("SelfAttn.Q", "encoder", 0, "linear", 32, 32),
        "encoder.layer.1.attention.self.value_proj": ("SelfAttn.V", "encoder", 1, "linear", 32, 32),
        "encoder.layer.1.attention.output.dense": ("SelfAttn.O", "encoder", 1, "linear", 32, 32),
        "encoder.layer.0.intermediate.dense": ("FFN.W1", "encoder", 0, "linear", 32, 48),
        "encoder.layer.1.output.LayerNorm": ("FFN.LN", "encoder", 1, "norm", 32, 32),
    }

    def test_position_projections_of_their_own_are_no_position(self):
        """v2 may have them; v3 shares the content's."""
        model = self.tiny.model(share_att_key=False)
        names = [n for n, _ in model.base_model.named_modules() if n.endswith("pos_key_proj")]
        assert names
        assert not {p.name for p in positions(model)} & set(names)


class TestDistilBert(FamilyCase):
    name, family = "distilbert", "distilbert"
    layers = TestBert.layers
    named: ClassVar = {
        "embeddings.LayerNorm": ("Emb.LN", "encoder", -1, "norm", 32, 32),
        "transformer.layer.0.attention.q_lin": ("SelfAttn.Q", "encoder", 0, "linear", 32, 32),
        "transformer.layer.1.attention.out_lin": ("SelfAttn.O", "encoder", 1, "linear", 32, 32),
        "transformer.layer.1.attention": ("SelfAttn", "encoder", 1, "block", 32, 32),
        "transformer.layer.1.sa_layer_norm": ("SelfAttn.LN", "encoder", 1, "norm", 32, 32),
        "transformer.layer.0.ffn.lin1": ("FFN.W1", "encoder", 0, "linear", 32, 48),
        "transformer.layer.0.ffn.lin2": ("FFN.W2", "encoder", 0, "linear", 48, 32),
        "transformer.layer.0.ffn": ("FFN", "encoder", 0, "block", 32, 32),
        "transformer.layer.1.output_layer_norm": ("FFN.LN", "encoder", 1, "norm", 32, 32),
    }


class TestBart(FamilyCase):
    name, family = "bart", "bart"
    layers: ClassVar = {
        **{k: v for k, v in t5_layers([]).items() if k[1] < 2},
        ("encoder", -1): ["Emb.LN"], ("decoder", -1): ["Emb.LN"],
    }  # fmt: skip
    named: ClassVar = {
        "encoder.layernorm_embedding": ("Emb.LN", "encoder", -1, "norm", 32, 32),
        "encoder.layers.1.self_attn.q_proj": ("SelfAttn.Q", "encoder", 1, "linear", 32, 32),
        "encoder.layers.1.self_attn": ("SelfAttn", "encoder", 1, "block", 32, 32),
        "decoder.layers.0.encoder_attn.out_proj": ("CrossAttn.O", "decoder", 0, "linear", 32, 32),
        "decoder.layers.0.encoder_attn": ("CrossAttn", "decoder", 0, "block", 32, 32),
        "decoder.layers.0.encoder_attn_layer_norm": ("CrossAttn.LN", "decoder", 0, "norm", 32, 32),
        "decoder.layers.1.fc1": ("FFN.W1", "decoder", 1, "linear", 32, 48),
        # The last norm of a layer, in spite of its name.
        "decoder.layers.1.final_layer_norm": ("FFN.LN", "decoder", 1, "norm", 32, 32),
    }

    def test_the_second_matrix_is_the_block_too(self):
        found = {(p.name, p.module): p for p in positions(self.model())}
        assert found["encoder.layers.0.fc2", "FFN.W2"].in_features == 48
        assert found["encoder.layers.0.fc2", "FFN"].in_features == 32


def decoder_layers(attention: str, gate: list[str]) -> dict[tuple[str, int], list[str]]:
    block = [
        *(f"SelfAttn.{x}" for x in attention.split()), "SelfAttn", "SelfAttn.LN", *gate, "FFN.W1", "FFN.W2", "FFN",
        "FFN.LN",
    ]  # fmt: skip
    return {("decoder", 0): block, ("decoder", 1): block, ("decoder", 2): ["Final.LN"]}


class TestGpt2(FamilyCase):
    name, family = "gpt2", "gpt2"
    layers = decoder_layers("QKV O", [])
    named: ClassVar = {
        "h.0.attn.c_attn": ("SelfAttn.QKV", "decoder", 0, "linear", 32, 96),
        "h.1.attn.c_proj": ("SelfAttn.O", "decoder", 1, "linear", 32, 32),
        "h.1.attn": ("SelfAttn", "decoder", 1, "block", 32, 32),
        "h.0.ln_1": ("SelfAttn.LN", "decoder", 0, "norm", 32, 32),
        "h.0.mlp.c_fc": ("FFN.W1", "decoder", 0, "linear", 32, 48),
        "h.0.mlp.c_proj": ("FFN.W2", "decoder", 0, "linear", 48, 32),
        "h.0.mlp": ("FFN", "decoder", 0, "block", 32, 32),
        "h.0.ln_2": ("FFN.LN", "decoder", 0, "norm", 32, 32),
        "ln_f": ("Final.LN", "decoder", 2, "norm", 32, 32),
    }


class TestGpt2Classifier(TestGpt2):
    name = "gpt2, classification"


class TestOpt(FamilyCase):
    name, family = "opt", "opt"
    layers = decoder_layers("Q K V O", [])
    named: ClassVar = {
        "decoder.layers.0.self_attn.q_proj": ("SelfAttn.Q", "decoder", 0, "linear", 32, 32),
        "decoder.layers.1.self_attn.out_proj": ("SelfAttn.O", "decoder", 1, "linear", 32, 32),
        "decoder.layers.1.self_attn_layer_norm": ("SelfAttn.LN", "decoder", 1, "norm", 32, 32),
        "decoder.layers.0.final_layer_norm": ("FFN.LN", "decoder", 0, "norm", 32, 32),
        "decoder.layers.0.fc1": ("FFN.W1", "decoder", 0, "linear", 32, 48),
        "decoder.final_layer_norm": ("Final.LN", "decoder", 2, "norm", 32, 32),
    }

    def test_norms_behind_their_blocks(self):
        """OPT-350m has them there, and no final one."""
        found = {p.module for p in positions(self.tiny.model(do_layer_norm_before=False))}
        assert found == {m for at, modules in self.layers.items() for m in modules if at[1] < 2}


class TestLlama(FamilyCase):
    name, family = "llama", "llama"
    layers = decoder_layers("Q K V O", ["FFN.W1.gate"])
    kv, inner = 16, 32
    named: ClassVar = {
        "layers.0.self_attn": ("SelfAttn", "decoder", 0, "block", 32, 32),
        "layers.0.input_layernorm": ("SelfAttn.LN", "decoder", 0, "norm", 32, 32),
        "layers.0.mlp.gate_proj": ("FFN.W1.gate", "decoder", 0, "linear", 32, 48),
        "layers.0.mlp.up_proj": ("FFN.W1", "decoder", 0, "linear", 32, 48),
        "layers.1.mlp.down_proj": ("FFN.W2", "decoder", 1, "linear", 48, 32),
        "layers.1.mlp": ("FFN", "decoder", 1, "block", 32, 32),
        "layers.1.post_attention_layernorm": ("FFN.LN", "decoder", 1, "norm", 32, 32),
        "norm": ("Final.LN", "decoder", 2, "norm", 32, 32),
    }

    def test_keys_and_values_of_fewer_heads_are_narrower(self):
        found = {p.module: p for p in positions(self.model()) if p.layer == 1}
        assert [found[f"SelfAttn.{x}"].out_features for x in ATTENTION] == [self.inner, self.kv, self.kv, 32]
        assert found["SelfAttn.O"].in_features == self.inner


class TestLlamaClassifier(TestLlama):
    name = "llama, classification"


class TestMistral(TestLlama):
    name = "mistral"


class TestQwen2(TestLlama):
    name = "qwen2"


class TestGemma(TestLlama):
    """Its heads are wider than the stream asks for."""

    name, kv, inner = "gemma", 32, 64


def test_every_family_and_every_tiny_model_has_its_case():
    cases = {c.name for c in FamilyCase.__subclasses__() for c in (c, *c.__subclasses__())}
    assert cases == {tiny.name for tiny in TINY}
    assert {tiny.family for tiny in TINY} == {family.name for family in FAMILIES}


def test_what_has_no_layers_is_refused():
    with pytest.raises(BackboneError, match="found no numbered layers with linear layers in Linear"):
        positions(nn.Linear(2, 2))


def test_a_model_that_its_table_does_not_fit():
    class Hollow(nn.Module):
        config = tiny_model("bert").config

    with pytest.raises(BackboneError, match="no module of this Hollow matches the table of 'bert'"):
        positions(Hollow())


def test_no_model_type_twice():
    types = [t for f in FAMILIES for t in f.model_types]
    assert len(types) == len(set(types))
