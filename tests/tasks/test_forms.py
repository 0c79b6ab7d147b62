"""Every GLUE and SuperGLUE task: its exact text form, pair form, and the way back from a generated text."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from s3pet_viz.errors import ConfigError, TaskError
from s3pet_viz.tasks import TASKS, compute_metrics

from .rows_by_task import CASES


def test_every_task_has_a_case() -> None:
    assert set(CASES) == set(TASKS)
    assert len({task.name for task in TASKS.values()}) == 16
    assert {task.benchmark for task in TASKS.values()} == {"glue", "super_glue"}


@pytest.mark.parametrize("name", sorted(CASES))
class TestEveryTask:
    """One abstract case, run for every task."""

    def test_text_form(self, name: str) -> None:
        case = CASES[name]
        (example,) = TASKS[name].examples([case.row], form="text")
        assert (example.source, example.target, example.label) == (case.source, case.target, case.label)

    def test_pair_form(self, name: str) -> None:
        case = CASES[name]
        examples = TASKS[name].examples([case.row], form="pair")
        label = case.label if case.pair_label is None else case.pair_label
        assert len(examples) == case.pair_rows
        assert (examples[0].text_a, examples[0].text_b, examples[0].label) == (
            case.text_a,
            case.text_b,
            label,
        )

    def test_a_generated_target_scores_full_marks(self, name: str) -> None:
        task, case = TASKS[name], CASES[name]
        row = {**case.row, **case.other}
        examples = task.examples([case.row, row, case.row], form="text")
        scores = compute_metrics(task, examples, [example.target for example in examples])
        assert set(scores) == {*task.metrics, "score"}
        if task.kind == "classification" and name != "wsc":
            assert scores["score"] == 1.0
        if not task.generates_text and task.kind == "classification":
            assert task.parse_prediction(f" {examples[0].target}\n") == examples[0].label

    def test_unknown_text_is_wrong_not_class_0(self, name: str) -> None:
        task, case = TASKS[name], CASES[name]
        assert task.parse_prediction("  ") is None
        if not task.generates_text:
            assert task.parse_prediction("kite") is None
        examples = task.examples([{**case.row, **case.other}] * 2, form="text")
        assert compute_metrics(task, examples, [None, None])["score"] == 0.0

    def test_missing_column_is_named_with_its_row(self, name: str) -> None:
        task, case = TASKS[name], CASES[name]
        column = task.fields[-1]
        row = {key: value for key, value in case.row.items() if key != column}
        with pytest.raises(TaskError, match=rf"row 1: expected a column '{column}'"):
            task.examples([case.row, row])

    def test_text_that_is_none(self, name: str) -> None:
        task, case = TASKS[name], CASES[name]
        with pytest.raises(TaskError, match=r"row 0: expected .* found null"):
            task.examples([{**case.row, task.fields[0]: None}])

    def test_plain_data(self, name: str) -> None:
        task = TASKS[name]
        assert pickle.loads(pickle.dumps(task)) == task
        with pytest.raises(dataclasses.FrozenInstanceError):
            task.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "length"),
    [("cola", 128), ("rte", 256), ("boolq", 256), ("super_glue/rte", 256), ("record", 512)],
)
def test_source_lengths(name: str, length: int) -> None:
    assert TASKS[name].max_source_length == length


def test_unknown_form() -> None:
    with pytest.raises(ConfigError, match="'text' or 'pair'"):
        TASKS["cola"].examples([], form="audio")  # type: ignore[arg-type]


def test_record_trains_on_every_answer_and_scores_every_candidate() -> None:
    task, row = TASKS["record"], CASES["record"].row
    training = task.examples([row], form="text", training=True)
    assert [example.target for example in training] == ["Oslo", "Ada"]
    assert training[0].answers == ("Oslo", "Ada")
    pair = task.examples([row], form="pair", training=True)
    assert [(e.target, e.label) for e in pair] == [("Ada", 1), ("Oslo", 1), ("Bo", 0)]
    assert {e.group for e in pair} == {(3, 5)}
    assert task.num_labels == 2


def test_record_without_an_answer() -> None:
    with pytest.raises(TaskError, match="at least one entity and one answer"):
        TASKS["record"].examples([{**CASES["record"].row, "answers": []}])
    with pytest.raises(TaskError, match="expected a list of texts in column 'entities'"):
        TASKS["record"].examples([{**CASES["record"].row, "entities": "Ada"}])


def test_copa_scores_each_choice() -> None:
    task, row = TASKS["copa"], CASES["copa"].row
    pair = task.examples([row, {**row, "label": 0, "question": "effect"}], form="pair")
    assert [(e.text_b, e.label, e.group) for e in pair] == [
        ("The wind dropped.", 0, 0),
        ("The sun rose.", 1, 0),
        ("The wind dropped.", 1, 1),
        ("The sun rose.", 0, 1),
    ]
    assert pair[2].text_a == "The kite fell. What happened as a result?"
    with pytest.raises(TaskError, match="'cause' or 'effect'"):
        task.examples([{**row, "question": "why"}])


def test_wic_part_of_speech_when_there_is_one() -> None:
    (example,) = TASKS["wic"].examples([{**CASES["wic"].row, "pos": "V"}])
    assert example.source == "wic pos: V sentence1: Kites fly. sentence2: A fly sat. word: fly"


def test_wsc_trains_on_right_nouns_only_and_finds_the_pronoun() -> None:
    task, row = TASKS["wsc"], CASES["wsc"].row
    wrong = {**row, "span1_text": "Ada", "label": 0}
    assert len(task.examples([row, wrong], form="text", training=True)) == 1
    assert len(task.examples([row, wrong], form="pair", training=True)) == 2
    assert len(task.examples([row, wrong], form="text")) == 2
    (example,) = task.examples(
        [{**row, "span2_index": 6}]
    )  # an index that is off by one, as some published ones are
    assert example.source == CASES["wsc"].source
    with pytest.raises(TaskError, match="the pronoun 'she'"):
        task.examples([{**row, "span2_text": "she"}])


@pytest.mark.parametrize(
    ("label", "target"), [(0.0, "0.0"), (5.0, "5.0"), (3.1, "3.2"), (4.25, "4.2"), (2.5, "2.4"), (1.9, "2.0")]
)
def test_stsb_targets_round_as_t5_does(label: float, target: str) -> None:
    task = TASKS["stsb"]
    assert task.target_of(label) == target
    assert task.parse_prediction(target) == float(target)


@pytest.mark.parametrize("text", ["nan", "inf", "1e3", "5.2", "-1", "four", "1_0", "3.2 4.0"])
def test_stsb_texts_that_are_no_label(text: str) -> None:
    assert TASKS["stsb"].parse_prediction(text) is None


@pytest.mark.parametrize("label", [2, -1, "kite", None, 0.5, True, float("nan"), [1]])
def test_labels_that_are_no_class(label: object) -> None:
    with pytest.raises(TaskError, match=r"row 0: expected a label in column 'label' from 0 to 1"):
        TASKS["cola"].examples([{"sentence": "Kites.", "label": label}])


@pytest.mark.parametrize("label", [5.1, -1.0, "3", None, True, float("nan"), float("inf"), 10**400])
def test_values_outside_the_range(label: object) -> None:
    with pytest.raises(TaskError, match=r"row 0: expected a (finite )?number"):
        TASKS["stsb"].examples([{**CASES["stsb"].row, "label": label}])


@pytest.mark.parametrize(
    ("name", "label"), [("cola", "acceptable"), ("cola", 1.0), ("boolq", True), ("boolq", "True")]
)
def test_labels_by_name(name: str, label: object) -> None:
    (example,) = TASKS[name].examples([{**CASES[name].row, "label": label}])
    assert example.label == 1
    assert type(example.label) is int
