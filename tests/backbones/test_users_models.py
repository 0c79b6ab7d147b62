"""Models as users bring them: a head and a class of their own, compiled, tied, half frozen, of pictures or sound."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from problems import EVERYTHING, MOOD, assert_same, mood_data, snapshot, tiny_model, word_tokenizer
from tiny_families import tiny_family
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.bert.modeling_bert import BertPreTrainedModel

import s3pet_viz as s3
from s3pet_viz.backbones import load_backbone, positions, wrap_backbone
from s3pet_viz.engine.backbone_problem import BackboneProblem
from s3pet_viz.engine.gates import GateModel
from s3pet_viz.engine.modes import fast_step
from s3pet_viz.engine.state import State
from s3pet_viz.errors import AdapterError, BackboneError
from s3pet_viz.export import Adapter
from s3pet_viz.pet import candidate_gates, insert
from s3pet_viz.structure import Structure


class Headed(BertPreTrainedModel):
    """BERT with a head that transformers does not know. Its forward takes what it needs and no more."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.bert = hf.BertModel(config)
        self.decide = nn.Sequential(nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, config.num_labels))
        self.post_init()

    def forward(self, input_ids, attention_mask, labels=None):
        logits = self.decide(self.bert(input_ids, attention_mask).last_hidden_state.mean(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class Paired(Headed):
    def forward(self, input_ids, attention_mask, labels=None):
        made = super().forward(input_ids, attention_mask, labels)
        return made.loss, made.logits


def bert_config():
    return tiny_model("bert").config


def common(model, form: str) -> dict:
    where = {"device": "cpu", "progress": False, "batch_size": 4}
    return {"task": mood_data(32, 8), "load": {"task_spec": MOOD}, "model": model, "tokenizer": word_tokenizer(form)} | where


def test_a_head_and_a_forward_of_its_own(tmp_path):
    """Token types, caches and the form of the output are asked for only where the forward takes them."""
    torch.manual_seed(0)
    model = Headed(bert_config())
    for i, p in enumerate(model.parameters()):
        p.requires_grad_(i % 3 == 0)
    before, flags = snapshot(model), [p.requires_grad for p in model.parameters()]
    run = s3.search(**common(model, "bert"), budget=500, steps=2, second_order_from=1, out=tmp_path / "run")
    scores = s3.tune(run.structure(), steps=2, evaluations=1, save=tmp_path / "adapter", **common(model, "bert"))
    exported = s3.to_peft(Adapter.from_pretrained(tmp_path / "adapter"), model, partial=True)
    assert exported.config.modules_to_save[-1] == "decide"
    assert scores.head_params == sum(p.numel() for p in model.decide.parameters())
    assert_same(model, before)
    assert [p.requires_grad for p in model.parameters()] == flags


def test_an_output_without_names_is_refused():
    with pytest.raises(BackboneError, match="and give an output with loss and logits, found tuple"):
        s3.search(**common(Paired(bert_config()), "bert"), budget=500)


def test_a_folder_of_an_unknown_class_says_what_is_not_used(tmp_path):
    Headed(bert_config()).save_pretrained(tmp_path)
    word_tokenizer("bert").save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"a class that transformers does not know \(Headed\)"):
        made = load_backbone(tmp_path)
    assert type(made.model).__name__ == "BertForSequenceClassification"


def test_a_folder_of_shards(tmp_path):
    model = tiny_family("llama").model()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    word_tokenizer("gpt").save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = load_backbone(tmp_path)
    assert [p.name for p in loaded.positions()] == [p.name for p in positions(model)]
    assert_same(loaded.model, snapshot(model))


@pytest.mark.parametrize("how", ["whole", "layer", "in place"])
def test_what_is_compiled_is_refused(how):
    model = tiny_family("llama").model()
    if how == "whole":
        model = torch.compile(model, backend="eager")
    elif how == "layer":
        model.model.layers[0] = torch.compile(model.model.layers[0], backend="eager")
    else:
        model.compile(backend="eager")
    at = r"model\.layers\.0" if how == "layer" else "the model itself"
    reason = f"expected a model that is not compiled, found torch.compile at {at}"
    with pytest.raises(BackboneError, match=reason):
        wrap_backbone(model, word_tokenizer("gpt"))
    with pytest.raises(AdapterError, match=reason):
        Adapter(Structure((), "llama", 1), {}, {}).attach(model)


def test_modules_and_weights_that_are_used_twice(tmp_path):
    """A shared module is one position; of a shared weight each module is its own."""
    model = tiny_family("llama").model()
    model.model.layers[1].mlp = model.model.layers[0].mlp
    model.model.layers[1].self_attn.q_proj.weight = model.model.layers[0].self_attn.q_proj.weight
    names = [p.name for p in positions(model)]
    assert "layers.0.mlp.up_proj" in names
    assert "layers.1.mlp.up_proj" not in names
    assert {"layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"} <= set(names)
    before = snapshot(model)
    run = s3.search(**common(model, "gpt"), budget=500, steps=2, second_order_from=1, out=tmp_path / "run")
    assert run.structure().n_params <= 500
    assert_same(model, before)


def test_a_decoder_starts_with_what_its_model_shifts_labels_by():
    """T5Gemma's config says no decoder_start_token_id."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    part = {**sizes, "intermediate_size": 48, "vocab_size": 40, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    model = hf.T5GemmaForConditionalGeneration(hf.T5GemmaConfig(encoder=part, decoder=part, vocab_size=40))
    assert not hasattr(model.config, "decoder_start_token_id")
    assert wrap_backbone(model, word_tokenizer("roberta")).start_id == 0
    bart = tiny_family("bart").model(decoder_start_token_id=3)
    assert wrap_backbone(bart, word_tokenizer("roberta")).start_id == 3


def whisper() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "d_model": 32, "vocab_size": 60, "num_mel_bins": 8}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = hf.WhisperConfig(**sizes, **ends, max_source_positions=20, max_target_positions=20)
    sound = {"input_features": torch.randn(2, 8, 40), "labels": torch.tensor([[5, 6], [7, 2]])}
    return hf.WhisperForConditionalGeneration(config), sound


def vit() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = hf.ViTForImageClassification(hf.ViTConfig(**sizes, image_size=8, patch_size=4))
    return model, {"pixel_values": torch.randn(2, 3, 8, 8), "labels": torch.tensor([0, 1])}


@pytest.mark.parametrize("build", [whisper, vit])
def test_models_of_sound_and_pictures(build):
    """Their positions have their names; a search on batches of their own moves weights and gates, and comes off again."""
    torch.manual_seed(0)
    model, batch = build()
    model.eval().requires_grad_(False)
    found = s3.positions(model)
    attention = {"SelfAttn", "SelfAttn.Q", "SelfAttn.K", "SelfAttn.V", "SelfAttn.O", "SelfAttn.LN"}
    ffn = {"FFN", "FFN.W1", "FFN.W2", "FFN.LN"}
    for stack in {p.stack for p in found.positions}:
        cross = {m.replace("Self", "Cross") for m in attention} if stack == "decoder" else set()
        for layer in (0, 1):
            assert {p.module for p in found.positions if (p.stack, p.layer) == (stack, layer)} == attention | ffn | cross
    assert set(found.left_out.values()) <= {f"no PET type is written for a Conv{n}d" for n in (1, 2)}
    before, plain = snapshot(model), model(**batch).loss
    gates, _ = candidate_gates(found.positions, EVERYTHING)
    pets = insert(model, gates)
    # A search with batches of its own: what is asked of a batch is `labels`.
    problem = BackboneProblem(model, pets, lambda half, step: batch)
    counts = [gate.n_params for gate in gates]
    state = State(problem, GateModel(counts, sum(counts) // 2), lr=1e-2, second_order_from=1)
    losses = [fast_step(state, step).train_loss for step in range(6)]
    assert losses[-1] < losses[0]
    assert (state.alpha != 0).double().mean() > 0.8
    pets.detach()
    assert_same(model, before)
    assert model(**batch).loss == plain
