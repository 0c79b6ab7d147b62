"""Families that have no table: each is read off its model, searched, and drawn."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
import transformers as hf
from problems import MOOD, mood_data, word_tokenizer
from quill import Quill, QuillConfig
from read_families import _T5, READ, modules_of
from tiny_families import _LLAMA, SIZES, VOCABULARY, tiny_family
from torch import nn
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.backbones import positions, wrap_backbone
from s3pet_viz.cli import app
from s3pet_viz.errors import BackboneError
from s3pet_viz.pet.modules import LNFit


@pytest.fixture(params=READ, name="tiny")
def _tiny_of(request):
    hf.logging.set_verbosity_error()
    return READ[request.param][0]


def test_every_layer_is_named(tiny):
    model = tiny.model()
    found = positions(model)
    stacks = {p.stack for p in found}
    assert len(stacks) == 1 + model.config.is_encoder_decoder
    depth = 1 if tiny.name == "Albert" else model.config.num_hidden_layers
    for stack in stacks:
        for layer in range(depth):
            here = [p.module for p in found if (p.stack, p.layer) == (stack, layer)]
            own = modules_of(READ[tiny.name][1])
            if tiny.name == "ModernBert" and layer == 0:  # its norm is an identity there
                own -= {"SelfAttn.LN"}
            if stack == "decoder" and len(stacks) == 2:
                own |= {"CrossAttn", "CrossAttn.LN", *(f"CrossAttn.{x}" for x in "QKVO")}
            assert Counter(here) == Counter(own)
    assert {p.module for p in found if not 0 <= p.layer < depth} <= {"Emb.LN", "Final.LN"}


def test_a_norms_delta_is_what_its_weight_would_add(tiny):
    """LNFit's formula, on each kind of norm: with its mean taken away or not, by queries or the stream."""
    model = tiny.model().double()
    norms = {type(p.target): p for p in positions(model) if p.kind == "norm"}
    for p in norms.values():
        pet = LNFit(p, {}).double()
        pet.weight.data = torch.randn(p.in_features).double()
        x = torch.randn(2, 3, p.in_features).double()
        with torch.no_grad():
            plain = p.target(x)
            p.target.weight += pet.weight
            torch.testing.assert_close(p.target(x) - plain, pet.delta(x, None), rtol=1e-4, atol=1e-5)


# -- what is left out, and what is not certain -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3Moe"])
def test_experts_are_left_out_by_name(name):
    found = s3.positions(READ[name][0].model())
    assert {re.sub(r"\d", "n", name): reason for name, reason in found.left_out.items()} == {
        "layers.n.mlp.gate": "chooses the experts",
        "layers.n.mlp.experts": "experts: each sees a few of the tokens alone",
    }


def test_a_block_that_is_given_the_residual_is_its_last_linear_layer():
    found = {p.module: p.name for p in positions(READ["Bloom"][0].model()) if p.layer == 0 and p.kind == "block"}
    assert found == {"SelfAttn": "h.0.self_attention.dense", "FFN": "h.0.mlp.dense_4h_to_h"}


def layer_of(config, model_class, layer: int, stack: str = "decoder") -> dict[str, str]:
    """Canonical module -> name, of a layer of a model without weights."""
    with torch.device("meta"):
        found = positions(model_class(config))
    return {p.module: p.name.partition(f".{layer}.")[2] for p in found if (p.stack, p.layer) == (stack, layer)}


def test_queries_and_keys_of_low_rank():
    """What widens them again is Q and KV (multi-head latent attention); norms in between are not the block's."""
    sizes = {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    config = hf.DeepseekV3Config(**{**_LLAMA, **sizes, "num_key_value_heads": 4}, first_k_dense_replace=2)
    found = layer_of(config, hf.DeepseekV3ForCausalLM, 1)
    assert {m: found[f"SelfAttn.{m}"] for m in ("Q", "KV", "O", "LN")} == {
        "Q": "self_attn.q_b_proj", "KV": "self_attn.kv_b_proj", "O": "self_attn.o_proj", "LN": "input_layernorm",
    }  # fmt: skip
    others = {"q_a_proj", "q_a_layernorm.LN", "kv_a_proj_with_mqa", "kv_a_layernorm.LN"}
    assert {m for m in found if m.startswith("Block.")} == {f"Block.{m}" for m in others}
    assert {"FFN.LN", "FFN.W1.gate", "FFN.W1", "FFN.W2", "FFN", "SelfAttn"} <= set(found)


def test_an_attention_beside_experts_alone():
    """No other linear layer says how far its layer goes; its stack's norms are its own."""
    sizes = {"d_ff": 48, "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 1, "num_experts": 4}
    config = hf.SwitchTransformersConfig(**_T5 | sizes, num_decoder_layers=2)
    for layer in range(2):
        found = layer_of(config, hf.SwitchTransformersForConditionalGeneration, layer, "encoder")
        assert set(found) == modules_of("Q K V O | experts | LN FFN.LN")


def test_a_recurrence_is_no_feed_forward_block():
    config = hf.RecurrentGemmaConfig(
        **SIZES, vocab_size=40, lru_width=32, head_dim=8, block_types=["recurrent", "attention"], attention_window_size=8
    )
    found = layer_of(config, hf.RecurrentGemmaForCausalLM, 0)
    assert {m: n for m, n in found.items() if m.startswith("FFN.W")} == {
        "FFN.W1": "mlp_block.up_proj", "FFN.W1.gate": "mlp_block.gate_proj", "FFN.W2": "mlp_block.down_proj",
    }  # fmt: skip
    assert found["Block.linear_out"] == "temporal_block.linear_out"


def test_a_model_that_hands_no_gradient_on_is_refused():
    config = hf.ReformerConfig(
        vocab_size=VOCABULARY["gpt"], hidden_size=32, num_attention_heads=4, attention_head_size=8, feed_forward_size=48,
        attn_layers=["local", "local"], axial_pos_embds=False, max_position_embeddings=64, is_decoder=True,
        local_attn_chunk_length=8, local_num_chunks_after=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    common = {"task": mood_data(32, 8), "load": {"task_spec": MOOD}, "tokenizer": word_tokenizer("gpt"), "device": "cpu"}
    with pytest.raises(BackboneError, match="found none: ReformerModelWithLMHead computes those of its own weights itself"):
        s3.search(model=hf.ReformerModelWithLMHead(config), budget=400, **common)


def test_positions_are_numbered_from_the_padding_on():
    tiny = READ["MPNet"][0]
    assert wrap_backbone(tiny.model(), word_tokenizer("bert")).longest_input == 64 - 2


def test_the_listing_of_a_table():
    bert = tiny_family("bert").model()
    found = s3.positions(bert)
    assert list(found.table().columns) == ["position", "stack", "layer", "module", "kind", "in", "out"]
    assert list(found.table().position) == [p.name for p in positions(bert)]
    assert repr(found) == "Positions(BertForSequenceClassification: 21, named by the table of bert; 1 modules left out)"
    assert "pooler.dense" in found._repr_html_()


def test_the_listing_at_the_command_line():
    result = CliRunner().invoke(app, ["positions", "tiny-t5"])
    assert result.exit_code == 0, result.output
    assert "CrossAttn.LN" in result.output
    assert "lm_head" in result.output


# -- a class that transformers does not know -------------------------------------------------------------------


def test_an_unknown_class_with_unusual_names_is_searched_tuned_and_drawn(tmp_path):
    torch.manual_seed(0)
    model, tokenizer = Quill(QuillConfig()), word_tokenizer("bert")
    found = s3.positions(model)
    layer = found.table().query("layer == 1")
    assert list(zip(layer.position, layer.module, strict=True)) == [
        ("strokes.1.gaze.asks", "Block.asks"),
        ("strokes.1.gaze.offers", "Block.offers"),
        ("strokes.1.gaze.holds", "Block.holds"),
        ("strokes.1.gaze.tells", "Block.tells"),
        ("strokes.1.calm", "Block.calm.LN"),
        ("strokes.1.open", "FFN.W1"),
        ("strokes.1.shut", "FFN.W2"),
        ("strokes.1.shut", "FFN"),
        ("strokes.1.rest", "Block.rest.LN"),
    ]
    space = {"gates": [{"type": "LoRA", "modules": ["Block.*", "FFN.W*"]}, {"type": "BitFit", "modules": ["*.LN"]}]}
    common = {"task": mood_data(32, 8), "load": {"task_spec": MOOD}, "model": model, "tokenizer": tokenizer}
    common |= {"device": "cpu", "progress": False, "batch_size": 4}
    run = s3.search(**common, space=space, budget=600, steps=2, out=tmp_path / "run")
    assert {"Block.asks", "FFN.W2"} <= {g.module for g in run.gates_list}
    scores = s3.tune(run.structure(), steps=4, **common)
    assert scores.pet_params <= 600
    assert "Block.asks" in str(s3.figures.heatmap(run))


def test_a_model_without_layers_is_refused():
    model = Quill(QuillConfig())
    del model.page.strokes
    with pytest.raises(BackboneError, match="no numbered layers with linear layers in Quill"):
        positions(model)


class Boxed(nn.Module):
    """A layer whose blocks lie in an nn.ModuleDict, which is not called, or whose parts are numbered."""

    def __init__(self, d: int = 8) -> None:
        super().__init__()
        self.see = nn.ModuleDict({name: nn.Linear(d, d) for name in ("q_proj", "k_proj", "v_proj", "o_proj")})
        self.parts = nn.ModuleDict({"wide": nn.Linear(d, 2 * d), "slim": nn.Linear(2 * d, d)})
        self.last = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, d))


def test_a_container_that_is_not_called_is_no_block():
    model = nn.Module()
    model.layers = nn.ModuleList([Boxed(), Boxed()])
    blocks = {p.module: p.name for p in s3.positions(model).positions if p.kind == "block" and p.layer == 0}
    assert blocks == {"SelfAttn": "layers.0.see.o_proj", "FFN": "layers.0.parts.slim"}


def module_of(**parts: nn.Module) -> nn.Module:
    model = nn.Module()
    for name, part in parts.items():
        model.add_module(name, part)
    return model


def named(model: nn.Module) -> list[tuple[str, int, str]]:
    return [(p.stack, p.layer, p.module) for p in s3.positions(model).positions]


@pytest.mark.parametrize("names", [("layer1", "layer2"), ("first", "second"), ("only",)], ids="-".join)
def test_layers_without_numbers_are_those_of_one_class_side_by_side(names):
    """As if they stood in a list; numbers of the nn.Sequential in them are not those of layers."""
    model = module_of(**{name: Boxed() for name in names}, norm=nn.LayerNorm(8), head=nn.Linear(8, 2))
    listed = module_of(layers=nn.ModuleList(Boxed() for _ in names), norm=nn.LayerNorm(8), head=nn.Linear(8, 2))
    assert named(model) == named(listed)
    found = s3.positions(model)
    own = dict(model.named_modules())
    assert all(own[p.name] is p.target for p in found.positions)
    assert found.left_out == {"head": "in front of the layers, or behind them"}


def test_stacks_of_layers_without_numbers():
    both = {"encoder": Boxed(), "decoder": Boxed()}
    assert {at[:2] for at in named(module_of(**both))} == {("encoder", 0), ("decoder", 0)}
    deeper = {name: module_of(layer1=Boxed(), layer2=Boxed()) for name in both}
    assert {at[:2] for at in named(module_of(**deeper))} == {(stack, n) for stack in both for n in (0, 1)}


class Wide(Boxed):
    """Boxed by another name."""


def test_layers_of_several_classes_without_numbers_are_named_by_a_table():
    model = module_of(one=Boxed(), two=Wide())
    with pytest.raises(BackboneError, match="no numbered layers with linear layers in Module; family= can name them"):
        s3.positions(model)
    model = module_of(layer1=Boxed(), layer2=Wide())
    given = s3.positions(model, family={"encoder": {"block": "layer{n}", "SelfAttn.Q": ".see.q_proj"}}).positions
    assert [(p.name, p.layer) for p in given] == [("layer1.see.q_proj", 1), ("layer2.see.q_proj", 2)]
