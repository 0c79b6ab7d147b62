"""Which head a backbone gets, from a folder and in memory."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from problems import MOOD, mood_data, save_tiny, tiny_model, tokenizer_of, word_tokenizer
from tiny_families import TINY, tiny_family
from transformers import BartModel, BertForMaskedLM, GPT2Model, LlamaModel, T5EncoderModel

import s3pet_viz as s3
from s3pet_viz.backbones import load_backbone, wrap_backbone
from s3pet_viz.errors import BackboneError, ConfigError
from s3pet_viz.tuning import Workbench
from s3pet_viz.tuning.origin import origin_of


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """``folder_of("gpt2")``: a folder with that tiny model, made once."""
    made = {}

    def folder(name, **changes):
        key = (name, *changes.items())
        if key not in made:
            tiny, made[key] = tiny_family(name), tmp_path_factory.mktemp("tiny")
            tiny.model(**changes).save_pretrained(made[key])
            tiny.make_tokenizer().save_pretrained(made[key])
        return made[key]

    return folder


@pytest.mark.parametrize("tiny", [t for t in TINY if "," not in t.name], ids=lambda tiny: tiny.name)
def test_every_family_loads_from_a_folder(folder_of, tiny):
    made = load_backbone(folder_of(tiny.name))
    assert (made.form, made.causal, made.family.name) == (tiny.form, tiny.causal, tiny.family)
    assert type(made.model).__name__ == tiny.model_class
    source = tiny.model().base_model.state_dict()
    assert all(torch.equal(v, made.model.base_model.state_dict()[k]) for k, v in source.items())
    everything = sum(p.numel() for p in made.model.parameters())
    assert made.n_params + made.head_params == everything
    assert (made.head_params > 0) == (tiny.form == "pair")
    assert made.n_params == sum(p.numel() for p in made.body)


def test_an_output_matrix_of_its_own_counts_a_tied_one_once(folder_of):
    """It is pretrained, and no task's head."""
    free, tied = (load_backbone(folder_of("llama", tie_word_embeddings=tie)) for tie in (False, True))
    assert free.n_params - tied.n_params == free.model.lm_head.weight.numel() == 29 * 32
    assert free.head == {}


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama", "gemma"])
def test_a_decoder_only_model_with_a_classification_head(folder_of, name):
    folder = folder_of(name, pad_token_id=None)
    made = load_backbone(folder, head="classification", num_labels=3, seed=1)
    assert (made.form, made.causal) == ("pair", False)
    assert {n: tuple(p.shape) for n, p in made.head.items()} in ({"score.weight": (3, 32)}, {"score.weight": (3, 16)})
    assert made.model.config.pad_token_id == made.pad_id == made.tokenizer.eos_token_id == 1
    assert made.n_params == sum(p.numel() for p in made.model.base_model.parameters())
    assert load_backbone(folder, head="lm").causal


@pytest.mark.parametrize(
    ("name", "head", "says"),
    [
        ("bert", "lm", "head: expected classification for family bert, found 'lm'"),
        ("gpt2", "regression", "head: expected one of auto, lm, classification, found 'regression'"),
    ],
)
def test_heads_that_a_family_has_not(folder_of, tmp_path, name, head, says):
    folder = shutil.copytree(folder_of(name), tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ConfigError, match=says):
        load_backbone(folder, head=head)


def test_a_language_model_needs_its_output_matrix(tmp_path):
    """Without this it would be drawn at random, in silence. A head for classification is new anyway."""
    LlamaModel(tiny_family("llama").model(pad_token_id=None).config).save_pretrained(tmp_path)
    word_tokenizer("gpt").save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match=r"holds no weights for lm_head\.weight \(1 such\)"):
        load_backbone(tmp_path)
    assert load_backbone(tmp_path, head="classification").form == "pair"


def test_a_tied_output_matrix_is_the_embedding(tmp_path):
    GPT2Model(tiny_family("gpt2").model().config).save_pretrained(tmp_path)
    word_tokenizer("gpt").save_pretrained(tmp_path)
    made = load_backbone(tmp_path)
    assert made.model.lm_head.weight is made.model.transformer.wte.weight


def test_a_tokenizer_that_cannot_pad_is_refused_before_the_weights_are_read(folder_of, tmp_path):
    folder = shutil.copytree(folder_of("gpt2", pad_token_id=None), tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(b"never read")
    tokenizer = word_tokenizer("gpt")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(BackboneError, match="a pad token or an end token"):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        (GPT2Model, "gpt2", "a language model's head or a classification head, found GPT2Model"),
        (BertForMaskedLM, "bert", "a classification head, found BertForMaskedLM"),
        (T5EncoderModel, "t5", "a classification head, found T5EncoderModel"),
        (BartModel, "bart", "a language model's head or a classification head, found BartModel"),
    ],
)
def test_models_in_memory_with_another_head(kind, name, says):
    tiny = tiny_family(name)
    with pytest.raises(BackboneError, match=f"expected a model with {says}"):
        wrap_backbone(kind(tiny.model().config), tiny.make_tokenizer())


def test_a_run_remembers_its_head(folder_of, tmp_path):
    task_folder = tmp_path / "mood"
    task_folder.mkdir()
    (task_folder / "task.json").write_text(json.dumps(MOOD))
    for name, rows in mood_data(16, 6).items():
        (task_folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = folder_of("gpt2", pad_token_id=None)
    given = {"task": task_folder, "backbone": folder, "budget": 600, "steps": 2, "batch_size": 8, "device": "cpu"}
    runs = {
        head: s3.search(**given, head=head, mode="first-order", progress=False, out=tmp_path / head)
        for head in ("auto", "classification")
    }
    assert {head: run.info["head_params"] for head, run in runs.items()} == {"auto": 0, "classification": 64}
    run = runs["classification"]
    assert run.config["head"] == "classification"
    where = origin_of(run)
    assert where["load"]["head"] == "classification"
    scores = s3.tune(run.structure(), steps=1, evaluations=1, device="cpu", progress=False, **where)
    assert scores.head_params == 64
    resumed = {"steps": 4}
    with pytest.raises(ConfigError, match="keeps its own options"):
        s3.search(resume=run.path, **resumed)
    # Runs from before there was a choice say nothing of it.
    old = {k: v for k, v in run.config.items() if k != "head"}
    assert s3.SearchConfig.from_dict(old).head == "auto"


def test_a_wrong_head_is_said_first():
    with pytest.raises(ConfigError, match="head: expected one of auto, lm, classification, found 'lmm'"):
        s3.SearchConfig(task="a", backbone="b", budget=1, head="lmm")


def test_an_encoder_takes_both_words_for_its_head(tmp_path):
    folder = save_tiny("bert", tmp_path / "bert")
    assert load_backbone(folder, head="classification").form == load_backbone(folder).form == "pair"
    with pytest.raises(ConfigError, match="found 'lm'"):
        Workbench.open(
            {"train": [], "validation": [], "test": []}, model=tiny_model("bert"), tokenizer=tokenizer_of("bert"),
            task_spec=MOOD, device="cpu", head="lm",
        )  # fmt: skip
