"""Token ids of rows that are more than a text: prompts of causal models, conversations, words with their tags."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from s3pet_viz.backbones import Backbone
from s3pet_viz.errors import BackboneError, TaskError
from s3pet_viz.tasks import Example, Task
from s3pet_viz.tasks.forms import ANSWER_CUE
from s3pet_viz.tasks.kind import IGNORE

Ids = list[list[int]]


def prompts(tokenizer: Any, examples: Sequence[Example], room: int, task: Task) -> Ids:
    """Token ids of each prompt: source and cue, at most `room` tokens.

    Prompt and answer are tokenised apart, so that a training row begins with just the tokens that are generated from.
    """
    (cue,) = tokenizer([ANSWER_CUE], add_special_tokens=False)["input_ids"]
    _check_room(room, len(cue), task)
    cut: dict[str, Any] = {"truncation": True, "max_length": room - len(cue)}
    sources = tokenizer([e.source for e in examples], **cut)["input_ids"]
    # Some tokenizers end every text; the answer is still to come.
    return [(s[:-1] if s[-1:] == [tokenizer.eos_token_id] else s) + cue for s in sources]


def chats(backbone: Backbone, examples: Sequence[Example], room: int, task: Task) -> tuple[Ids, Ids]:
    """Prompts and answers of conversations, as the tokenizer's chat template writes them.

    A prompt of more than `room` tokens loses its beginning, and that is said. A causal model's answer ends where the
    template ends it, or with the end token.

    Raises:
        BackboneError: a tokenizer without a chat template. TaskError: a conversation that the template refuses.
    """
    tokenizer = backbone.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise BackboneError(
            f"backbone: expected a tokenizer with a chat template for the messages of task {task.name}, found that of "
            f"{backbone.name} without one; set tokenizer.chat_template, or take a model that was tuned on conversations"
        )
    _check_room(room, 1, task)

    def written(messages: Sequence[tuple[str, str]], **how: bool) -> str:
        told = [{"role": role, "content": content} for role, content in messages]
        made: str = tokenizer.apply_chat_template(told, tokenize=False, **how)
        return made

    asked, said = [], []
    for example in examples:
        try:
            asked.append(written(example.messages[:-1], add_generation_prompt=True))
            whole = written(example.messages)
        except Exception as error:  # a template is a program of its own, which raises what it likes
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            roles = ", ".join(role for role, _ in example.messages)
            raise TaskError(
                f"task {task.name}: expected messages that the chat template of {backbone.name} takes, found the roles "
                f"{roles}: {first}"
            ) from error
        answer = whole.removeprefix(asked[-1]) if whole.startswith(asked[-1]) else ""
        said.append(answer if example.target.strip() in answer else example.target)
    _say_lost(task, examples, asked)
    # What a template writes has its special tokens in it.
    sources: Ids = tokenizer(asked, add_special_tokens=not backbone.causal)["input_ids"]
    say_cut(task, sources, room, "conversations", "max_source_length")
    sources = [ids[-room:] for ids in sources]
    if not backbone.causal:
        return sources, backbone.answers([e.target for e in examples])
    end = tokenizer.eos_token_id
    answers: Ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    return sources, [[*(ids[: ids.index(end)] if end in ids else ids), end] for ids in answers]


def tagged(
    tokenizer: Any, examples: Sequence[Example], limit: int, task: Task
) -> tuple[Mapping[str, Any], list[list[int]]]:
    """Inputs of words, and labels: the tag at each word's first token, `IGNORE` at all others.

    Words beyond `limit` tokens are cut off, and that is said.

    Raises:
        BackboneError: a tokenizer that cannot say which token is of which word.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise BackboneError(
            f"backbone: expected a fast tokenizer for task {task.name}, which says of which word a token is, found "
            f"{type(tokenizer).__name__}"
        )
    words = [list(e.words) for e in examples]
    inputs = tokenizer(words, is_split_into_words=True, truncation=True, max_length=limit)
    targets, cut = [], 0
    for i, example in enumerate(examples):
        tags, seen, row = example.label, set[int](), []
        for word in inputs.word_ids(i):
            first = word is not None and word not in seen
            row.append(tags[word] if first else IGNORE)  # type: ignore[index]
            seen |= {word} if first else set()
        if not seen:
            raise TaskError(
                f"task {task.name}: expected words that the tokenizer reads, found none of row {i}: "
                f"{' '.join(example.words)[:60]!r}"
            )
        targets.append(row)
        cut += len(inputs["input_ids"][i]) >= limit and len(example.words) - 1 not in seen
    _say(task, cut, len(examples), f"rows of words are longer than {limit} tokens (max_source_length)")
    return inputs, targets


def _say_lost(task: Task, examples: Sequence[Example], asked: Sequence[str]) -> None:
    """A warning where a chat template leaves out what was said to the assistant: the model never reads it."""
    lost: dict[str, int] = {}
    for example, text in zip(examples, asked, strict=True):
        for role in {role for role, told in example.messages[:-1] if role != "assistant" and told.strip() not in text}:
            lost[role] = lost.get(role, 0) + 1
    for role, rows in lost.items():
        warnings.warn(
            f"task {task.name}: the chat template leaves out messages of the role {role} in {rows:,} of "
            f"{len(examples):,} conversations",
            stacklevel=4,
        )


def say_cut(task: Task, rows: Sequence[Sequence[int]], most: int, what: str, option: str) -> None:
    """A warning where free texts are longer than they may be."""
    _say(task, sum(len(ids) > most for ids in rows), len(rows), f"{what} are longer than {most} tokens ({option})")


def _say(task: Task, cut: int, of: int, what: str) -> None:
    if cut and task.of.says_cut:
        warnings.warn(f"task {task.name}: {cut:,} of {of:,} {what} and are cut", stacklevel=4)


def _check_room(room: int, least: int, task: Task) -> None:
    if room <= least:
        raise TaskError(
            f"task {task.name}: expected room for more than {least} tokens before an answer of up to "
            f"{task.max_target_length}, found {room}"
        )
