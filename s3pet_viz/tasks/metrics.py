"""The metrics of the tasks, from scikit-learn and scipy, with groups where a task has them.

Every value lies in 0..1, correlations and Matthews in -1..1. A metric that is not defined (a constant
prediction has no correlation; F1 without a true or predicted positive) is 0.0, without a warning.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from s3pet_viz.errors import S3PETError, TaskError, short
from s3pet_viz.tasks.example import Example
from s3pet_viz.tasks.forms import is_referent
from s3pet_viz.tasks.rows import is_finite, kind_of, plain
from s3pet_viz.tasks.spec import Task
from s3pet_viz.threads import no_warnings

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

UNKNOWN = -1  # the class index of a prediction that is no label: never equal to a true one


def compute_metrics(task: Task, examples: Sequence[Example], predictions: Sequence[object]) -> dict[str, float]:
    """The task's metrics, and their mean as `score` (GLUE's rule for tasks with two).

    `predictions[i]` belongs to `examples[i]`. Classification: a class index, a generated text, or None for "no label"
    (wrong in every metric). Regression: a finite number in the label's units, a text, or None (`task.unparsed_value`).
    Pair forms of COPA and ReCoRD: one score per candidate, the highest of a group is its answer, the first one on a
    tie. ReCoRD and WSC in text form: the generated text. MultiRC: F1a over all answers, EM per question. Other kinds:
    as their `Kind.measure` says. A metric of the user's own (`Task.functions`) gets `Kind.terms`; of several numbers
    that it returns the first counts in `score`.

    Raises TaskError when the lengths differ, nothing is given, or a prediction is NaN, infinite, or no class index.
    """
    if len(examples) != len(predictions):
        raise TaskError(f"task {task.name}: expected {len(examples)} predictions, found {len(predictions)}.")
    if not examples:
        raise TaskError(f"task {task.name}: expected examples to score, found none.")
    said = [plain(prediction) for prediction in predictions]
    if task.builder == "record":
        values = _record(task, examples, said)
    elif task.builder == "copa" and examples[0].group is not None:
        best = [_best(task, examples, said, members) for members in _groups(examples).values()]
        right = [float(i is not None and examples[i].label == 1) for i in best]
        values = {"accuracy": float(np.mean(right))}
    else:
        values = task.of.measure(task, examples, said)
    found: dict[str, float] = {}
    main: list[float] = []
    for name in task.metrics:
        own = {name: values[name]} if name not in task.functions else _own(task, name, examples, said)
        found |= own
        main.append(next(iter(own.values())))
    return {**found, "score": float(np.mean(main))}


def _own(task: Task, name: str, examples: Sequence[Example], said: Sequence[object]) -> dict[str, float]:
    """A metric of the user's own: one number, or several by name of which the first counts."""
    where = f"task {task.name}, metric {name}"
    try:
        given = task.functions[name](*task.of.terms(task, examples, said))
    except S3PETError:
        raise
    except Exception as error:  # anybody's code
        raise TaskError(f"{where}: expected a number, found {type(error).__name__}: {error}") from error
    found = {str(k): plain(v) for k, v in given.items()} if isinstance(given, Mapping) else {name: plain(given)}
    if not found or not all(is_finite(value) for value in found.values()):
        raise TaskError(f"{where}: expected a finite number, or several by name, found {short(given)}.")
    if taken := sorted(set(found) & ({"score", "loss", *task.metrics} - {name})):
        raise TaskError(f"{where}: expected a name of its own, found {taken[0]!r}.")
    return {key: float(value) for key, value in found.items()}  # type: ignore[arg-type]


# ---- classification


def classification(task: Task, examples: Sequence[Example], said: Sequence[object]) -> dict[str, float]:
    truth = np.array([example.label for example in examples], dtype=np.int64)
    guess = classes_of(task, examples, said)
    own = {*task.functions, "em"}
    values = {name: _CLASS_METRICS[name](truth, guess, task.num_labels) for name in task.metrics if name not in own}
    if "em" in task.metrics:  # all answers of a question right
        hits = truth == guess
        values["em"] = float(np.mean([hits[members].all() for members in _groups(examples).values()]))
    return values


def classes_of(task: Task, examples: Sequence[Example], said: Sequence[object]) -> Ints:
    """Class indices, `UNKNOWN` where a prediction is no label."""
    return np.array([_class(task, ex, x, i) for i, (ex, x) in enumerate(zip(examples, said, strict=True))])


def _class(task: Task, example: Example, value: object, index: int) -> int:
    if isinstance(value, str):
        value = task.parse_prediction(value)
        if task.builder == "wsc" and isinstance(value, str):
            return int(is_referent(value, example.answers[0]))
    if value is None:
        return UNKNOWN
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and 0 <= value < task.num_labels:
        return int(value)
    raise TaskError(
        f"task {task.name}, prediction {index}: expected a class index from 0 to {task.num_labels - 1}, "
        f"a text or None; found {kind_of(value)}."
    )


def _accuracy(truth: Ints, guess: Ints, num_labels: int) -> float:
    return float(np.mean(truth == guess))


def _f1(truth: Ints, guess: Ints, num_labels: int) -> float:
    """Binary F1 of class 1; an unknown prediction counts as the wrong class, as in T5."""
    from sklearn.metrics import f1_score

    filled = np.where(guess == UNKNOWN, 1 - truth, guess)
    return float(f1_score(truth, filled, labels=[0, 1], pos_label=1, average="binary", zero_division=0.0))


def _macro_f1(truth: Ints, guess: Ints, num_labels: int) -> float:
    """Mean F1 of the classes; one that is neither true nor predicted anywhere (a small split) is left out."""
    from sklearn.metrics import f1_score

    present = [label for label in range(num_labels) if label in truth or label in guess]
    return float(f1_score(truth, guess, labels=present, average="macro", zero_division=0.0))


def _matthews(truth: Ints, guess: Ints, num_labels: int) -> float:
    """Matthews correlation; unknown predictions are a class of their own, as in T5; 0.0 when either is constant."""
    from sklearn.metrics import matthews_corrcoef

    if np.ptp(truth) == 0 or np.ptp(guess) == 0:
        return 0.0
    return float(matthews_corrcoef(truth, guess))


_CLASS_METRICS: dict[str, Callable[[Ints, Ints, int], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "f1a": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
}
CLASSIFICATION_METRICS = ("accuracy", "f1", "macro_f1", "matthews")
REGRESSION_METRICS = ("pearson", "spearman")


# ---- regression


def regression(task: Task, examples: Sequence[Example], said: Sequence[object]) -> dict[str, float]:
    truth = np.array([example.label for example in examples], dtype=np.float64)
    guess = numbers_of(task, said)
    return {name: _correlation(truth, guess, ranks=name == "spearman") for name in REGRESSION_METRICS}


def numbers_of(task: Task, said: Sequence[object]) -> Floats:
    """Numbers, `task.unparsed_value` where a prediction is none."""
    guess = np.empty(len(said))
    for index, value in enumerate(said):
        number = task.parse_prediction(value) if isinstance(value, str) else value
        guess[index] = task.unparsed_value if number is None else _finite(task, number, index)
    return guess


def _finite(task: Task, value: object, index: int) -> float:
    if not is_finite(value):
        raise TaskError(f"task {task.name}, prediction {index}: expected a finite number, found {kind_of(value)}.")
    return float(value)


def _correlation(truth: Floats, guess: Floats, *, ranks: bool) -> float:
    from scipy import stats

    if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(guess) == 0:
        return 0.0
    with no_warnings():  # nearly constant input; a NaN becomes 0.0 below
        result = (stats.spearmanr if ranks else stats.pearsonr)(truth, guess)
    value = float(result.statistic)
    return min(1.0, max(-1.0, value)) if math.isfinite(value) else 0.0


# ---- groups


def _groups(examples: Sequence[Example]) -> dict[Hashable, list[int]]:
    """The indices of each group's examples, groups in order of first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(example.group, []).append(index)
    return groups


def _best(task: Task, examples: Sequence[Example], said: Sequence[object], members: list[int]) -> int | None:
    """The index of the candidate with the highest score, or None when no member has a score."""
    scores = {i: _finite(task, said[i], i) for i in members if said[i] is not None}
    return max(scores, key=lambda i: scores[i]) if scores else None


def _record(task: Task, examples: Sequence[Example], said: Sequence[object]) -> dict[str, float]:
    """Token F1 and exact match, each the best over a query's answers, then the mean over queries."""
    generated = all(value is None or isinstance(value, str) for value in said)
    f1, em = [], []
    for members in _groups(examples).values():
        answers = examples[members[0]].answers
        if generated:
            value = said[members[0]]  # one prediction per query counts, as in T5
        else:
            best = _best(task, examples, said, members)
            value = None if best is None else examples[best].target
        text = value if isinstance(value, str) else None
        f1.append(0.0 if text is None else max(_token_f1(text, answer) for answer in answers))
        em.append(0.0 if text is None else max(float(_normal(text) == _normal(answer)) for answer in answers))
    return {"token_f1": float(np.mean(f1)), "em": float(np.mean(em))}


def _normal(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no articles, single spaces."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _token_f1(prediction: str, answer: str) -> float:
    said, meant = _normal(prediction).split(), _normal(answer).split()
    if not said or not meant:
        return float(said == meant)
    common = sum((Counter(said) & Counter(meant)).values())
    return 2 * common / (len(said) + len(meant))
