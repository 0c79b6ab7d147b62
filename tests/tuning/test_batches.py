"""Tokenised examples and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import MOOD, PAIRS, SPECIALS, STRENGTH, WORDS, tiny_model, tokenizer_of

from s3pet_viz.backbones import wrap_backbone
from s3pet_viz.errors import TaskError
from s3pet_viz.tasks import task_from_dict
from s3pet_viz.training.batches import BLOCK, IGNORE, Features, shuffled

ROWS = [
    {"text": "good cat", "label": 1},
    {"text": "a bad dog sees the slow river", "label": 0},
    {"text": "happy", "label": 1},
    {"text": "the grim house", "label": 0},
]


def features(form, spec=MOOD, rows=ROWS, **options):
    task = task_from_dict(spec)
    backbone = wrap_backbone(tiny_model(form), tokenizer_of(form))
    return Features(task.examples(rows, backbone.form), backbone, task, **options)


def ids(form, text):
    table = {w: i for i, w in enumerate((*SPECIALS["t5" if form == "gated" else form], *WORDS))}
    return [table[w] for w in text.split()]


def test_text_form():
    made = features("t5")
    batch = made.batch([0, 3, 1], "cpu")
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    rows = [ids("t5", f"mood text : {t} </s>".replace("text :", "text:").replace("text:", "<unk>")) for t in
            ("good cat", "the grim house", "a bad dog sees the slow river")]  # fmt: skip
    longest = max(map(len, rows))
    assert batch["input_ids"].tolist() == [r + [0] * (longest - len(r)) for r in rows]
    assert batch["attention_mask"].tolist() == [[1] * len(r) + [0] * (longest - len(r)) for r in rows]
    assert batch["labels"].tolist() == [ids("t5", "positive </s>"), ids("t5", "negative </s>"), ids("t5", "negative </s>")]
    assert made.lengths.tolist() == [5, 10, 4, 6]
    assert len(made) == 4


def test_targets_are_padded_with_what_the_loss_leaves_out():
    spec = {**MOOD, "label_names": ["very negative indeed", "positive"]}
    labels = features("t5", spec).batch([0, 1], "cpu")["labels"]
    assert labels[0, -1] == labels[0, -2] == IGNORE == -100
    assert (labels[1] != IGNORE).all()
    assert labels.shape == (2, 4)


@pytest.mark.parametrize("form", ["bert", "roberta"])
def test_pair_form_of_one_text(form):
    batch = features(form).batch([0, 2], "cpu")
    start, end, pad = ("[CLS]", "[SEP]", "[PAD]") if form == "bert" else ("<s>", "</s>", "<pad>")
    assert batch["input_ids"].tolist() == [ids(form, f"{start} good cat {end}"), ids(form, f"{start} happy {end} {pad}")]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["labels"].tolist() == [1, 1]
    assert batch["labels"].dtype == torch.long
    assert ("token_type_ids" in batch) == (form == "bert")


def test_pairs_have_token_types():
    rows = [{"first": "good cat", "second": "happy", "label": 1}, {"first": "bad", "second": "a sad dog near", "label": 0}]
    batch = features("bert", PAIRS, rows).batch([0, 1], "cpu")
    assert batch["input_ids"][0].tolist() == ids("bert", "[CLS] good cat [SEP] happy [SEP] [PAD] [PAD]")
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1]]


def test_regression_labels_are_numbers():
    rows = [{"text": "good cat", "label": 2.5}, {"text": "bad", "label": 0}]
    batch = features("bert", STRENGTH, rows).batch([0, 1], "cpu")
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == [2.5, 0.0]


def test_truncation():
    assert features("t5", max_source_length=4).lengths.tolist() == [4, 4, 4, 4]
    assert features("t5", {**MOOD, "max_source_length": 6}).lengths.tolist() == [5, 6, 4, 6]
    cut = features("t5", max_source_length=4).batch([1], "cpu")["input_ids"][0]
    assert cut.tolist() == ids("t5", "mood <unk> a </s>")  # the end mark stays


@pytest.mark.parametrize(("form", "longest"), [("bert", 24), ("roberta", 22)])
def test_encoders_are_never_fed_more_than_they_have_positions(form, longest):
    rows = [{"text": " ".join(["cat"] * 60), "label": 0}, {"text": "good", "label": 1}]
    made = features(form, rows=rows, max_source_length=1000)
    assert made.lengths.tolist() == [longest, 3]
    model = tiny_model(form).eval()
    assert torch.isfinite(model(**made.batch([0, 1], "cpu")).loss)  # one more would be an index error


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "camembert"])
def test_families_that_number_positions_from_the_padding(model_type):
    backbone = wrap_backbone(tiny_model("roberta"), tokenizer_of("roberta"))
    backbone.model.config.model_type = model_type
    assert backbone.longest_input == 22
    assert wrap_backbone(tiny_model("t5"), tokenizer_of("t5")).longest_input >= 10**6


def test_no_examples():
    backbone = wrap_backbone(tiny_model("t5"), tokenizer_of("t5"))
    with pytest.raises(TaskError, match="task mood: expected at least one example"):
        Features([], backbone, task_from_dict(MOOD))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
def test_by_length_covers_each_index_once(size):
    made = features("t5")
    batches = made.by_length(size)
    flat = np.concatenate(batches).tolist()
    assert sorted(flat) == [0, 1, 2, 3]
    assert all(len(b) <= size for b in batches)
    assert made.lengths[flat].tolist() == sorted(made.lengths)


# -- shuffled ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 400), st.integers(1, 50), st.lists(st.integers(0, 2**31), min_size=1, max_size=3))
def test_an_epoch_uses_an_index_at_most_once(n, batch_size, seed):
    lengths = np.random.default_rng(n).integers(1, 100, n)
    width = min(batch_size, n)
    per_epoch = n // width
    at = shuffled(lengths, batch_size, seed)
    for epoch in (0, 1, 5):
        batches = [at(epoch * per_epoch + k) for k in range(per_epoch)]
        assert {len(b) for b in batches} == {width}
        flat = np.concatenate(batches).tolist()
        assert len(set(flat)) == len(flat) == per_epoch * width
        assert set(flat) <= set(range(n))
        assert n - len(flat) < width


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 200), st.integers(1, 20), st.integers(0, 100), st.lists(st.integers(0, 60), min_size=1))
def test_a_pure_function_of_the_step(n, batch_size, seed, steps):
    lengths = np.random.default_rng(1).integers(1, 50, n)
    walked = shuffled(lengths, batch_size, [seed])
    expected = {step: walked(step).tolist() for step in range(61)}
    resumed = shuffled(lengths.tolist(), batch_size, [seed])
    for step in steps:  # in any order, as after a resume
        assert resumed(step).tolist() == expected[step]
        state = np.random.get_state()[1].tolist()  # noqa: NPY002
        resumed(step)
        assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_epochs_and_seeds_differ():
    lengths = np.arange(64) % 7
    first, other = shuffled(lengths, 16, [0]), shuffled(lengths, 16, [1])
    epochs = [np.concatenate([first(4 * e + k) for k in range(4)]).tolist() for e in range(2)]
    assert epochs[0] != epochs[1]
    assert epochs[0] != np.concatenate([other(k) for k in range(4)]).tolist()
    assert shuffled(lengths, 16, [0, 1])(0).tolist() != shuffled(lengths, 16, [1, 0])(0).tolist()


def test_a_batch_has_like_lengths():
    lengths = np.random.default_rng(0).integers(1, 200, BLOCK * 8)
    at = shuffled(lengths, 8, [3])
    padding = np.mean([lengths[at(k)].max() - lengths[at(k)].mean() for k in range(BLOCK)])
    plain = np.random.default_rng(4).permutation(len(lengths)).reshape(-1, 8)
    assert padding < 0.2 * np.mean([lengths[b].max() - lengths[b].mean() for b in plain])
    means = [lengths[at(k)].mean() for k in range(BLOCK)]
    assert means != sorted(means)  # but long and short ones come in any order


@pytest.mark.parametrize("form", ["t5", "bert"])
def test_the_loss_of_one_answer_to_every_row(form):
    """ln 2 for two even classes; a text spreads it over the answer and </s>."""
    expected = np.log(2) / (2 if form == "t5" else 1)
    assert features(form).constant_loss() == pytest.approx(expected)
    uneven = [ROWS[0], ROWS[1], ROWS[3], ROWS[3]]
    share = np.array([0.25, 0.75])
    assert features(form, rows=uneven).constant_loss() == pytest.approx(expected / np.log(2) * -(share @ np.log(share)))


def test_of_numbers_it_is_their_variance():
    rows = [{"text": "good cat", "label": v} for v in (0.0, 1.0, 5.0)]
    assert features("bert", STRENGTH, rows).constant_loss() == pytest.approx(np.var([0, 1, 5]))
