"""Decoder-only backbones: what they read, what their loss counts, how they answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import MOOD, PAIRS, SPECIALS, STRENGTH, WORDS, mood_data, word_tokenizer
from tiny_families import TINY, tiny_family
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

import s3pet_viz as s3
from s3pet_viz.backbones import positions, wrap_backbone
from s3pet_viz.backbones.backbone import model_loss
from s3pet_viz.engine.backbone_problem import BackboneProblem
from s3pet_viz.errors import BackboneError, ConfigError, TaskError
from s3pet_viz.pet import candidate_gates, insert, load_space
from s3pet_viz.tasks import task_from_dict
from s3pet_viz.training.batches import IGNORE, Features
from s3pet_viz.training.evaluate import evaluate
from s3pet_viz.tuning import Workbench
from s3pet_viz.tuning.explain import row_losses

CAUSAL = [tiny for tiny in TINY if tiny.causal]
END = 1
ROWS = [
    {"text": "good cat", "label": 1},
    {"text": "a bad dog sees the slow river", "label": 0},
    {"text": "happy", "label": 1},
]
every = pytest.mark.parametrize("tiny", CAUSAL, ids=lambda tiny: tiny.name)


def backbone(name="gpt2", tokenizer=None, **changes):
    tiny = tiny_family(name)
    return wrap_backbone(tiny.model(**changes), tokenizer or tiny.make_tokenizer())


def features(made, spec=MOOD, rows=ROWS, **options):
    task = task_from_dict(spec)
    return Features(task.examples(rows, made.form), made, task, **options), task


def ids(text):
    table = {w: i for i, w in enumerate((*SPECIALS["gpt"], *WORDS))}
    return [table.get(w, 0) for w in text.split()]  # <unk> is 0


# -- what is read ----------------------------------------------------------------------------------------


def test_a_row_is_prompt_and_answer_and_its_labels_the_answer_alone():
    made, _ = features(backbone())
    prompts = [ids(f"mood text: {row['text']} answer:") for row in ROWS]
    answers = [[*ids(word), END] for word in ("positive", "negative", "positive")]
    batch = made.batch([0, 1], "cpu")
    long, short = prompts[1] + answers[1], prompts[0] + answers[0]
    gap = len(long) - len(short)
    assert batch["input_ids"].tolist() == [short + [END] * gap, long]  # padded with the end token: there is no other
    assert batch["attention_mask"].tolist() == [[1] * len(short) + [0] * gap, [1] * len(long)]
    assert batch["labels"].tolist() == [
        [IGNORE] * len(prompts[0]) + answers[0] + [IGNORE] * gap, [IGNORE] * len(prompts[1]) + answers[1],
    ]  # fmt: skip
    assert made.lengths.tolist() == [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]
    asked = made.prompts([0, 1], "cpu")
    left = len(prompts[1]) - len(prompts[0])
    assert asked["input_ids"].tolist() == [[END] * left + prompts[0], prompts[1]]
    assert asked["attention_mask"].tolist() == [[0] * left + [1] * len(prompts[0]), [1] * len(prompts[1])]
    assert made.take([1]).batch([0], "cpu")["input_ids"].tolist() == [long]


def test_a_long_source_is_cut_and_the_cue_stays():
    made, _ = features(backbone(), max_source_length=5)
    assert made.inputs["input_ids"][1] == ids("mood text: a bad answer:")
    # Prompt and answer fit the positions that the model has.
    rows = [{"text": " ".join(["cat"] * 99), "label": 0}]
    held = backbone(n_positions=24)
    made, task = features(held, rows=rows)
    assert len(made.inputs["input_ids"][0]) == 24 - task.max_target_length == 8
    assert torch.isfinite(held.model(**made.batch([0], "cpu")).loss)
    evaluate(held, task, made)
    with pytest.raises(TaskError, match="room for more than 1 tokens before an answer of up to 16, found 0"):
        features(backbone(n_positions=16))


def test_a_text_that_its_tokenizer_ends_goes_on():
    tokenizer = word_tokenizer("t5")
    made, _ = features(wrap_backbone(tiny_family("llama").model(vocab_size=len(tokenizer)), tokenizer))
    assert END not in made.inputs["input_ids"][0]
    assert made.targets[0] == [*tokenizer("positive", add_special_tokens=False)["input_ids"], END]
    assert made.batch([0, 1], "cpu")["input_ids"][0, -1] == tokenizer.pad_token_id == 0


def test_answers_are_the_tokens_that_follow_the_cue():
    """Byte-level tokenizers have another token for a word behind a space; characters show what was cut where."""
    letters = {c: i for i, c in enumerate(["<unk>", "<end>", *"abcdefghijklmnopqrstuvwxyz :0123456789"])}
    made = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", unk_token="<unk>")
    found, _ = features(backbone("llama", tokenizer, vocab_size=len(tokenizer)))
    letter = {i: c for c, i in letters.items()}
    assert "".join(letter[i] for i in found.targets[0]) == " positive<end>"
    assert "".join(letter[i] for i in found.inputs["input_ids"][0]) == "mood text: good cat answer:"


def test_a_tokenizer_that_melts_cue_and_answer_together():
    words = {w: i for i, w in enumerate(["<unk>", "<end>", "answer:", "answer: positive", "positive", "negative"])}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", unk_token="<unk>")
    found, _ = features(backbone("llama", tokenizer))
    assert found.targets[0] == [words["positive"], END]


# -- the loss --------------------------------------------------------------------------------------------


def by_hand(model, made, indices):
    """Cross-entropy of each answer token in nats, row by row, without padding; a list per row."""
    losses = []
    for i in indices:
        prompt, answer = made.inputs["input_ids"][i], made.targets[i]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].float()
        # The token at place k is predicted at place k - 1.
        at = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
        losses.append(F.cross_entropy(logits[at], torch.tensor(answer), reduction="none"))
    return losses


@every
def test_the_loss_is_that_of_the_answers_whatever_the_padding(tiny):
    held = backbone(tiny.name)
    made, _ = features(held, {**MOOD, "label_names": ["very negative indeed", "positive"]})
    expected = by_hand(held.model, made, [0, 1, 2])
    assert [len(row) for row in expected] == [2, 4, 2]
    with torch.no_grad():
        loss = held.model(**made.batch([0, 1, 2], "cpu")).loss
    torch.testing.assert_close(loss, torch.cat(expected).mean(), rtol=1e-5, atol=1e-6)
    # The answer's own words decide it: another prompt token's label would not.
    batch = made.batch([0, 1, 2], "cpu")
    everywhere = {**batch, "labels": torch.where(batch["attention_mask"] == 1, batch["input_ids"], IGNORE)}
    assert not torch.isclose(held.model(**everywhere).loss, loss, rtol=1e-3)


@every
def test_rows_have_their_own_losses(tiny):
    held = backbone(tiny.name)
    made, task = features(held)
    bench = Workbench.open(mood_data(8, 4), model=held.model, tokenizer=held.tokenizer, task_spec=MOOD, device="cpu")
    pets = insert(held.model, candidate_gates(positions(held.model), load_space("S3PET-L"))[0])
    (part,) = row_losses(bench, pets, made, 10)
    with torch.no_grad():
        losses = part(torch.ones(len(pets)))
    pets.detach()
    order = made.by_length(10)[0]
    expected = torch.stack([row.mean() for row in by_hand(held.model, made, order)])
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    assert evaluate(held, task, made)["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)


def test_a_batch_in_parts_has_the_whole_batchs_gradient():
    held = backbone()
    made, _ = features(held, {**MOOD, "label_names": ["very negative indeed", "positive"]})
    pets = insert(held.model, candidate_gates(positions(held.model), load_space("S3PET-M"))[0])
    problem = BackboneProblem(held.model, pets, lambda half, step: made.batch([0, 1, 2], "cpu"))
    assert problem.net.loss_of is model_loss
    batch = problem.batch("train", 0)
    assert problem.size(batch) == 8
    z = torch.ones(len(pets))
    whole = problem.loss(batch, z)
    parts = list(problem.parts(batch, 3))
    assert [share for share, _ in parts] == [2 / 8, 4 / 8, 2 / 8]
    torch.testing.assert_close(sum(share * problem.loss(part, z) for share, part in parts), whole)


# -- the answers -----------------------------------------------------------------------------------------


@every
def test_a_batch_answers_as_its_rows_do_alone(tiny):
    """Left padding moves no position."""
    held = backbone(tiny.name)
    made, _ = features(held)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": END}

    def say(indices):
        asked = made.prompts(indices, "cpu")
        return held.model.generate(**asked, **options)[:, asked["input_ids"].shape[1] :].tolist()

    together = say([0, 1, 2])
    assert together == [say([i])[0] for i in range(3)]
    assert len({tuple(row) for row in together}) > 1


def test_what_is_scored_is_what_comes_after_the_prompt(monkeypatch):
    held = backbone()
    made, task = features(held)
    asked = []

    def generate(input_ids, attention_mask, generation_config):
        asked.append((input_ids.tolist(), attention_mask.tolist(), generation_config))
        said = [[*ids("positive"), END], [*ids("negative"), END], [*ids("bad"), END]]
        return torch.cat([input_ids, torch.tensor(said)], dim=1)

    monkeypatch.setattr(held.model, "generate", generate)
    scores = evaluate(held, task, made)
    prompts = made.prompts(made.by_length(10)[0], "cpu")
    ((tokens, mask, options),) = asked
    assert (tokens, mask) == (prompts["input_ids"].tolist(), prompts["attention_mask"].tolist())
    assert (options.pad_token_id, options.eos_token_id, options.max_new_tokens) == (END, END, 16)
    # by length: happy, good cat, a bad dog ...; so they said: right, wrong, wrong
    assert scores["score"] == pytest.approx(1 / 3)


def test_a_models_own_generation_habits_are_left_out():
    """BART's config bans repeated words and wants beams; answers are greedy all the same."""
    held = backbone("bart", tiny_family("bart").make_tokenizer())
    made, task = features(held)
    plain = evaluate(held, task, made)
    config = held.model.generation_config
    config.num_beams, config.early_stopping, config.no_repeat_ngram_size = 3, True, 1
    config.repetition_penalty, config.min_length = 4.0, 9
    assert evaluate(held, task, made) == plain


# -- tokens to pad and to end with -----------------------------------------------------------------------


def tokenizer_with(**roles):
    made = word_tokenizer("gpt")
    for name in ("eos_token", "pad_token"):
        setattr(made, name, roles.get(name))
    return made


def test_padding():
    model = tiny_family("gpt2").model()
    assert wrap_backbone(model, tokenizer_with(eos_token="<|endoftext|>")).pad_id == END
    assert wrap_backbone(model, tokenizer_with(eos_token="<|endoftext|>", pad_token="cat")).pad_id == ids("cat")[0]
    with pytest.raises(BackboneError, match=r"a pad token or an end token \(eos\), found neither"):
        wrap_backbone(model, tokenizer_with())
    with pytest.raises(BackboneError, match=r"an end token \(eos\) for the end of answers, found none"):
        wrap_backbone(model, tokenizer_with(pad_token="cat"))
    beyond = word_tokenizer("gpt")
    beyond.add_special_tokens({"pad_token": "[PAD]"})
    with pytest.raises(BackboneError, match=r"a pad token among the model's 29 embeddings, found token 29"):
        wrap_backbone(model, beyond)


def test_the_callers_tokenizer_is_left_as_it_was():
    tokenizer = word_tokenizer("gpt")
    backbone("gpt2", tokenizer)
    assert tokenizer.pad_token is None
    assert tokenizer.padding_side == "right"


# -- with a head of its own ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2, classification", "llama, classification"])
def test_classification_reads_a_rows_last_token(name):
    held = backbone(name)
    assert (held.form, held.causal, held.pad_id) == ("pair", False, 0)
    assert list(held.head) == ["score.weight"]
    made, _ = features(held)
    batch = made.batch([0, 1, 2], "cpu")
    with torch.no_grad():
        together = held.model(**batch).logits
        for i in range(3):
            alone = held.model(input_ids=torch.tensor([made.inputs["input_ids"][i]])).logits[0]
            torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-5)


def test_a_model_in_memory_must_know_its_padding():
    with pytest.raises(BackboneError, match=r"expected model.config.pad_token_id, .* found none; set it to 1"):
        backbone("gpt2, classification", pad_token_id=None)


def test_two_texts_are_read_with_a_line_break_between():
    rows = [{"first": "good cat", "second": "happy", "label": 1}]
    seen = []
    tokenizer = word_tokenizer("gpt")
    held = backbone("gpt2, classification", tokenizer)

    class Listening:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, *texts, **options):
            seen.append(texts)
            return tokenizer(*texts, **options)

    made, _ = features(replace(held, tokenizer=Listening()), PAIRS, rows)
    assert seen == [(["good cat\nhappy"], None)]
    assert made.inputs["input_ids"] == [ids("good cat happy")]


def test_the_head_asked_for_is_that_of_the_model_in_memory():
    tiny = tiny_family("gpt2")
    common = {"model": tiny.model(), "tokenizer": tiny.make_tokenizer(), "task_spec": MOOD, "device": "cpu"}
    assert Workbench.open(mood_data(8, 4), head="lm", **common).backbone.causal
    with pytest.raises(ConfigError, match=r"head: expected that of the model in memory .GPT2LMHeadModel.*'classification'"):
        Workbench.open(mood_data(8, 4), head="classification", **common)


# -- what else runs on a backbone ------------------------------------------------------------------------


def test_numbers_as_answers():
    rows = [{"text": "good cat", "label": 2.6}, {"text": "bad", "label": 0}]
    made, task = features(backbone(tokenizer=word_tokenizer("gpt")), STRENGTH, rows)
    assert [e.target for e in made.examples] == ["2.6", "0.0"]
    assert set(evaluate(backbone(), task, made)) == {"pearson", "score", "loss"}
    assert made.constant_loss() == pytest.approx(0)  # both are unknown words to this tokenizer


def test_one_pass_scores_baselines_and_explanations(tmp_path):
    tiny = tiny_family("llama")
    common = {
        "task": mood_data(24, 8), "model": tiny.model(), "tokenizer": tiny.make_tokenizer(), "load": {"task_spec": MOOD},
        "device": "cpu", "progress": False, "batch_size": 8,
    }  # fmt: skip
    run = s3.search(**common, budget=1000, steps=2, mode="first-order", gradient_checkpointing=True, out=tmp_path / "run")
    explained = s3.explain(run, steps=2, rows=4, **common)
    assert len(explained) == len(run.structure().gates)
    bench = Workbench.open(
        common["task"], model=common["model"], tokenizer=common["tokenizer"], task_spec=MOOD, device="cpu"
    )
    table = s3.baselines(
        workbench=bench, budget=1000, seeds=1, methods=["full", "random", "gradient"], n_random=1, steps=2, batch_size=8,
        progress=False,
    )  # fmt: skip
    assert list(table["method"]) == ["full", "random", "gradient"]
    assert np.isfinite(table["loss"]).all()
    # All weights of a language model, its output matrix too (untied here).
    assert table["pet_params"][0] == sum(p.numel() for p in bench.backbone.model.parameters())
