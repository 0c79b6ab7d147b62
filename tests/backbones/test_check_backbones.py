"""A backbone that cannot work is refused right after it is loaded: by every way in, and before anything is made."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import transformers as hf
from problems import MOOD, mood_data, save_tiny, tiny_model, tokenizer_of, word_tokenizer
from tiny_families import tiny_family
from torch import nn
from typer.testing import CliRunner
from ways_in import ways_in

import s3pet_viz as s3
from s3pet_viz.backbones import load_backbone, positions, wrap_backbone
from s3pet_viz.cli import app
from s3pet_viz.errors import BackboneError, ConfigError, ExportError, TaskError
from s3pet_viz.pet import candidate_gates, insert, load_space


@pytest.fixture(autouse=True)
def quiet_transformers():
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()


def refused(model, tokenizer, says: str, error=BackboneError) -> None:
    """By `search` on rows in memory, with no run made."""
    with pytest.raises(error, match=says):
        s3.search(
            task=mood_data(16, 8), load={"task_spec": MOOD}, model=model, tokenizer=tokenizer, budget=300, steps=1,
            progress=False, device="cpu", out="run",
        )  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "runs").exists()


# -- a tokenizer and a model belong together -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["t5", "bart", "bert", "roberta", "deberta-v2 / v3", "distilbert", "gpt2", "opt", "llama", "qwen2", "gemma"])  # fmt: skip
@pytest.mark.parametrize("left", [(), ("tokenizer_config.json",)])
def test_a_folder_without_tokenizer_files(tmp_path, name, left):
    tiny = tiny_family(name)
    tiny.model().save_pretrained(tmp_path / "model")
    tiny.make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    for file in left:
        shutil.copy(tmp_path / "tokenizer" / file, tmp_path / "model")
    with pytest.raises(BackboneError, match=r"model holds no tokenizer files \(expected tokenizer\.json"):
        load_backbone(tmp_path / "model")


def test_a_tokenizer_of_bytes_needs_no_vocabulary(tmp_path):
    tokenizer = hf.ByT5Tokenizer(extra_ids=0)
    tiny_model("t5", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_backbone(tmp_path).tokenizer("ab")["input_ids"] == [100, 101, 1]


@pytest.mark.parametrize("way", ways_in())
def test_every_way_in_refuses_a_folder_without_tokenizer_files(tmp_path, way):
    s3.load_backbone("tiny-t5").model.save_pretrained(tmp_path / "nt")
    with pytest.raises(BackboneError, match="nt holds no tokenizer files"):
        way(tmp_path / "nt", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name not in ("structure.json", "adapter")) == ["nt"]


@pytest.mark.parametrize(
    "words", [["search"], ["tune", "full"], ["baselines", "--methods", "head"], ["sweep", "--seeds", "1"]]
)
def test_the_commands_refuse_it_too(tmp_path, words):
    s3.load_backbone("tiny-t5").model.save_pretrained(tmp_path / "nt")
    place = {"search": ["--budget", "0.2%", "--out", "run"], "sweep": ["--budgets", "0.2%", "--out", "study"]}.get(words[0], [])
    name = "--tasks" if words[0] == "sweep" else "--task"
    made = CliRunner().invoke(app, [*words, name, "sentiment", "--backbone", "nt", *place])
    assert made.exit_code == 2, made.output
    assert "no tokenizer files" in made.output
    assert [p.name for p in tmp_path.iterdir()] == ["nt"]


@pytest.mark.parametrize("form", ["t5", "bert"])
def test_tokens_without_an_embedding(tmp_path, form):
    model, tokenizer = tiny_model(form), tokenizer_of(form)
    rows = model.get_input_embeddings().num_embeddings
    tokenizer.add_tokens(["brandnew"])
    refused(model, tokenizer, rf"among the model's {rows} embeddings, found 'brandnew' with id {rows}; .*resize_token_embeddings\({rows + 1}\)")
    model.save_pretrained(tmp_path / "added")
    tokenizer.save_pretrained(tmp_path / "added")
    with pytest.raises(BackboneError, match="found 'brandnew'"):
        load_backbone(tmp_path / "added")
    model.resize_token_embeddings(len(tokenizer))
    wrap_backbone(model, tokenizer)


@pytest.mark.parametrize(
    ("form", "other", "says"),
    [
        ("t5", "roberta", "of the tokenizer among|pad token is the model's"),
        ("t5", "bert", "of the tokenizer among|eos token is the model's"),
        ("t5", "gpt", "a tokenizer with a pad token, found none"),
        ("bert", "gpt", "a tokenizer with a pad token, found none"),
        ("bert", "roberta", "pad token is the model's .*: 0.*, found token 1"),
        ("roberta", "bert", "pad token is the model's .*: 1.*, found token 0"),
        ("bert", "tiny-t5", "of the tokenizer among the model's 32 embeddings, found"),
    ],
)
def test_a_tokenizer_of_another_model(form, other, says):
    tokenizer = load_backbone(other).tokenizer if other == "tiny-t5" else word_tokenizer(other)
    refused(tiny_model(form), tokenizer, says)
    if other != "tiny-t5":  # a larger embedding hides nothing but the numbers
        refused(tiny_model(form, vocab_size=64), tokenizer, says.split("|")[-1])


def test_a_decoder_with_another_end_token():
    tokenizer = word_tokenizer("gpt")
    tokenizer.eos_token = tokenizer.bos_token = "good"
    refused(tiny_family("gpt2").model(), tokenizer, r"eos token is the model's \(model\.config\.eos_token_id: 1\), found token")


@pytest.mark.parametrize("given", ["tiny-t5", 5, word_tokenizer("t5").backend_tokenizer, tiny_model])
def test_what_is_no_tokenizer(given):
    refused(tiny_model("t5"), given, "expected a tokenizer of transformers, found")


def test_texts_that_the_tokenizer_cannot_read():
    rows = {k: [{**r, "text": "你好" * (i + 1)} for i, r in enumerate(v)] for k, v in mood_data(16, 8).items()}
    given = {"load": {"task_spec": MOOD}, "budget": 300, "steps": 1, "progress": False, "device": "cpu", "out": "run"}
    for form in ("t5", "bert"):
        with pytest.raises(TaskError, match="found unknown tokens alone, as in '你好"):
            s3.search(task=rows, model=tiny_model(form), tokenizer=tokenizer_of(form), **given)


# -- what is in the model already ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Unsupported layer type", "ignore:Model has `tie_word_embeddings", "ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    ("form", "kind", "options"),
    [
        ("t5", "LoraConfig", {"target_modules": ["shared"]}),
        ("t5", "LoraConfig", {"target_modules": ["q", "v"]}),
        ("t5", "LoraConfig", {"target_modules": ["lm_head"]}),
        ("t5", "IA3Config", {"target_modules": ["k", "wo"], "feedforward_modules": ["wo"]}),
        ("t5", "LNTuningConfig", {"target_modules": ["layer_norm"]}),
        ("bert", "LoraConfig", {"target_modules": ["query"], "modules_to_save": ["classifier"]}),
    ],
)
def test_peft_layers(form, kind, options, wrapped):
    peft = pytest.importorskip("peft")
    config, model = getattr(peft, kind)(**options), tiny_model(form)
    given = peft.get_peft_model(model, config) if wrapped else peft.inject_adapter_in_model(config, model)
    refused(given, tokenizer_of(form), r"found a layer of peft at .*merge_and_unload\(\)")
    if not wrapped:
        with pytest.raises(ExportError, match="layer of peft"):
            s3.merge(s3.Adapter(s3.Structure((), "", 1), {}), given)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_what_was_merged_is_a_plain_model():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_model("t5"), peft.LoraConfig(target_modules=["q"])).merge_and_unload()
    assert wrap_backbone(model, tokenizer_of("t5")).n_params == sum(p.numel() for p in tiny_model("t5").parameters())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("beside", [(), ("config.json",), ("config.json", "model.safetensors")])
def test_a_folder_of_peft(tmp_path, beside):
    peft = pytest.importorskip("peft")
    base = save_tiny("t5", tmp_path / "base")
    model = load_backbone(base).model
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["q"])).save_pretrained(tmp_path / "lora")
    for file in beside:
        shutil.copy(base / file, tmp_path / "lora")
    with pytest.raises(BackboneError, match=r"lora is an adapter of PEFT .*; give its base model \(.*base\), or merge them: .*merge_and_unload"):
        load_backbone(tmp_path / "lora")


def test_an_adapter_of_ours_is_no_backbone(tmp_path):
    for name in ("adapter.json", "adapter.safetensors", "structure.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(BackboneError, match=r"is an adapter of s3pet_viz \(adapter\.json\)"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("kind", ["LoRA", "LNFit", "BitFit", "LowRankAdapter", "Adapter", "IA3"])
@pytest.mark.parametrize("form", ["t5", "bert"])
def test_our_own_modules(form, kind):
    """In the fused form and as a hook."""
    model = tiny_model(form)
    modules = {"LoRA": "SelfAttn.Q", "IA3": "SelfAttn.V", "BitFit": "FFN.W2", "LNFit": "*.LN"}.get(kind, "FFN")
    gates = candidate_gates(positions(model), load_space({"name": "x", "gates": [{"type": kind, "modules": [modules]}]}))[0]
    pets = insert(model, gates[-1:])
    refused(model, tokenizer_of(form), "found PET modules attached to .*: detach them first")
    pets.detach()
    wrap_backbone(model, tokenizer_of(form))


def test_weights_that_are_computed():
    model = tiny_model("bert")
    nn.utils.parametrizations.weight_norm(model.bert.encoder.layer[0].output.dense)
    refused(model, tokenizer_of("bert"), r"found a parametrization at bert\.encoder\.layer\.0\.output\.dense")


# -- objects in memory that cannot work ----------------------------------------------------------------------


@pytest.mark.parametrize("part", ["", "shared", "decoder.final_layer_norm", "lm_head"])
def test_weights_on_meta(part):
    model = tiny_model("t5", tie_word_embeddings=False)
    model.get_submodule(part).to("meta")
    refused(model, tokenizer_of("t5"), "expected weights in memory, found parameter .* on the meta device")


def test_a_buffer_on_meta():
    tiny = tiny_family("llama")
    model = tiny.model()
    model.model.rotary_emb.to("meta")
    refused(model, tiny.make_tokenizer(), "found buffer .* on the meta device")


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("field", ["decoder_start_token_id", "pad_token_id"])
@pytest.mark.parametrize("value", [None, 999, -1])
def test_tokens_that_a_decoder_needs(tmp_path, name, field, value):
    tiny = tiny_family(name)
    model = tiny.model()
    setattr(model.config, field, value)
    refused(model, tiny.make_tokenizer(), rf"expected model\.config\.{field}, .* found {value}")
    if field == "decoder_start_token_id":
        tiny.model().save_pretrained(tmp_path / "folder")
        tiny.make_tokenizer().save_pretrained(tmp_path / "folder")
        config = json.loads((tmp_path / "folder" / "config.json").read_text())
        (tmp_path / "folder" / "config.json").write_text(json.dumps({**config, field: value}))
        with pytest.raises(BackboneError, match=rf"expected model\.config\.{field}"):
            load_backbone(tmp_path / "folder")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("BertForTokenClassification", "bert"), ("BertForQuestionAnswering", "bert"), ("BertForMultipleChoice", "bert"),
        ("RobertaForTokenClassification", "roberta"), ("DistilBertForQuestionAnswering", "distilbert"),
        ("T5ForTokenClassification", "t5"), ("T5ForQuestionAnswering", "t5"), ("BartForQuestionAnswering", "bart"),
        ("GPT2ForTokenClassification", "gpt2"), ("LlamaForQuestionAnswering", "llama"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*LossKwargs")
def test_heads_of_other_kinds_of_task(tmp_path, kind, name):
    tiny = tiny_family(name)
    model = getattr(hf, kind)(tiny.model().config)
    says = rf"expected a model with .* head.*, found {kind}"
    if kind.endswith("TokenClassification"):  # one for tasks of that kind
        says = rf"mood expects a model with .* for single_label_classification, found .*{kind}"
    refused(copy.deepcopy(model), tiny.make_tokenizer(), says)
    model.save_pretrained(tmp_path / "folder")
    tiny.make_tokenizer().save_pretrained(tmp_path / "folder")
    with pytest.raises(BackboneError, match=rf"with another head \({kind}\); its head would be lost"):
        load_backbone(tmp_path / "folder")
    if name in ("gpt2", "llama"):
        with pytest.raises(BackboneError, match="another head"):
            load_backbone(tmp_path / "folder", head="classification")


@pytest.mark.parametrize(("kind", "name"), [("T5ForSequenceClassification", "t5"), ("BartForSequenceClassification", "bart")])
def test_a_classifier_that_could_write_is_one_in_memory_and_no_language_model_by_name(tmp_path, kind, name):
    tiny = tiny_family(name)
    model = getattr(hf, kind)(tiny.model().config)
    assert wrap_backbone(model, tiny.make_tokenizer()).form == "pair"
    model.save_pretrained(tmp_path)
    tiny.make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match=kind):
        load_backbone(tmp_path)


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "BertForPreTraining"])
def test_a_pretrained_folder_gets_the_head_that_was_asked_for(tmp_path, kind):
    getattr(hf, kind)(tiny_model("bert").config).save_pretrained(tmp_path)
    tokenizer_of("bert").save_pretrained(tmp_path)
    assert load_backbone(tmp_path, num_labels=3).head["classifier.weight"].shape == (3, 32)


def test_a_classifier_is_no_language_model(tmp_path):
    tiny = tiny_family("gpt2, classification")
    tiny.model().save_pretrained(tmp_path)
    tiny.make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match=r"expected a language model, found .* \(GPT2ForSequenceClassification\)"):
        load_backbone(tmp_path)
    assert load_backbone(tmp_path, head="classification").form == "pair"


def test_a_head_that_gives_another_number_of_outputs():
    model = tiny_model("bert")
    model.classifier = nn.Linear(32, 5)
    refused(model, tokenizer_of("bert"), "to read rows of task mood, found ValueError|2 x 2 outputs, found a shape of 2 x 5")
    refused(tiny_model("bert", num_labels=3), tokenizer_of("bert"), "num_labels=2 .*, found num_labels=3")


def test_a_head_with_the_labels_in_another_order(tmp_path):
    model = tiny_model("bert")
    model.config.id2label = {0: "POSITIVE", 1: "NEGATIVE"}
    says = "labels numbered negative, positive, as in task mood, found POSITIVE, NEGATIVE"
    refused(model, tokenizer_of("bert"), says)
    model.config.id2label = {0: "Negative", 1: "Positive"}
    s3.tune(
        "untouched", task=mood_data(16, 8), load={"task_spec": MOOD}, model=model, tokenizer=tokenizer_of("bert"),
        progress=False, device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize("given", ["tiny-t5", 3, nn.Linear(2, 2), nn.DataParallel(tiny_model("bert")), tiny_model])
def test_what_is_no_model(given):
    refused(given, tokenizer_of("bert"), "expected a model of")


def test_what_is_no_name():
    with pytest.raises(ConfigError, match="expected a name or a folder, found Backbone"):
        s3.tune("full", task="sentiment", backbone=load_backbone("tiny-t5"), progress=False)


def test_options_of_loading_that_nobody_knows():
    with pytest.raises(ConfigError, match="load: unknown option 'x'"):
        s3.search(task="sentiment", backbone="tiny-t5", budget="1%", load={"x": 1}, out="run")
    with pytest.raises(ConfigError, match="load: unknown option 'x'"):
        s3.tune("full", task="sentiment", backbone="tiny-t5", load={"x": 1})
