"""Families that have no table: each is read off its model, searched, and drawn."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
import transformers as hf
from family_checks import check_search
from problems import MOOD, mood_data, word_tokenizer
from quill import Quill, QuillConfig
from tiny_families import _LLAMA, _LM, _NO_DROPOUT, SIZES, VOCABULARY, TinyFamily, tiny_family
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.backbones import positions, wrap_backbone
from s3pet_viz.cli import app
from s3pet_viz.errors import BackboneError
from s3pet_viz.pet.modules import LNFit

_BERT = {**SIZES, **_NO_DROPOUT, "vocab_size": VOCABULARY["bert"], "max_position_embeddings": 64}
_GPT = {**_LM, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_BART = {**tiny_family("bart").config, "activation_function": "relu"}
_IDS = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
_T5 = {
    "vocab_size": VOCABULARY["t5"], "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "dropout_rate": 0.0,
}  # fmt: skip


def _tiny(kind: str, head: str, tokenizer: str, config: dict, config_class: str = "") -> TinyFamily:
    return TinyFamily(kind, f"{kind}{head}", config_class or f"{kind}Config", tokenizer, kind, config)


#: What the layers of each hold, as `s3.positions` says it. QKV etc. stand for themselves; blocks and W2 are everywhere.
NEW = {
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
        (_tiny("MPNet", "ForSequenceClassification", "bert", {**_BERT, **_IDS}), "Q K V O | W1 | LN FFN.LN"),
        (_tiny("RoFormer", "ForSequenceClassification", "bert", _BERT), "Q K V O | W1 | LN FFN.LN"),
        (_tiny("MBart", "ForConditionalGeneration", "roberta", _BART), "Q K V O | W1 | LN FFN.LN"),
        (_tiny("Pegasus", "ForConditionalGeneration", "roberta", _BART), "Q K V O | W1 | LN FFN.LN"),
        (_tiny("Marian", "MTModel", "roberta", _BART), "Q K V O | W1 | LN FFN.LN"),
        (_tiny("UMT5", "ForConditionalGeneration", "t5", _T5), "Q K V O | gate W1 | LN FFN.LN"),
    )
}  # fmt: skip


@pytest.fixture(params=NEW, name="tiny")
def _tiny_of(request):
    hf.logging.set_verbosity_error()
    return NEW[request.param][0]


def modules_of(layer: str) -> set[str]:
    """The short words above, as canonical modules."""
    attention, ffn, norms = (part.split() for part in layer.split("|"))
    return {
        *(f"SelfAttn.{x}" for x in attention),
        *({"gate": "FFN.W1.gate", "W1": "FFN.W1", "both": "FFN.W1.both"}[x] for x in ffn),
        *(x if x.startswith("FFN") else f"SelfAttn.{x}" for x in norms),
        "SelfAttn", "FFN", "FFN.W2",
    }  # fmt: skip


def test_every_layer_is_named(tiny):
    model = tiny.model()
    found = positions(model)
    stacks = {p.stack for p in found}
    assert len(stacks) == 1 + model.config.is_encoder_decoder
    depth = 1 if tiny.name == "Albert" else model.config.num_hidden_layers
    for stack in stacks:
        for layer in range(depth):
            here = [p.module for p in found if (p.stack, p.layer) == (stack, layer)]
            own = modules_of(NEW[tiny.name][1])
            if tiny.name == "ModernBert" and layer == 0:  # its norm is an identity there
                own -= {"SelfAttn.LN"}
            if stack == "decoder" and len(stacks) == 2:
                own |= {"CrossAttn", "CrossAttn.LN", *(f"CrossAttn.{x}" for x in "QKVO")}
            assert Counter(here) == Counter(own)
    assert {p.module for p in found if not 0 <= p.layer < depth} <= {"Emb.LN", "Final.LN"}


def test_a_search_of_two_steps(tiny):
    assert check_search(tiny, "fast") == "pass"


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


def test_experts_are_left_out_by_name():
    tiny = _tiny("Mixtral", "ForCausalLM", "gpt", {**_LLAMA, "num_local_experts": 4})
    found = s3.positions(tiny.model())
    assert {re.sub(r"\d", "n", name): reason for name, reason in found.left_out.items()} == {
        "layers.n.mlp.gate": "chooses the experts",
        "layers.n.mlp.experts": "experts: each sees a few of the tokens alone",
    }
    table = found.table()
    assert set(table[table.layer == 1].module) == modules_of("Q K V O | | LN FFN.LN") - {"FFN.W2"}
    with pytest.warns(UserWarning, match="names what this backbone lacks: LoRA on FFN"):
        assert check_search(tiny, "fast") == "pass"


def test_a_block_that_is_given_the_residual_is_its_last_linear_layer():
    found = {p.module: p.name for p in positions(NEW["Bloom"][0].model()) if p.layer == 0 and p.kind == "block"}
    assert found == {"SelfAttn": "h.0.self_attention.dense", "FFN": "h.0.mlp.dense_4h_to_h"}


def test_positions_are_numbered_from_the_padding_on():
    tiny = NEW["MPNet"][0]
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
