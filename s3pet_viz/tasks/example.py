"""One row of a task, ready for a text-to-text backbone and for an encoder."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One row, ready for either kind of backbone.

    `source` and `target` are the text-to-text form. `text_a`, `text_b` and `label` are the pair form:
    `label` is a class index (int) or a regression value (float, in the task's own units). `group` is the
    question or query that the example belongs to, for the metrics that need it. `answers` are the accepted
    answers of a task whose text form generates free text (ReCoRD, WSC).
    """

    source: str
    target: str
    text_a: str
    text_b: str | None
    label: int | float
    group: Hashable | None = None
    answers: tuple[str, ...] = ()
