"""One row of a task, ready for a text-to-text backbone and for an encoder."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One row, ready for either kind of backbone.

    `source` and `target` are the text-to-text form. `text_a`, `text_b` and `label` are the pair form:
    `label` is a class index (int), a regression value (float, in the task's own units), the tag of each word, or 0 or
    1 for each label of a multi-label task (tuples). `group` is the question or query that the example belongs to, for
    the metrics that need it. `answers` are the accepted answers of a task whose text form generates free text (ReCoRD,
    WSC). `words` are those that are tagged. `messages` (role, content) are a conversation, the target its last: in the
    place of `source`, a tokenizer's chat template makes the text of it.
    """

    source: str
    target: str
    text_a: str
    text_b: str | None
    label: int | float | tuple[int, ...]
    group: Hashable | None = None
    answers: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()
