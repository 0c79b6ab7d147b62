"""The eight SuperGLUE tasks (Wang et al. 2019), as in the Hugging Face dataset `aps/super_glue`."""

from __future__ import annotations

from typing import Any

from s3pet_viz.tasks.spec import Task

HUB_ID = "aps/super_glue"
_PAIR = ("premise", "hypothesis")
_THREE = ("entailment", "contradiction", "neutral")
_LONG: dict[str, Any] = {"large": True, "max_source_length": 512, "max_target_length": 32}


def _super_glue(name: str, fields: tuple[str, ...], *metrics: str, **more: Any) -> Task:
    options: dict[str, Any] = {"label_names": ("False", "True"), "max_source_length": 256, **more}
    metrics = metrics or ("accuracy",)
    return Task(name, "classification", fields, metrics=metrics, prefix=name, benchmark="super_glue", **options)


SUPER_GLUE: tuple[Task, ...] = (
    _super_glue("boolq", ("question", "passage")),
    _super_glue("cb", _PAIR[::-1], "macro_f1", "accuracy", pair_fields=_PAIR, label_names=_THREE),
    _super_glue(
        "copa", ("choice1", "choice2", "premise", "question"), label_names=("choice1", "choice2"), builder="copa"
    ),
    _super_glue("multirc", ("question", "answer", "paragraph"), "f1a", "em", builder="multirc"),
    _super_glue("record", ("query", "entities", "passage"), "token_f1", "em", builder="record", **_LONG),
    _super_glue("rte", _PAIR[::-1], label_names=("entailment", "not_entailment"), pair_fields=_PAIR),
    _super_glue("wic", ("sentence1", "sentence2", "word"), builder="wic"),
    _super_glue("wsc", ("text", "span1_text", "span2_text", "span2_index"), builder="wsc", max_target_length=32),
)
