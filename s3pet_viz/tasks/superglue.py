"""The eight SuperGLUE tasks (Wang et al. 2019), as in the Hugging Face dataset `aps/super_glue`."""

from __future__ import annotations

from s3pet_viz.tasks.spec import Task

HUB_ID = "aps/super_glue"
_FALSE_TRUE = ("False", "True")


def _super_glue(
    name: str,
    fields: tuple[str, ...],
    label_names: tuple[str, ...] = _FALSE_TRUE,
    metrics: tuple[str, ...] = ("accuracy",),
    *,
    pair_fields: tuple[str, ...] = (),
    builder: str = "plain",
    max_source_length: int = 256,
    max_target_length: int = 16,
    large: bool = False,
) -> Task:
    return Task(
        name=name,
        kind="classification",
        fields=fields,
        label_names=label_names,
        metrics=metrics,
        max_source_length=max_source_length,
        max_target_length=max_target_length,
        prefix=name,
        pair_fields=pair_fields,
        builder=builder,
        large=large,
        benchmark="super_glue",
    )


_PREMISE_FIRST = ("premise", "hypothesis")

SUPER_GLUE: tuple[Task, ...] = (
    _super_glue("boolq", ("question", "passage")),
    _super_glue(
        "cb",
        ("hypothesis", "premise"),
        ("entailment", "contradiction", "neutral"),
        ("macro_f1", "accuracy"),
        pair_fields=_PREMISE_FIRST,
    ),
    _super_glue(
        "copa", ("choice1", "choice2", "premise", "question"), ("choice1", "choice2"), builder="copa"
    ),
    _super_glue("multirc", ("question", "answer", "paragraph"), metrics=("f1a", "em"), builder="multirc"),
    _super_glue(
        "record",
        ("query", "entities", "passage"),
        metrics=("token_f1", "em"),
        builder="record",
        max_source_length=512,
        max_target_length=32,
        large=True,
    ),
    _super_glue(
        "rte", ("hypothesis", "premise"), ("entailment", "not_entailment"), pair_fields=_PREMISE_FIRST
    ),
    _super_glue("wic", ("sentence1", "sentence2", "word"), builder="wic"),
    _super_glue(
        "wsc", ("text", "span1_text", "span2_text", "span2_index"), builder="wsc", max_target_length=32
    ),
)
