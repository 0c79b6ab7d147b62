"""Labels that a tokenizer can say and tell apart, and answers that are written without the checkpoint's habits."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from problems import MOOD, mood_data, tiny_model, tokenizer_of
from tiny_families import tiny_family
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import ByT5Tokenizer, GenerationConfig, PreTrainedTokenizerFast

import s3pet_viz as s3
from s3pet_viz.errors import BackboneError, TaskError
from s3pet_viz.training.evaluate import evaluate
from s3pet_viz.tuning import Workbench

K = {"budget": "0.2%", "steps": 2, "batch_size": 8, "progress": False, "device": "cpu"}


def task(names: list[str]) -> dict:
    return {**MOOD, "label_names": names}


def byte_tokenizer(*, lower: bool = False, end: bool = True) -> PreTrainedTokenizerFast:
    """A token for every byte, and </s> behind a text."""
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    words |= {c: i + 3 for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(words, [], unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if lower:
        made.normalizer = normalizers.Lowercase()
    if end:
        made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def opened(tokenizer, names, *, kind: str = "t5", **changes) -> Workbench:
    size = len(tokenizer)
    model = tiny_model("t5", vocab_size=size) if kind == "t5" else tiny_family(kind).model(vocab_size=size, **changes)
    return Workbench.open(mood_data(16, 8), model=model, tokenizer=tokenizer, task_spec=task(names), device="cpu")


# -- labels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["负面", "正面"], "found '负面' and '正面' as the same tokens"),
        (["good é", "good è"], "found 'good é' and 'good è' as the same tokens"),
        (["good", "负面"], "found '负面' come back as ''"),
        (["good", "very 好"], "found 'very 好' come back as 'very"),
        (["</s>", "good"], "found '</s>' come back as ''"),
        (["<unk>", "good"], "come back as ''"),
    ],
)
def test_labels_that_a_tokenizer_cannot_say(tmp_path, names, says):
    given = {"load": {"task_spec": task(names)}, "backbone": "tiny-t5"}
    for do in (lambda: s3.search(task=mood_data(16, 8), out=tmp_path / "run", **given, **K), lambda: Workbench.open(mood_data(16, 8), "tiny-t5", task_spec=task(names))):  # fmt: skip
        with pytest.raises(TaskError, match=f"task mood: expected labels that the tokenizer of tiny-t5 .*{says}"):
            do()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
@pytest.mark.parametrize("names", [["Good", "good"], ["Positive", "negative"]])
def test_a_tokenizer_that_loses_case(kind, names):
    with pytest.raises(TaskError, match="can tell apart|come back as 'positive'"):
        opened(byte_tokenizer(lower=True), names, kind=kind)


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
@pytest.mark.parametrize("names", [["负面" * 8, "正面" * 8], ["a rather long label, " * 3 + "a", "a rather long label, " * 3 + "b"]])
def test_long_labels_are_not_cut(kind, names):
    """They differ in their last bytes; the limit grows with their tokens."""
    bench = opened(byte_tokenizer(), names, kind=kind, **({"n_positions": 128} if kind == "gpt2" else {}))
    spec, features = bench.splits.data.task, bench.splits.train
    assert spec.max_target_length >= max(len(n.encode()) + 1 for n in names) > 16
    assert {tuple(t) for t in features.targets} == {tuple(ids) for ids in bench.backbone.answers(names)}
    assert all(t[-1] == bench.backbone.end_id for t in features.targets)
    said = bench.backbone.said([features.targets[i] for i in range(2)])
    assert [text.strip() for text in said] == [e.target for e in features.examples[:2]]


def test_a_tokenizer_of_bytes():
    tokenizer = ByT5Tokenizer(extra_ids=0)
    bench = Workbench.open(
        mood_data(16, 8), model=tiny_model("t5", vocab_size=len(tokenizer)), tokenizer=tokenizer,
        task_spec=task(["负面负面负面", "正面正面正面"]), device="cpu",
    )  # fmt: skip
    assert bench.splits.data.task.max_target_length == 19


def test_labels_longer_than_the_decoder_can_write():
    tokenizer = byte_tokenizer()
    model = tiny_family("bart").model(
        vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, bos_token_id=0, decoder_start_token_id=1, forced_eos_token_id=1
    )
    with pytest.raises(TaskError, match="labels shorter than the 64 tokens that .* can write, found one of 71"):
        Workbench.open(mood_data(16, 8), model=model, tokenizer=tokenizer, task_spec=task(["a" * 70, "b"]), device="cpu")


def test_a_tokenizer_that_does_not_end_a_text():
    with pytest.raises(BackboneError, match=r"ends a text with its end token \(1\), .* found 'negative' as tokens"):
        opened(byte_tokenizer(end=False), ["negative", "positive"])


def test_numbers_that_a_tokenizer_cannot_say():
    rows = {k: [{**r, "label": 0.5 + r["label"]} for r in v] for k, v in mood_data(16, 8).items()}
    spec = {"name": "s", "kind": "regression", "fields": ["text"], "label_range": [0, 5], "metrics": ["pearson"]}
    with pytest.raises(TaskError, match="expected (numbers|labels) that the tokenizer of"):
        Workbench.open(rows, model=tiny_model("t5"), tokenizer=tokenizer_of("t5"), task_spec=spec, device="cpu")
    assert Workbench.open(rows, "tiny-t5", task_spec=spec, device="cpu").splits.data.task.name == "s"


def test_a_head_does_not_say_its_labels():
    """Encoders read them off a head: any words will do."""
    spec = task(["负面", "正面"])
    assert Workbench.open(
        mood_data(16, 8), model=tiny_model("bert"), tokenizer=tokenizer_of("bert"), task_spec=spec, device="cpu"
    ).backbone.form == "pair"


def test_an_adapter_scored_on_labels_in_another_order(tmp_path):
    data, turned = mood_data(16, 8), task(["positive", "negative"])
    bench = Workbench.open(data, model=tiny_model("bert"), tokenizer=tokenizer_of("bert"), task_spec=MOOD, device="cpu")
    gate = s3.Gate(0, "encoder.layer.0.attention.self.query", "encoder", 0, "SelfAttn.Q", "BitFit", 32)
    structure = s3.Structure((gate,), "bert", bench.backbone.n_params)
    with bench.tuned(structure, s3.TuneConfig(steps=1, evaluations=1), progress=False) as (scores, pets):
        adapter = bench.adapter(structure, pets, scores, s3.TuneConfig())
    given = {"task": data, "model": bench.backbone.model, "tokenizer": bench.backbone.tokenizer, "device": "cpu"}
    assert s3.evaluate(adapter, load={"task_spec": MOOD}, **given) == pytest.approx(scores.metrics)
    with pytest.raises(s3.errors.AdapterError, match="numbered as in task mood .positive, negative., found negative, positive"):
        s3.evaluate(adapter, load={"task_spec": turned}, **given)


# -- the checkpoint's own settings ---------------------------------------------------------------------------

HABITS = {
    "min_new_tokens": 30, "min_length": 30, "max_length": 2, "max_new_tokens": 1, "forced_bos_token_id": 5,
    "forced_eos_token_id": 1, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "encoder_no_repeat_ngram_size": 1,
    "encoder_repetition_penalty": 5.0, "num_beams": 4, "length_penalty": 9.0, "early_stopping": True,
    "suppress_tokens": [171, 172], "begin_suppress_tokens": [171, 172], "bad_words_ids": [[171], [172]],
    "do_sample": True, "temperature": 9.0, "top_k": 3, "top_p": 0.1, "min_p": 0.5, "typical_p": 0.2,
    "return_dict_in_generate": True, "output_scores": True, "num_return_sequences": 2, "eos_token_id": 50,
    "exponential_decay_length_penalty": [0, 9.0], "sequence_bias": [[[171], -100.0], [[172], -100.0]],
    "decoder_start_token_id": 77, "guidance_scale": 2.0, "prompt_lookup_num_tokens": 3, "use_cache": False,
    "watermarking_config": {"bias": 9.5}, "stop_strings": ["e"], "max_time": 1e-6, "penalty_alpha": 0.6,
    "dola_layers": "low", "token_healing": True, "num_assistant_tokens": 3, "assistant_early_exit": 1,
    "cache_implementation": "static", "remove_invalid_values": True, "renormalize_logits": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def taught() -> Iterator[Workbench]:
    """A backbone that says labels, for its weights have been trained for a moment."""
    bench = Workbench.open("sentiment", "tiny-t5", max_rows={"train": 1000, "validation": 20, "test": 60}, device="cpu")
    with bench.tuned("full", s3.TuneConfig(steps=60, evaluations=1), progress=False) as (scores, _):
        assert scores.score > 0.3  # it says labels, right or wrong
        yield bench


def scored(bench: Workbench) -> dict[str, float]:
    return evaluate(bench.backbone, bench.splits.data.task, bench.splits.test)


@pytest.fixture(scope="module")
def expected(taught):
    return scored(taught)


@pytest.mark.parametrize("habit", HABITS)
def test_a_checkpoints_own_settings_do_not_show(taught, expected, habit):
    model = taught.backbone.model
    own = GenerationConfig.from_dict(model.generation_config.to_dict())
    setattr(own, habit, HABITS[habit])
    kept, model.generation_config = model.generation_config, own
    try:
        assert scored(taught) == expected
        assert model.generation_config is own
        assert getattr(own, habit) == HABITS[habit]
    finally:
        model.generation_config = kept


def test_settings_in_a_folder(taught, tmp_path):
    taught.backbone.model.save_pretrained(tmp_path)
    taught.backbone.tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "min_new_tokens": 30, "bad_words_ids": [[171], [172]]}))
    bench = Workbench.open("sentiment", tmp_path, max_rows={"train": 20, "validation": 20, "test": 60}, device="cpu")
    assert bench.backbone.model.generation_config.min_new_tokens == 30
    assert scored(bench) == pytest.approx(scored(taught))


def test_a_token_that_a_decoder_starts_with_is_not_part_of_the_answer():
    """Where it is a word and no special token, too."""
    model, tokenizer = tiny_model("t5"), tokenizer_of("t5")
    model.config.decoder_start_token_id = start = tokenizer("cat")["input_ids"][0]
    bench = Workbench.open(mood_data(), model=model, tokenizer=tokenizer, task_spec=MOOD, device="cpu")
    scores = bench.run("full", s3.TuneConfig(steps=120, full_lr=5e-3, evaluations=1, batch_size=16), progress=False)
    assert start > 2
    assert scores.score > 0.4


@pytest.mark.parametrize("form", ["t5", "bert"])
@pytest.mark.parametrize("changes", [{"return_dict": False}, {"output_hidden_states": True}, {"use_cache": False}])
def test_settings_of_the_model_itself(form, changes):
    def score(**changes):
        model = tiny_model(form)
        for name, value in changes.items():
            setattr(model.config, name, value)
        bench = Workbench.open(mood_data(32, 8), model=model, tokenizer=tokenizer_of(form), task_spec=MOOD, device="cpu")
        found = bench.run("full", s3.TuneConfig(steps=2, evaluations=1), progress=False).metrics
        assert all(getattr(model.config, name) == value for name, value in changes.items())
        return found

    assert score(**changes) == score()
    assert torch.isfinite(torch.tensor(score()["loss"]))


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_text_is_read_once_for_its_loss_and_its_answer(kind, monkeypatch):
    """And what is written is what a model writes that reads it again."""
    tiny = tiny_family(kind)
    wb = Workbench.open(mood_data(16, 20), model=tiny.model(), tokenizer=tiny.make_tokenizer(), task_spec=MOOD, device="cpu")
    model, read, written = wb.backbone.model, [], []
    model.get_encoder().register_forward_hook(lambda *_: read.append(1))
    own = model.generate

    def generate(**given):
        tokens, before = own(**given), len(read)
        assert given.pop("encoder_outputs").last_hidden_state.shape[:2] == given["input_ids"].shape
        assert torch.equal(own(**given), tokens)
        del read[before:]
        written.append(tokens)
        return tokens

    monkeypatch.setattr(model, "generate", generate)
    features = wb.splits.validation
    evaluate(wb.backbone, wb.splits.data.task, features, batch_size=8)
    assert len(read) == len(written) == len(features.by_length(8)) > 1


def test_a_mixture_of_experts_reads_it_again():
    """Its encoder's output has fields that no plain one has, and it asks for them while it writes."""
    from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

    tiny = tiny_family("t5")
    config = SwitchTransformersConfig(
        vocab_size=len(tiny.make_tokenizer()), d_model=16, d_kv=8, d_ff=16, num_layers=2, num_decoder_layers=2, num_heads=2,
        num_experts=2, decoder_start_token_id=0,
    )  # fmt: skip
    model = SwitchTransformersForConditionalGeneration(config)
    wb = Workbench.open(mood_data(16, 8), model=model, tokenizer=tiny.make_tokenizer(), task_spec=MOOD, device="cpu")
    scores = evaluate(wb.backbone, wb.splits.data.task, wb.splits.validation, batch_size=8)
    assert 0 <= scores["accuracy"] <= 1
