"""Generation, token classification and multi-label tasks: what a row becomes, what an answer means, what is refused."""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from s3pet_viz.backbones.check import check_metrics
from s3pet_viz.errors import MissingExtraError, TaskError
from s3pet_viz.tasks import compute_metrics, load_task, task_from_dict
from s3pet_viz.tasks.kind import entropy
from s3pet_viz.tasks.taskfile import recorded

Writer = Callable[..., Path]
HEADLINE: dict[str, Any] = {
    "name": "headline", "kind": "generation", "fields": ["title", "body"], "target": "summary", "metrics": ["rougeL", "exact_match"],
    "max_target_length": 9,
}
CHAT: dict[str, Any] = {"name": "chat", "kind": "generation", "messages": "messages", "metrics": ["exact_match"]}
TAGS: dict[str, Any] = {
    "name": "tags", "kind": "token_classification", "label_names": ["O", "B-PER", "I-PER", "B-LOC"],
    "metrics": ["f1", "precision", "recall", "accuracy"],
}
TOPICS: dict[str, Any] = {
    "name": "topics", "kind": "multi_label", "fields": ["text"], "label_names": ["art", "food", "war"],
    "metrics": ["micro_f1", "macro_f1", "exact_match"],
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "headline": [{"title": f"t{i}", "body": f"b{i}", "summary": f"s{i % 3} it is"} for i in range(12)],
    "chat": [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i % 2}"}]} for i in range(12)
    ],
    "tags": [{"words": ["anna", "saw", f"w{i}"], "tags": ["B-PER", "O", 3]} for i in range(12)],
    "topics": [{"text": f"t{i}", "label": [["art"], [0, "war"], [], ["food"]][i % 4]} for i in range(12)],
}
SPECS = {spec["name"]: spec for spec in (HEADLINE, CHAT, TAGS, TOPICS)}
each = pytest.mark.parametrize("name", SPECS)


def test_what_rows_become() -> None:
    (headline,) = task_from_dict(HEADLINE).examples(ROWS["headline"][:1])
    assert (headline.source, headline.target) == ("headline title: t0 body: b0", "s0 it is")
    (chat,) = task_from_dict(CHAT).examples(ROWS["chat"][:1])
    assert chat.messages == (("user", "q0"), ("assistant", "a0"))
    assert (chat.source, chat.target) == ("user: q0", "a0")
    (tags,) = task_from_dict(TAGS).examples(ROWS["tags"][:1])
    assert (tags.source, tags.target) == ("tags words: anna saw w0", "B-PER O B-LOC")
    assert (tags.words, tags.label) == (("anna", "saw", "w0"), (1, 0, 3))
    topics = task_from_dict(TOPICS).examples(ROWS["topics"][:3])
    assert [t.label for t in topics] == [(1, 0, 0), (1, 0, 1), (0, 0, 0)]
    assert [t.target for t in topics] == ["art", "art, war", "none"]


def test_a_label_named_none_is_not_the_lack_of_labels() -> None:
    task = task_from_dict({**TOPICS, "label_names": ["none", "art"]})
    assert [e.target for e in task.examples([{"text": "a", "label": ["none"]}, {"text": "b", "label": []}])] == ["none", "no label"]
    assert [task.parse_prediction(text) for text in ("none", "no label")] == [(1, 0), (0, 0)]


def test_several_fields_in_both_forms() -> None:
    spec = {"name": "n", "kind": "classification", "fields": ["a", "b", "c"], "label_names": ["x", "y"], "metrics": ["accuracy"]}
    (made,) = task_from_dict(spec).examples([{"a": "1", "b": "2", "c": "3", "label": 0}])
    assert (made.source, made.text_a, made.text_b) == ("n a: 1 b: 2 c: 3", "1", "2\n3")


@each
def test_the_right_answers_score_1_and_a_task_is_kept_and_read_back(name: str, write_task: Writer) -> None:
    data = load_task(write_task(name, SPECS[name], train=ROWS[name], validation=ROWS[name]), form="text")
    task = data.task
    right = [e.target for e in data.train]
    assert compute_metrics(task, data.train, right)["score"] == 1
    assert compute_metrics(task, data.train, [task.parse_prediction(text) for text in right])["score"] == 1
    assert compute_metrics(task, data.train, [task.of.truth(e) for e in data.train])["score"] == 1
    assert compute_metrics(task, data.train, [None] * len(right))["score"] < 0.5
    assert task_from_dict(recorded(task)) == task == pickle.loads(pickle.dumps(task))
    check_metrics(task, data.validation)


# -- answers and metrics ---------------------------------------------------------------------------------


def test_tags_that_are_missing_count_as_outside_and_more_are_left_out() -> None:
    task = task_from_dict(TAGS)
    examples = task.examples([{"words": ["a", "b", "c"], "tags": ["B-PER", "I-PER", "O"]}] * 4)
    said = ["B-PER I-PER O O B-LOC", "B-PER I-PER", "B-PER", "B-PER what O"]
    found = compute_metrics(task, examples, said)
    # Two of four entities are right; the third row says one of another length, and so does the fourth.
    assert found["precision"] == found["recall"] == found["f1"] == 0.5
    assert found["accuracy"] == pytest.approx((3 + 3 + 2 + 2) / 12)
    plain = task_from_dict({**TAGS, "label_names": ["NOUN", "VERB"], "metrics": ["accuracy"]})
    few = plain.examples([{"words": ["a", "b"], "tags": [0, 0]}])
    assert compute_metrics(plain, few, ["NOUN"])["accuracy"] == 0.5  # no tag stands for nothing


def test_entities_are_counted_as_seqeval_does() -> None:
    from seqeval.metrics import f1_score

    task = task_from_dict({**TAGS, "metrics": ["f1"]})
    rng = np.random.default_rng(0)
    rows = [{"words": list("abcde"), "tags": rng.integers(0, 4, 5).tolist()} for _ in range(40)]
    examples = task.examples(rows)
    said = [tuple(rng.integers(0, 4, 5).tolist()) for _ in rows]
    names = [[[task.label_names[i] for i in row] for row in table] for table in ([e.label for e in examples], said)]
    assert compute_metrics(task, examples, said)["f1"] == pytest.approx(f1_score(*names))


def test_several_labels_are_scored_as_scikit_learn_does() -> None:
    from sklearn.metrics import accuracy_score, f1_score

    task = task_from_dict(TOPICS)
    rng = np.random.default_rng(1)
    truth, said = rng.random((2, 50, 3)) < 0.4
    examples = task.examples([{"text": "x", "label": np.flatnonzero(row)} for row in truth])
    found = compute_metrics(task, examples, [tuple(row) for row in said.astype(int).tolist()])
    for average in ("micro", "macro"):
        assert found[f"{average}_f1"] == pytest.approx(f1_score(truth, said, average=average))
    assert found["exact_match"] == pytest.approx(accuracy_score(truth, said))


def test_an_answer_with_another_word_is_no_set_of_labels() -> None:
    task = task_from_dict(TOPICS)
    assert [task.parse_prediction(t) for t in ("war,art", "none", "art, tea", "")] == [(1, 0, 1), (0, 0, 0), None, None]
    examples = task.examples([{"text": "x", "label": []}] * 2)
    assert compute_metrics(task, examples, ["none", "tea"]) == {"micro_f1": 0, "macro_f1": 0, "exact_match": 0.5, "score": 1 / 6}


def test_rouge_is_that_of_rouge_score() -> None:
    task = task_from_dict({**HEADLINE, "metrics": ["rouge1", "rouge2", "rougeL", "exact_match"]})
    examples = task.examples([{"title": "", "body": "", "summary": "the cats sat on the mat"}])
    found = compute_metrics(task, examples, [" the cat  was on the mat"])
    assert found["rouge1"] == found["rougeL"] == pytest.approx(5 / 6)  # cats has the stem of cat
    assert found["rouge2"] == pytest.approx(3 / 5)
    assert found["exact_match"] == 0
    assert compute_metrics(task, examples, ["the cats  sat on the mat\n"])["exact_match"] == 1


def test_what_one_answer_costs() -> None:
    tags = task_from_dict(TAGS)
    examples = tags.examples([{"words": ["a", "b"], "tags": [0, 1]}, {"words": ["a"], "tags": [0]}])
    share = entropy([0, 1, 0])
    assert share == pytest.approx(-(2 / 3) * math.log(2 / 3) - math.log(1 / 3) / 3)
    assert tags.of.constant_loss(examples, [], text=False) == share
    assert tags.of.constant_loss(examples, [[5, 6, 7], [5, 6]], text=True) == pytest.approx(share * 3 / 5)
    topics = task_from_dict(TOPICS)
    labels = [(1, 0, 1), (0, 0, 1)]
    assert topics.of.constant_loss([], labels, text=False) == pytest.approx(math.log(2) / 3)
    assert task_from_dict(HEADLINE).of.constant_loss([], [[1, 2]], text=True) is None


# -- rows of other forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tags", "topics"])
def test_labels_are_read_off_the_rows_and_said(name: str) -> None:
    spec = {k: v for k, v in SPECS[name].items() if k != "label_names"}
    names = SPECS[name]["label_names"]
    named = [
        {k: [names[v] if isinstance(v, int) else v for v in value] if isinstance(value, list) else value for k, value in row.items()}
        for row in ROWS[name]
    ]
    with pytest.warns(UserWarning, match=r"the labels .* \(read off column"):
        data = load_task(named, form="text", task_spec=spec)
    assert data.task.label_names == tuple(sorted({n for row in named for n in row.get("label", row.get("tags"))}))
    assert data.task.fields == tuple(spec.get("fields", ("words",)))


def test_labels_of_datasets_and_numpy() -> None:
    classes = datasets.ClassLabel(names=TAGS["label_names"])
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner": datasets.Sequence(classes)})
    made = datasets.Dataset.from_list([{"tokens": ["a", f"b{i}"], "ner": [i % 4, 0]} for i in range(8)], features=features)
    spec = {k: v for k, v in TAGS.items() if k != "label_names"}
    with pytest.warns(UserWarning, match="the labels 'O, B-PER, I-PER, B-LOC'"):
        data = load_task(made, form="pair", task_spec=spec, columns={"words": "tokens", "tags": "ner"})
    assert data.task.label_names == tuple(TAGS["label_names"])
    frame = pd.DataFrame({"text": [f"t{i}" for i in range(8)], "label": [np.array([i % 3]) for i in range(8)]})
    assert load_task(frame, form="pair", task_spec=TOPICS).train[0].label in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    with pytest.raises(TaskError, match="expected the labels numbered O, B-PER, I-PER, B-LOC, found O, B-X"):
        features["ner"] = datasets.Sequence(datasets.ClassLabel(names=["O", "B-X", "I-PER", "B-LOC"]))
        other = datasets.Dataset.from_list([{"tokens": [f"a{i}"], "ner": [i % 2]} for i in range(8)], features=features)
        load_task(other, form="pair", task_spec=TAGS, columns={"words": "tokens", "tags": "ner"})


def test_several_labels_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,topics\n" + "".join(f"t{i},{['art|war', 'food', '', 'war'][i % 4]}\n" for i in range(16)))
    spec = {k: v for k, v in TOPICS.items() if k != "label_names"}
    with pytest.warns(UserWarning, match="the labels 'art, food, war'"):
        data = load_task(tmp_path / "t.csv", form="text", task_spec=spec, columns={"label": "topics"})
    assert {e.target for e in data.train} == {"art, war", "food", "none", "war"}


def test_numbers_that_may_mean_two_tags_are_refused() -> None:
    rows = [{"words": ["a", "b"], "tags": [1, 2]}] * 4
    with pytest.raises(TaskError, match=r"expected a label that means one thing, found the number 1 in column 'tags'"):
        load_task(rows, form="text", task_spec={**TAGS, "label_names": ["1", "2", "3"], "metrics": ["accuracy"]})


def test_max_rows_keeps_the_shares_of_sets_of_labels() -> None:
    data = load_task({"train": ROWS["topics"] * 5, "validation": ROWS["topics"]}, form="text", task_spec=TOPICS, max_rows=8)
    assert {target: sum(e.target == target for e in data.train) for target in ("art", "none", "food", "art, war")} == dict.fromkeys(("art", "none", "food", "art, war"), 2)


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("headline", {"summary": " "}, "expected a text in column 'summary', found an empty one"),
        ("headline", {"summary": None}, "expected text in column 'summary', found null"),
        ("chat", {"messages": "hello"}, "expected a list of messages in column 'messages', found str 'hello'"),
        ("chat", {"messages": [{"role": "user", "content": "x"}]}, "end with an answer of the assistant, found the roles: user"),
        ("chat", {"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "x"}]}, "found the roles: assistant, user"),
        ("chat", {"messages": [{"role": "user", "text": "x"}]}, "expected role and content, two texts, in message 0 of 'messages', found role, text"),
        ("chat", {"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "expected role and content alone .*, found tool_calls too"),
        ("tags", {"tags": ["O"]}, "expected a tag for each word, .* found 3 in column 'words' and 1 in column 'tags'"),
        ("tags", {"tags": "O O O"}, "expected a list of tags in column 'tags', found str"),
        ("tags", {"tags": ["O", "O", "B-ORG"]}, "expected in column 'tags' labels from 0 to 3 or of O, .*; found str 'B-ORG'"),
        ("tags", {"tags": [0, 0, 4]}, "found int 4"),
        ("tags", {"tags": [0, 0, True]}, "found bool True"),
        ("tags", {"words": ["a", "b", 3]}, "expected a list of words in column 'words', found int 3 in it"),
        ("tags", {"words": [], "tags": []}, "one at least; found 0"),
        ("topics", {"label": ["art", "tea"]}, "expected in column 'label' labels from 0 to 2 or of art, food, war; found str 'tea'"),
        ("topics", {"label": [1, 0, 1]}, r"expected each label once in column 'label', found \[1, 0, 1\]; of a 0 or 1 for each"),
        ("topics", {"label": [0.0, 0.0, 0.0]}, "expected each label once"),
        ("topics", {"label": None}, "expected a list of labels in column 'label', found null"),
        ("topics", {"label": "art;war"}, "found str 'art;war'"),
    ],
)  # fmt: skip
def test_rows_that_are_wrong_are_named(name: str, change: dict[str, Any], message: str) -> None:
    rows = [*ROWS[name], {**ROWS[name][0], **change}]
    with pytest.raises(TaskError, match=rf"memory, validation, row 12: .*{message}"):
        load_task({"train": ROWS[name], "validation": rows, "test": ROWS[name]}, form="text", task_spec=SPECS[name])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("headline", {"metrics": ["f1"]}, "'metrics': expected some of rouge1, rouge2, rougeL, exact_match; found str 'f1'"),
        ("headline", {"label_names": ["a", "b"]}, "'label_names': unknown for generation"),
        ("headline", {"messages": "m"}, "'messages': expected it without fields: messages hold both"),
        ("headline", {"max_target_length": 0}, "'max_target_length': expected a whole number of tokens"),
        ("headline", {"target": "body"}, "'target': expected a column that is not among the fields"),
        ("chat", {"messages": None}, "'messages': expected one line of text"),
        ("tags", {"fields": ["x"]}, "'fields': unknown for token_classification"),
        ("tags", {"label_names": ["O", "B PER"]}, "expected tags without white space, found 'B PER'"),
        ("tags", {"label_names": ["O", "NOUN"]}, "expected tags of entities .* for the metric f1, found 'NOUN'; for other tags use accuracy"),
        ("tags", {"words": "tags"}, "'tags': expected a column that is not among the fields"),
        ("topics", {"label_names": ["a", "b, c"]}, "expected names without commas"),
        ("topics", {"label_names": ["a", "b|c"]}, "expected names without commas"),
        ("topics", {"fields": []}, "'fields': expected a list of at least 1"),
    ],
)  # fmt: skip
def test_a_task_json_that_is_wrong(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task_from_dict({**SPECS[name], **change})
    with pytest.raises(TaskError, match="expected the field 'fields' or 'messages'"):
        task_from_dict({k: v for k, v in HEADLINE.items() if k != "fields"})


def test_rows_that_all_say_the_same_and_texts_that_rouge_cannot_read() -> None:
    for name, same in (("tags", {"tags": [0, 0, 0]}), ("topics", {"label": ["art"]})):
        with pytest.raises(TaskError, match="expected at least two classes in 12 row"):
            rows = [{**row, **same} for row in ROWS[name]]
            load_task({"train": rows, "validation": ROWS[name]}, form="text", task_spec=SPECS[name])
    rows = [{"title": "a", "body": f"b{i}", "summary": "新しい本"} for i in range(8)]
    with pytest.raises(TaskError, match=r"in Latin letters, .* found 8 of 8 without any.* use exact_match"):
        load_task({"train": rows, "validation": rows}, form="text", task_spec=HEADLINE)


@pytest.mark.parametrize(("name", "package"), [("headline", "rouge_score.rouge_scorer"), ("tags", "seqeval.metrics")])
def test_a_metric_whose_package_is_not_there_names_the_extra(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    task = task_from_dict(SPECS[name])
    with pytest.raises(MissingExtraError, match=r's3pet_viz\[metrics\]'):
        check_metrics(task, task.examples(ROWS[name]))


# -- metrics of one's own --------------------------------------------------------------------------------


def agreement(predictions: list[Any], references: list[Any]) -> float:
    return sum(a == b for a, b in zip(predictions, references, strict=True)) / len(references)


def lengths(predictions: list[Any], references: list[Any]) -> dict[str, float]:
    return {"said": float(np.mean([len(p) for p in predictions])), "meant": float(np.mean([len(r) for r in references]))}


@each
def test_a_function_is_a_metric(name: str) -> None:
    task = task_from_dict({**SPECS[name], "metrics": [agreement, SPECS[name]["metrics"][-1], lengths]})
    examples = task.examples(ROWS[name])
    found = compute_metrics(task, examples, [e.target for e in examples])
    assert list(found) == ["agreement", SPECS[name]["metrics"][-1], "said", "meant", "score"]
    assert found["agreement"] == 1
    assert found["score"] == pytest.approx((1 + 1 + found["said"]) / 3)  # of several numbers the first counts
    assert pickle.loads(pickle.dumps(task)) == task


def test_a_function_gets_what_scikit_learn_takes() -> None:
    seen: list[Any] = []

    def look(predictions: list[Any], references: list[Any]) -> float:
        seen.append((predictions, references))
        return 0.0

    cases: list[tuple[dict[str, Any], list[Any], Any]] = [
        ({"kind": "classification", "fields": ["t"], "label_names": ["a", "b"]}, ["b", "c"], ([1, -1], [0, 1])),
        ({"kind": "regression", "fields": ["t"], "label_range": [0, 5]}, ["3.0", "x"], ([3.0, -1.0], [0.0, 1.0])),
        ({**TAGS}, ["B-PER O", None], ([["B-PER", "O"], ["O", "O"]], [["O", "O"], ["B-PER", "O"]])),
        ({**TOPICS, "fields": ["t"]}, ["art, war", "x"], ([[1, 0, 1], [0, 0, 0]], [[1, 0, 0], [0, 1, 0]])),
        ({**HEADLINE, "fields": ["t"]}, ["x", None], (["x", ""], ["one", "two"])),
    ]  # fmt: skip
    for i, (spec, said, expected) in enumerate(cases):
        task = task_from_dict({**spec, "name": "n", "metrics": [look]})
        labels = [[0, 0], [1, 0]] if i == 2 else [[0], [1]] if i == 3 else [0, 1]
        rows = [{"t": "x", "words": ["p", "q"], "label": v, "tags": v, "summary": s} for v, s in zip(labels, ("one", "two"), strict=True)]
        compute_metrics(task, task.examples(rows), said)
        assert seen[-1] == expected


def fails(predictions: list[Any], references: list[Any]) -> float:
    raise KeyError("no")


def says_nothing(predictions: list[Any], references: list[Any]) -> Any:
    return None


def score(predictions: list[Any], references: list[Any]) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fails, r"metric fails: expected a number, found KeyError: 'no'"),
        (says_nothing, "metric says_nothing: expected a finite number, or several by name, found None"),
        (lambda p, r: 1.0, "expected a function with a name, found <lambda>"),
        (score, "expected a function with a name of its own, found another 'score'"),
        ("acuracy", "expected some of micro_f1"),
        ({"given_in_python": "mine"}, "mine was given in Python, and a run does not keep code; give it again"),
    ],
)
def test_functions_that_are_none(function: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task = task_from_dict({**TOPICS, "metrics": [function]})
        check_metrics(task, task.examples(ROWS["topics"]))


SCRIPT = '''
import datasets
import evaluate

class Same(evaluate.Metric):
    def _info(self):
        kinds = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(kinds))

    def _compute(self, predictions, references):
        return {"same": sum(a == b for a, b in zip(predictions, references)) / len(references)}
'''


def test_a_metric_by_name_of_evaluate(tmp_path: Path, write_task: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("evaluate")
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    (tmp_path / "same").mkdir()
    (tmp_path / "same" / "same.py").write_text(SCRIPT)
    spec = {**HEADLINE, "metrics": [f"evaluate:{tmp_path / 'same'}"]}
    task = task_from_dict(spec)
    examples = task.examples(ROWS["headline"])
    assert compute_metrics(task, examples, [*[e.target for e in examples[:6]], *["x"] * 6]) == {"same": 0.5, "score": 0.5}
    with pytest.raises(TaskError, match=r"expected a metric that evaluate\.load finds .*, found: "):
        task_from_dict({**HEADLINE, "metrics": [f"evaluate:{tmp_path / 'nowhere'}"]})
    # A folder that came from elsewhere cannot have code run.
    with pytest.raises(TaskError, match=r"task\.json, field 'metrics': .* runs a script, and a file here is data alone"):
        load_task(write_task("t", spec, train=ROWS["headline"], validation=ROWS["headline"]), form="text")
    with pytest.raises(TaskError, match="was given in Python, and a run does not keep code"):
        task_from_dict(recorded(task))
    monkeypatch.setitem(sys.modules, "evaluate", None)
    with pytest.raises(MissingExtraError, match="expected the package `evaluate`; pip install evaluate"):
        task_from_dict({**HEADLINE, "metrics": ["evaluate:other"]})
