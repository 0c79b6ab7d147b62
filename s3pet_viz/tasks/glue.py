"""The nine GLUE tasks (Wang et al. 2018), as in the Hugging Face dataset `nyu-mll/glue`."""

from __future__ import annotations

from s3pet_viz.tasks.spec import Task

HUB_ID = "nyu-mll/glue"
_ENTAILMENT = ("entailment", "not_entailment")
_SENTENCES = ("sentence1", "sentence2")


def _glue(
    name: str,
    fields: tuple[str, ...],
    label_names: tuple[str, ...],
    metrics: tuple[str, ...],
    *,
    pair_fields: tuple[str, ...] = (),
    max_source_length: int = 128,
    large: bool = False,
) -> Task:
    return Task(
        name=name,
        kind="classification",
        fields=fields,
        label_names=label_names,
        metrics=metrics,
        max_source_length=max_source_length,
        prefix=name,
        pair_fields=pair_fields,
        large=large,
        benchmark="glue",
    )


GLUE: tuple[Task, ...] = (
    _glue("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews",)),
    _glue("sst2", ("sentence",), ("negative", "positive"), ("accuracy",), large=True),
    _glue("mrpc", _SENTENCES, ("not_equivalent", "equivalent"), ("f1", "accuracy")),
    _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy"), large=True),
    Task(
        name="stsb",
        kind="regression",
        fields=_SENTENCES,
        label_names=(),
        metrics=("pearson", "spearman"),
        prefix="stsb",
        label_range=(0.0, 5.0),
        label_step=0.2,
        benchmark="glue",
    ),
    _glue(
        "mnli",
        ("hypothesis", "premise"),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        pair_fields=("premise", "hypothesis"),
        large=True,
    ),
    _glue("qnli", ("question", "sentence"), _ENTAILMENT, ("accuracy",), large=True),
    _glue("rte", _SENTENCES, _ENTAILMENT, ("accuracy",), max_source_length=256),
    _glue("wnli", _SENTENCES, ("not_entailment", "entailment"), ("accuracy",)),
)
