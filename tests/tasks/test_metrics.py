"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from s3pet_viz.errors import TaskError
from s3pet_viz.tasks import TASKS, Example, Task, compute_metrics

from .rows_by_task import CASES


def of_labels(*labels: float, groups: str | None = None) -> list[Example]:
    return [Example("", "", "", None, label, groups[i] if groups else None) for i, label in enumerate(labels)]


def score(task: str | Task, examples: list[Example], predictions: list[object]) -> dict[str, float]:
    return compute_metrics(TASKS[task] if isinstance(task, str) else task, examples, predictions)


def test_accuracy() -> None:
    assert score("sst2", of_labels(1, 0, 1, 1), [1, 0, 0, None]) == {"accuracy": 0.5, "score": 0.5}


def test_matthews() -> None:
    # TP 2, FN 1, FP 1, TN 1: (2*1 - 1*1) / sqrt(3 * 3 * 2 * 2) = 1 / 6
    found = score("cola", of_labels(1, 1, 1, 0, 0), [1, 1, 0, 1, 0])
    assert found["matthews"] == pytest.approx(1 / 6)


@pytest.mark.parametrize("guess", [[1, 1, 1, 1], [0, 0, 0, 0], [None] * 4])
def test_matthews_of_a_constant_is_0(guess: list[object]) -> None:
    assert score("cola", of_labels(1, 0, 1, 0), guess)["score"] == 0.0
    assert score("cola", of_labels(1, 1, 1, 1), guess)["score"] == 0.0


def test_f1_and_accuracy() -> None:
    # precision 1/2, recall 1/3 -> F1 = 2/5; accuracy 2/5
    found = score("mrpc", of_labels(1, 1, 1, 0, 0), [1, 0, 0, 1, 0])
    assert found == {"f1": pytest.approx(0.4), "accuracy": pytest.approx(0.4), "score": pytest.approx(0.4)}


def test_unknown_counts_as_the_wrong_class_in_f1() -> None:
    # None -> 0 for the positive (a miss), None -> 1 for the negative (a false alarm): TP 1, FP 1, FN 1
    assert score("qqp", of_labels(1, 1, 0), [1, None, None])["f1"] == pytest.approx(0.5)


def test_f1_without_any_positive_is_0() -> None:
    assert score("mrpc", of_labels(0, 0), [0, 0]) == {"f1": 0.0, "accuracy": 1.0, "score": 0.5}


def test_macro_f1() -> None:
    # class 0: P 1, R 1/2, F 2/3; class 1: P 1/2, R 1, F 2/3; class 2: never predicted, F 0
    found = score("cb", of_labels(0, 0, 1, 2), [0, 1, 1, None])
    assert found["macro_f1"] == pytest.approx(4 / 9)
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["score"] == pytest.approx((4 / 9 + 1 / 2) / 2)


def test_pearson_and_spearman() -> None:
    # x = 1 2 3 4, y = 1 4 2 8: covariance 9.5 of sums 5 and 28.75; ranks 1 3 2 4: 1 - 6 * 2 / 60
    found = score("stsb", of_labels(1, 2, 3, 4), [1, 4, 2, 8])
    assert found["pearson"] == pytest.approx(9.5 / math.sqrt(5 * 28.75))
    assert found["spearman"] == pytest.approx(0.8)


@pytest.mark.parametrize("guess", [[2.5, 2.5, 2.5], ["x", "", "kite"], [None, None, None]])
def test_constant_values_correlate_0(guess: list[object]) -> None:
    assert score("stsb", of_labels(1.0, 2.0, 3.0), guess) == {"pearson": 0.0, "spearman": 0.0, "score": 0.0}


def test_nearly_constant_values_do_not_warn() -> None:
    found = score("stsb", of_labels(1, 2, 3), [1e15, 1e15 + 0.125, 1e15])
    assert -1 <= found["pearson"] <= 1


def test_unparsed_values_are_minus_one_on_stsb() -> None:
    guess: list[object] = ["1.0", "kite", "3.0", "4.0"]
    assert score("stsb", of_labels(1, 2, 3, 4), guess) == score("stsb", of_labels(1, 2, 3, 4), [1, -1, 3, 4])


def test_multirc_f1a_and_em() -> None:
    # questions a (3 answers) and b (2): answers TP 2, FP 1, FN 0 -> F1a 4/5; b is all right -> EM 1/2
    found = score("multirc", of_labels(1, 0, 0, 1, 0, groups="aaabb"), [1, 1, 0, 1, 0])
    assert found == {"f1a": pytest.approx(0.8), "em": 0.5, "score": pytest.approx(0.65)}


def test_multirc_questions_need_not_be_adjacent() -> None:
    assert score("multirc", of_labels(1, 0, 1, 0, groups="abab"), [1, 0, 1, 1])["em"] == 0.5


def record_examples(form: str) -> list[Example]:
    row = CASES["record"].row
    other = {
        **row,
        "answers": ["the Red Kite"],
        "entities": ["the Red Kite", "Bo"],
        "idx": {"passage": 3, "query": 6},
    }
    return TASKS["record"].examples([row, other], form=form)  # type: ignore[arg-type]


def test_record_text_form() -> None:
    # "Ada" is one of the answers; "a red bird" against "red kite": one common token of 2 and 2 -> F1 1/2
    found = score("record", record_examples("text"), ["ada!", "A red bird"])
    assert found == {"token_f1": 0.75, "em": 0.5, "score": 0.625}


def test_record_counts_a_query_once() -> None:
    task, row = TASKS["record"], CASES["record"].row
    examples = task.examples([row], form="text", training=True)
    assert len(examples) == 2
    assert score(task, examples, ["Oslo", "Bo"])["em"] == 1.0


def test_record_candidates() -> None:
    examples = record_examples("pair")  # Ada, Oslo, Bo | the Red Kite, Bo
    assert score("record", examples, [0.1, 2.0, -1.0, -3.0, -2.0]) == {
        "token_f1": 0.5,
        "em": 0.5,
        "score": 0.5,
    }
    assert score("record", examples, [None] * 5)["score"] == 0.0


def test_copa_candidates() -> None:
    task, row = TASKS["copa"], CASES["copa"].row
    examples = task.examples([row, {**row, "label": 0}], form="pair")
    assert score(task, examples, [-1.0, -0.5, -1.0, -0.5])["accuracy"] == 0.5
    assert score(task, examples, [0.0, 1.0, None, None])["accuracy"] == 0.5
    assert score(task, examples, [0.0, 0.0, 0.0, 0.0])["accuracy"] == 0.5  # ties go to the first choice


def test_wsc_nouns() -> None:
    task, row = TASKS["wsc"], CASES["wsc"].row
    examples = task.examples([row, row, {**row, "label": 0}, {**row, "label": 0}], form="text")
    assert score(task, examples, ["The Kite", "red kite", "Ada", "kite"])["accuracy"] == 0.75
    assert score(task, examples, ["kite's tail", "", "", None])["accuracy"] == 0.0
    assert score(task, examples, [1, 0, 0, 1])["accuracy"] == 0.5


def test_numpy_predictions() -> None:
    assert score("sst2", of_labels(1, 0), list(np.array([1, 0])))["accuracy"] == 1.0
    assert score("sst2", of_labels(1, 0), np.array([1.0, 0.0]))["accuracy"] == 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [2, -1, 0.5, float("nan"), [1]])
def test_predictions_that_are_no_class(bad: object) -> None:
    with pytest.raises(TaskError, match="prediction 1: expected a class index from 0 to 1"):
        score("sst2", of_labels(1, 0), [1, bad])


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), True])
def test_values_that_are_not_finite(bad: object) -> None:
    with pytest.raises(TaskError, match="prediction 1: expected a finite number"):
        score("stsb", of_labels(1, 0), [1.0, bad])
    with pytest.raises(TaskError, match="prediction 1: expected a finite number"):
        score("record", record_examples("pair"), [0.0, bad, 0.0, 0.0, 0.0])


def test_lengths() -> None:
    with pytest.raises(TaskError, match=r"expected 2 predictions, found 1"):
        score("sst2", of_labels(1, 0), [1])
    with pytest.raises(TaskError, match="examples to score, found none"):
        score("sst2", [], [])
