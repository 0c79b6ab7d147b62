"""Generation: a text in answer to a text, or the next message of a conversation."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from s3pet_viz.errors import MissingExtraError, TaskError
from s3pet_viz.tasks import fields
from s3pet_viz.tasks.example import Example
from s3pet_viz.tasks.kind import Kind, Prediction, as_list
from s3pet_viz.tasks.rows import Row, Table, column, kind_of, text
from s3pet_viz.tasks.spec import BUILDERS, Form, Task
from s3pet_viz.threads import no_warnings

MESSAGES = "messages"
ROUGE = ("rouge1", "rouge2", "rougeL")


class Generation(Kind):
    """A prediction is the generated text. It is for language models; the loss is that of the answer alone.

    Rows have text columns and a target, or a column of messages ``{"role": ..., "content": ...}`` that end with one of
    the assistant: the target. ROUGE is the F measure of rouge-score, with its Porter stemmer; ``exact_match`` is the
    share of texts that are the target, but for white space.
    """

    name = "generation"
    metrics = (*ROUGE, "exact_match")
    extras = dict.fromkeys(ROUGE, "rouge-score")
    own = ("fields", "target", MESSAGES, "max_target_length")
    needs = ()
    label = label_field = "target"
    source_length = 512
    target_length = 64
    says_cut = True

    def read(self, spec: Mapping[str, Any], metrics: Sequence[str], where: str) -> dict[str, Any]:
        most = fields.tokens(spec, "max_target_length", self.target_length, where)
        if MESSAGES not in spec and "fields" not in spec:
            raise TaskError(f"{where}: expected the field 'fields' or 'messages', found: {', '.join(map(str, spec))}.")
        if MESSAGES not in spec:
            return {"max_target_length": most}
        if "fields" in spec or "target" in spec:
            other = "fields" if "fields" in spec else "target"
            raise fields.wrong(where, MESSAGES, f"it without {other}: messages hold both", spec[MESSAGES])
        name = fields.line(spec[MESSAGES], where, MESSAGES)
        return {"fields": (name,), "label": "", "builder": MESSAGES, "max_target_length": most}

    def label_of(self, task: Task, row: Row, at: str) -> int:
        return 0

    def example(self, task: Task, row: Row, at: str) -> Example:
        target = text(row, task.label, at)
        if not target.strip():
            raise TaskError(f"{at}: expected a text in column '{task.label}', found an empty one.")
        values = {name: text(row, name, at) for name in task.fields}
        source = " ".join([task.prefix, *(f"{name}: {values[name]}" for name in task.fields)])
        return Example(source, target, source, None, 0)

    def key(self, task: Task, row: Row, at: str) -> Hashable:
        if task.builder == MESSAGES:
            return messages_of(row, task.fields[0], at)[:-1]
        return super().key(task, row, at)

    def check_table(self, task: Task, table: Table) -> None:
        """rouge-score reads a to z and 0 to 9 alone: where most targets have none of them, it would say 0 of all."""
        if not set(task.metrics) & set(ROUGE):
            return
        targets = [example.target for example in task.examples(table)]
        unread = [t for t in targets if not any(c.isascii() and c.isalnum() for c in t)]
        if len(unread) * 2 > len(targets):
            raise TaskError(
                f"{table.where}: expected targets in Latin letters, which are all that ROUGE (rouge-score) reads, "
                f"found {len(unread)} of {len(targets)} without any, as {unread[0][:40]!r}; use exact_match, or a "
                "metric of your own."
            )

    def constant_loss(self, examples: Sequence[Example], answers: Sequence[Any], text: bool) -> float | None:
        return None  # free texts have no shares

    def said(self, task: Task, targets: Iterable[str]) -> list[str]:
        return []

    def parse(self, task: Task, text: str) -> str:
        return text

    def truth(self, example: Example) -> str:
        return example.target

    def measure(self, task: Task, examples: Sequence[Example], said: Sequence[Prediction]) -> dict[str, float]:
        guess, truth = self.terms(task, examples, said)
        values = {}
        if "exact_match" in task.metrics:
            same = [" ".join(a.split()) == " ".join(b.split()) for a, b in zip(guess, truth, strict=True)]
            values["exact_match"] = float(np.mean(same))
        if wanted := [name for name in ROUGE if name in task.metrics]:
            scorer = _rouge(wanted)
            found = [scorer.score(b, a) for a, b in zip(guess, truth, strict=True)]
            values |= {name: float(np.mean([one[name].fmeasure for one in found])) for name in wanted}
        return values

    def terms(self, task: Task, examples: Sequence[Example], said: Sequence[Prediction]) -> tuple[list[Any], list[Any]]:
        for i, value in enumerate(said):
            if not (value is None or isinstance(value, str)):
                raise TaskError(f"task {task.name}, prediction {i}: expected a text, found {kind_of(value)}.")
        return [value or "" for value in said], [example.target for example in examples]


def _rouge(names: Sequence[str]) -> Any:
    try:
        with no_warnings():
            from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtraError(
            f'metric {names[0]}: expected the package `rouge-score`; pip install "s3pet_viz[metrics]"'
        ) from error
    return RougeScorer(list(names), use_stemmer=True)


def messages_of(row: Row, name: str, at: str) -> tuple[tuple[str, str], ...]:
    """The (role, content) of a conversation that ends with the assistant's. Raises TaskError: it is none."""
    found = []
    for i, one in enumerate(as_list(column(row, name, at), name, at, "messages")):
        if not isinstance(one, Mapping) or not all(isinstance(one.get(k), str) for k in ("role", "content")):
            shown = ", ".join(map(str, one)) if isinstance(one, Mapping) else kind_of(one)
            raise TaskError(f"{at}: expected role and content, two texts, in message {i} of '{name}', found {shown}.")
        if more := [str(k) for k, v in one.items() if k not in ("role", "content") and v is not None]:
            raise TaskError(f"{at}: expected role and content alone in message {i} of '{name}', found {more[0]} too.")
        found.append((one["role"], one["content"]))
    if len(found) < 2 or found[-1][0] != "assistant" or not found[-1][1].strip():
        said = ", ".join(role for role, _ in found) or "none"
        raise TaskError(
            f"{at}: expected messages in '{name}' that end with an answer of the assistant, found the roles: {said}."
        )
    return tuple(found)


def _messages(task: Task, row: Row, at: str, form: Form, training: bool, index: int) -> list[Example]:
    found = messages_of(row, task.fields[0], at)
    source = "\n".join(f"{role}: {content}" for role, content in found[:-1])
    return [Example(source, found[-1][1], source, None, 0, messages=found)]


BUILDERS[MESSAGES] = _messages
