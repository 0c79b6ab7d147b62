"""Generation, token classification and multi-label tasks on tiny models: searched, tuned, explained, scored, saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import CUES, FILLER, encoder_config, snapshot, t5_config, word_tokenizer
from tiny_families import tiny_family
from tokenizers import AddedToken
from torch import nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification, BertForTokenClassification, T5ForConditionalGeneration

import s3pet_viz as s3
from s3pet_viz.backbones import wrap_backbone
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import BackboneError, TaskError
from s3pet_viz.pet import candidate_gates, insert, load_space
from s3pet_viz.structure import Gate, Structure
from s3pet_viz.tasks import load_task, task_from_dict
from s3pet_viz.training.batches import IGNORE, Features
from s3pet_viz.training.evaluate import evaluate
from s3pet_viz.training.rows_of import chats
from s3pet_viz.tuning import Workbench
from s3pet_viz.tuning.explain import row_losses

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} . {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
TAGS: dict[str, Any] = {
    "name": "tags", "kind": "token_classification", "label_names": ["O", "B-MOOD"], "metrics": ["f1", "accuracy"], "prefix": "mood",
}
LABELS: dict[str, Any] = {
    "name": "labels", "kind": "multi_label", "fields": ["text"], "label_names": ["negative", "positive", "river"],
    "metrics": ["micro_f1", "exact_match"], "prefix": "mood",
}
ECHO: dict[str, Any] = {
    "name": "echo", "kind": "generation", "fields": ["text"], "target": "first", "metrics": ["exact_match"], "prefix": "mood",
    "max_target_length": 3,
}
CHAT: dict[str, Any] = {"name": "chat", "kind": "generation", "messages": "messages", "metrics": ["exact_match"], "max_target_length": 3}
SPECS = {spec["name"]: spec for spec in (TAGS, LABELS, ECHO, CHAT)}
NEW = ("O", "B-MOOD", "none", ",", "user", "assistant", "answer:")
QUICK: dict[str, Any] = {"batch_size": 8, "progress": False}
#: Forms of a tiny model and the kinds that each does.
WHOLE = [("t5", "labels"), ("t5", "chat"), ("bert", "tags"), ("bert", "labels"), ("gpt", "tags"), ("gpt", "echo")]


def rows(kind: str, n: int = 16, seed: int = 0) -> list[dict[str, Any]]:
    """Filler words with cue words among them: which are tagged, named as labels, or said again."""
    rng = np.random.default_rng([seed, 5])
    made = []
    for i in range(n):
        words = [str(w) for w in rng.choice(FILLER, 4)] + [str(rng.choice(CUES[k])) for k in range(2) if (i >> k) & 1]
        words = [words[j] for j in rng.permutation(len(words))]
        tags = ["B-MOOD" if w in CUES[0] + CUES[1] else "O" for w in words]
        labels = [name for name, cues in (("negative", CUES[0]), ("positive", CUES[1]), ("river", ("river",))) if set(words) & set(cues)]
        text, first = " ".join(words), words[0]
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": first}]
        made.append({
            "tags": {"words": words, "tags": tags}, "labels": {"text": text, "label": labels},
            "echo": {"text": text, "first": first}, "chat": {"messages": messages},
        }[kind])  # fmt: skip
    return made


def tokenizer(form: str, template: str | None = TEMPLATE) -> Any:
    made = word_tokenizer(form)
    made.add_tokens([AddedToken(word, single_word=word != ",", normalized=False) for word in NEW])
    made.chat_template = template
    return made


def model(form: str, kind: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer(form)), **changes}
    if form == "t5":
        return T5ForConditionalGeneration(t5_config(**size))
    if form == "gpt":
        return tiny_family("gpt2").model(**size)
    if kind == "tags":
        return BertForTokenClassification(encoder_config("bert", **{**size, "num_labels": 2}))
    return BertForSequenceClassification(encoder_config("bert", **{**size, "num_labels": 3, "max_position_embeddings": 40}))


def pair_of(form: str, kind: str, **changes: Any) -> dict[str, Any]:
    return {"model": model(form, kind, **changes), "tokenizer": tokenizer(form)}


def features(form: str, kind: str, spec: dict[str, Any] | None = None, table: Any = None, **options: Any) -> tuple[Any, Features]:
    made, task = wrap_backbone(model(form, kind), tokenizer(form)), task_from_dict(spec or SPECS[kind])
    return made, Features(task.examples(table or rows(kind), made.form), made, task, **options)


def norms(made: Any) -> list[Gate]:
    return candidate_gates(made.positions(), load_space({"name": "n", "gates": [{"type": "LNFit", "modules": ["*.LN"]}]}))[0]


# -- what is read, and what the loss counts --------------------------------------------------------------


def test_a_tag_stands_at_the_first_token_of_its_word() -> None:
    table = [{"words": ["good , cat", "dog"], "tags": ["B-MOOD", "O"]}, {"words": ["sad"], "tags": [1]}]
    made, read = features("bert", "tags", table=table)
    batch = read.batch([0, 1], "cpu")
    assert batch["labels"].tolist() == [[IGNORE, 1, IGNORE, IGNORE, 0, IGNORE], [IGNORE, 1, *[IGNORE] * 4]]
    loss = made.model(**batch).loss
    logits = made.model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    chosen = [(0, 1, 1), (0, 4, 0), (1, 1, 1)]
    by_hand = torch.stack([F.cross_entropy(logits[r, t][None], torch.tensor([tag])) for r, t, tag in chosen]).mean()
    assert torch.allclose(loss, by_hand)


def test_words_that_are_cut_are_said_and_count_as_outside() -> None:
    table = [{"words": ["cat"] * 5, "tags": [0, 0, 0, 0, 1]}, {"words": ["sad", "dog"], "tags": [1, 0]}]
    with pytest.warns(UserWarning, match=r"tags: 1 of 2 rows of words are longer than 5 tokens .* and are cut"):
        made, read = features("bert", "tags", {**TAGS, "metrics": ["accuracy"]}, table, max_source_length=5)
    logits = torch.full((2, 5, 2), 0.0)
    logits[1, :, 1] = 1  # every word of the second row is tagged
    task = task_from_dict(TAGS)
    said = task.of.read_head(task, logits.numpy(), read.batch([0, 1], "cpu")["labels"].numpy())
    assert said == [(0, 0, 0), (1, 1)]
    assert evaluate(made, task_from_dict({**TAGS, "metrics": ["accuracy"]}), read)["accuracy"] <= 1


@pytest.mark.parametrize(("form", "kind"), WHOLE)
def test_losses_of_rows_and_of_a_batch_are_one(form: str, kind: str) -> None:
    bench = Workbench.open(rows(kind), task_spec=SPECS[kind], **pair_of(form, kind))
    read = bench.splits.validation.take([0])
    gates = norms(bench.backbone)
    with bench.working():
        pets = insert(bench.backbone.model, gates)
        try:
            (part,) = row_losses(bench, pets, read, 4)
            loss = part(torch.ones(len(gates)))
            whole = bench.backbone.model(**read.batch([0], "cpu")).loss
        finally:
            pets.detach()
    assert torch.allclose(loss.mean(), whole, rtol=1e-5)


def test_a_conversation_is_read_through_the_chat_template() -> None:
    made, read = features("gpt", "chat", table=[{"messages": [
        {"role": "system", "content": "cat"}, {"role": "user", "content": "good dog"}, {"role": "assistant", "content": "sad"},
    ]}])  # fmt: skip
    asked = made.tokenizer("system : cat . user : good dog . assistant : ", add_special_tokens=False)["input_ids"]
    answer = made.tokenizer("sad . ", add_special_tokens=False)["input_ids"]  # what the template writes behind it
    batch = read.batch([0], "cpu")
    assert batch["input_ids"].tolist() == [[*asked, *answer, made.tokenizer.eos_token_id]]
    assert batch["labels"].tolist() == [[*[IGNORE] * len(asked), *answer, made.tokenizer.eos_token_id]]
    made, read = features("t5", "chat", table=rows("chat")[:1])
    (text,) = [m[0]["content"] for m in [rows("chat")[0]["messages"]]]
    assert read.inputs["input_ids"] == [made.tokenizer(f"user : {text} . assistant : ")["input_ids"]]
    assert read.targets == made.answers([rows("chat")[0]["messages"][-1]["content"]])


def test_a_template_that_ends_its_answers_itself() -> None:
    made = wrap_backbone(model("gpt", "chat"), tokenizer("gpt", TEMPLATE.replace(" . ", " <|endoftext|> . ")))
    task = task_from_dict(CHAT)
    read = Features(task.examples(rows("chat")[:1]), made, task)
    (answer,) = read.targets
    assert answer[-1] == made.tokenizer.eos_token_id
    assert made.said([answer]) == [rows("chat")[0]["messages"][-1]["content"]]


def test_what_is_too_long_is_cut_where_it_hurts_least_and_said() -> None:
    with pytest.warns(UserWarning, match=r"chat: 16 of 16 conversations are longer than 6 tokens .*cut"):
        made, read = features("gpt", "chat", max_source_length=6)
    assert {tuple(ids[-2:]) for ids in read.inputs["input_ids"]} == {tuple(made.tokenizer("assistant :")["input_ids"])}
    with pytest.warns(UserWarning, match=r"echo: 16 of 16 texts are longer than 3 tokens \(max_source_length\) and are cut"):
        features("t5", "echo", max_source_length=3)
    with pytest.warns(UserWarning, match=r"echo: 16 of 16 targets are longer than 1 tokens \(max_target_length\) and are cut"):
        features("t5", "echo", {**ECHO, "max_target_length": 1})


# -- the whole way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "kind"), WHOLE)
def test_searched_tuned_explained_and_kept(form: str, kind: str, tmp_path: Path) -> None:
    place = pair_of(form, kind)
    before = snapshot(place["model"])
    what = {"task": rows(kind), "load": {"task_spec": SPECS[kind]}, **place}
    run = s3.search(budget="3%", steps=2, mode="fast", out=tmp_path / "run", **what, **QUICK)
    assert (run.info["constant_loss"] is None) == (kind in ("echo", "chat"))
    assert np.isfinite(run.steps()["train_loss"]).all()
    scores = s3.tune(run.structure(), steps=1, save=tmp_path / "adapter", **what, **QUICK)
    assert set(SPECS[kind]["metrics"]) <= set(scores.metrics)
    assert s3.evaluate(tmp_path / "adapter", **what) == pytest.approx(scores.metrics)
    effects = s3.explain(run.structure(), steps=1, rows=4, metric=False, **what, **QUICK)
    assert np.isfinite(effects.table["loss_increase"]).all()
    assert all(torch.equal(before[k], v) for k, v in snapshot(place["model"]).items())


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("paper", "labels"), ("first-order", "tags"), ("single-level", "tags"), ("exact", "tags"), ("prune", "tags"), ("prune", "labels")],
)
def test_every_mode_with_a_head(mode: str, kind: str, tmp_path: Path) -> None:
    how = {"save": str(tmp_path / "kept")} if mode == "prune" else {}
    run = s3.search(
        task=rows(kind), load={"task_spec": SPECS[kind]}, budget="3%", steps=4, mode=mode, accumulation=1 + (mode == "first-order"),
        out=tmp_path / "run", **pair_of("bert", kind), **QUICK, **how,
    )  # fmt: skip
    assert len(run.structure()) > 0
    if how:
        assert s3.Adapter.from_pretrained(how["save"]).problem.startswith("token" if kind == "tags" else "multi")


def test_heads_learn() -> None:
    """What decides are single words, so a few steps tell more of rows that were not seen than the labels' shares."""
    for kind, steps in (("tags", 50), ("labels", 150)):
        data = {"train": rows(kind, 160, 1), "validation": rows(kind, 8, 2), "test": rows(kind, 24, 3)}
        bench = Workbench.open(data, task_spec=SPECS[kind], **pair_of("bert", kind))
        config = TuneConfig(steps=steps, full_lr=3e-3, evaluations=1, batch_size=32)
        scores = bench.run("full", config, progress=False)
        constant = bench.splits.test.constant_loss()
        assert constant is not None
        assert scores.metrics["loss"] < 0.8 * constant


def test_folders_get_the_head_of_the_kind_and_the_estimate_too(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    plain = BertForSequenceClassification(encoder_config("bert", vocab_size=len(tokenizer("bert"))))
    plain.bert.save_pretrained(folder)
    tokenizer("bert").save_pretrained(folder)
    made = s3.load_backbone(folder)
    structure = Structure(tuple(norms(made)), backbone=str(folder), backbone_params=made.n_params)
    for kind in ("tags", "labels"):
        load = {"task_spec": SPECS[kind]}
        found = s3.estimate(task=rows(kind), backbone=folder, budget="3%", load=load, batch_size=8)
        assert found.total
        s3.tune(structure, task=rows(kind), backbone=folder, load=load, steps=1, save=tmp_path / kind, **QUICK)
        adapter = s3.Adapter.from_pretrained(tmp_path / kind)
        head = adapter.load_backbone()
        assert (adapter.problem, head.problem) == (task_from_dict(SPECS[kind]).of.problem,) * 2
        assert adapter.labels == tuple(SPECS[kind]["label_names"])
        merged = s3.merge(adapter, backbone=head)
        assert merged.config.id2label == dict(enumerate(SPECS[kind]["label_names"]))
    assert isinstance(s3.load_backbone(folder, problem="token_classification", num_labels=4).model, BertForTokenClassification)
    with pytest.raises(BackboneError, match="expected a language model, .* for a task of generation, found .*bert"):
        s3.search(task=rows("echo"), load={"task_spec": ECHO}, backbone=folder, budget="3%", steps=3)
    with pytest.raises(BackboneError, match="expected a language model"):
        s3.estimate(task=rows("echo"), load={"task_spec": ECHO}, backbone=folder, budget="3%", steps=3)
    # A folder with a head for another kind of task would lose it.
    plain.save_pretrained(folder)
    with pytest.raises(BackboneError, match="or one for token classification, found .*BertForSequenceClassification"):
        s3.search(task=rows("tags"), load={"task_spec": TAGS}, backbone=folder, budget="3%", steps=3)


# -- what is refused before long work --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "kind", "spec", "message"),
    [
        ("bert", "labels", ECHO, "expected a language model, which writes texts, for a task of generation, found "),
        ("bert", "labels", TAGS, "expects a model with num_labels=2 for token_classification, found num_labels=3"),
        ("bert", "tags", LABELS, "expects a model with num_labels=3 for multi_label_classification, found num_labels=2"),
    ],
)
def test_heads_of_other_kinds(form: str, kind: str, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        s3.search(task=rows(spec["name"]), load={"task_spec": spec}, budget="3%", steps=3, **pair_of(form, kind))


def test_a_multi_label_head_that_is_of_one_label_only() -> None:
    place = pair_of("bert", "labels", problem_type="single_label_classification")
    with pytest.raises(BackboneError, match="for multi_label_classification, found num_labels=3 .*problem_type single_label"):
        s3.search(task=rows("labels"), load={"task_spec": LABELS}, budget="3%", steps=3, **place)


def test_messages_need_a_chat_template_that_takes_them() -> None:
    place = {"model": model("gpt", "chat"), "tokenizer": tokenizer("gpt", None)}
    with pytest.raises(BackboneError, match="expected a tokenizer with a chat template for the messages of task chat"):
        s3.search(task=rows("chat"), load={"task_spec": CHAT}, budget="3%", steps=3, **place)
    place["tokenizer"] = tokenizer("gpt", "{{ raise_exception('no such role') }}")
    with pytest.raises(TaskError, match="expected messages that the chat template of .* takes, found the roles user, assistant: no such role"):
        s3.search(task=rows("chat"), load={"task_spec": CHAT}, budget="3%", steps=3, **place)


def test_what_a_chat_template_leaves_out_is_said() -> None:
    """The model does not read it; an answer that it leaves out is written as it is."""
    made = wrap_backbone(model("gpt", "chat"), tokenizer("gpt", "hello"))
    data = s3.load_task(rows("chat"), form="text", task_spec=CHAT)
    with pytest.warns(UserWarning, match=r"leaves out messages of the role user in (\d+) of \1 conversations"):
        _, answers = chats(made, data.train, 16, data.task)
    assert all(len(ids) > 1 for ids in answers)


def test_tags_that_the_tokenizer_cannot_say() -> None:
    spec = {**TAGS, "label_names": ["O", "B-MOOD", "I-MOOD"]}
    with pytest.raises(TaskError, match="'I-MOOD' come back as"):
        s3.search(task=rows("tags"), load={"task_spec": spec}, budget="3%", steps=3, **pair_of("t5", "tags"))


# -- a metric of one's own -------------------------------------------------------------------------------


def agreement(predictions: list[Any], references: list[Any]) -> float:
    return float(np.mean([a == b for a, b in zip(predictions, references, strict=True)]))


def test_a_run_names_a_function_and_asks_for_it_again(tmp_path: Path) -> None:
    place = pair_of("bert", "labels")
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows("labels")))
    spec = {**LABELS, "metrics": [agreement, "exact_match"]}
    what = {"task": tmp_path / "data", "load": {"task_spec": spec}, **place}
    run = s3.search(budget="3%", steps=2, out=tmp_path / "run", **what, **QUICK)
    assert run.info["load"]["task_spec"]["metrics"] == [{"given_in_python": "agreement"}, "exact_match"]
    again = s3.open_run(tmp_path / "run")
    with pytest.raises(TaskError, match="agreement was given in Python, and a run does not keep code; give it again"):
        s3.tune(again, steps=1, **place, **QUICK)
    # Nor is code run that a foreign run.json names.
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    about["load"]["task_spec"]["metrics"] = ["evaluate:/tmp/elsewhere"]
    foreign = shutil.copytree(tmp_path / "run", tmp_path / "foreign")
    (foreign / "run.json").write_text(json.dumps(about))
    for call in (lambda: s3.tune(foreign, steps=1, **place, **QUICK), lambda: s3.search(resume=foreign, **place)):
        with pytest.raises(TaskError, match=r"run\.json, task_spec, field 'metrics': .* runs a script, and a file here is data"):
            call()
    scores = s3.tune(again, steps=1, load={"task_spec": spec}, **place, **QUICK)
    assert scores.metrics["agreement"] == scores.metrics["exact_match"]
    # What is data is kept, and need not be said again.
    run = s3.search(budget="3%", steps=2, out=tmp_path / "plain", **{**what, "load": {"task_spec": LABELS}}, **QUICK)
    assert s3.tune(s3.open_run(tmp_path / "plain"), steps=1, **place, **QUICK).task == "labels"


def test_the_embedded_ones_are_whole() -> None:
    for name, n in (("headline", 240), ("entities", 240), ("conversation", 240), ("topics", 240)):
        assert len(load_task(name, form="text").train) == n
