"""The nine GLUE tasks (Wang et al. 2018), as in the Hugging Face dataset `nyu-mll/glue`."""

from __future__ import annotations

from typing import Any

from s3pet_viz.tasks.spec import Task

HUB_ID = "nyu-mll/glue"
_ENTAILMENT = ("entailment", "not_entailment")
_SENTENCES = ("sentence1", "sentence2")
_PAIR = ("premise", "hypothesis")


def _glue(name: str, fields: tuple[str, ...], label_names: tuple[str, ...], *metrics: str, **more: Any) -> Task:
    kind: Any = more.pop("kind", "classification")
    return Task(name, kind, fields, label_names, metrics, prefix=name, benchmark="glue", **more)


GLUE: tuple[Task, ...] = (
    _glue("cola", ("sentence",), ("unacceptable", "acceptable"), "matthews"),
    _glue("sst2", ("sentence",), ("negative", "positive"), "accuracy", large=True),
    _glue("mrpc", _SENTENCES, ("not_equivalent", "equivalent"), "f1", "accuracy"),
    _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), "f1", "accuracy", large=True),
    _glue("stsb", _SENTENCES, (), "pearson", "spearman", kind="regression", label_range=(0.0, 5.0), label_step=0.2),
    _glue("mnli", _PAIR[::-1], ("entailment", "neutral", "contradiction"), "accuracy", pair_fields=_PAIR, large=True),
    _glue("qnli", ("question", "sentence"), _ENTAILMENT, "accuracy", large=True),
    _glue("rte", _SENTENCES, _ENTAILMENT, "accuracy", max_source_length=256),
    _glue("wnli", _SENTENCES, _ENTAILMENT[::-1], "accuracy"),
)
