"""Tokenised examples and batches: the one way from a task's rows to tensors, for search and tuning alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.position import understood
from s3pet_viz.errors import TaskError
from s3pet_viz.tasks import Example, Task
from s3pet_viz.tasks.kind import IGNORE
from s3pet_viz.training import rows_of

#: Rows that are enough to measure with: the longest of so many.
_ROWS, _OF = 4, 64


class Features:
    """Examples tokenised once for one backbone.

    Args:
        examples: of the form that the backbone reads.
        max_source_length: in tokens; longer inputs are cut.
    """

    def __init__(
        self, examples: Sequence[Example], backbone: Backbone, task: Task, *, max_source_length: int | None = None
    ) -> None:
        if not examples:
            raise TaskError(f"task {task.name}: expected at least one example, found none")
        self.examples = list(examples)
        self.form = backbone.form
        self.targets: list[Any]
        self.kind = task.of
        self.tokenizer, self.pad_id, self.causal = backbone.tokenizer, backbone.pad_id, backbone.causal
        limit = min(max_source_length or task.max_source_length, backbone.longest_input)
        cut: dict[str, Any] = {"truncation": True, "max_length": limit}
        inputs: Mapping[str, Any]
        if self.form == "text" and self.kind.says_cut and not examples[0].messages:
            whole = self.tokenizer([e.source for e in examples], verbose=False)["input_ids"]
            rows_of.say_cut(task, whole, limit, "texts", "max_source_length")
        room = min(limit, backbone.longest_input - task.max_target_length) if self.causal else limit
        if self.form == "text" and examples[0].messages:
            prompts, answers = rows_of.chats(backbone, examples, room, task)
            inputs = {"input_ids": prompts, "attention_mask": [[1] * len(p) for p in prompts]}
        elif self.causal:
            prompts = rows_of.prompts(self.tokenizer, examples, room, task)
            inputs = {"input_ids": prompts, "attention_mask": [[1] * len(p) for p in prompts]}
        elif self.form == "pair" and examples[0].words:
            inputs, self.targets = rows_of.tagged(self.tokenizer, examples, limit, task)
        elif self.form == "text":
            inputs = self.tokenizer([e.source for e in examples], **cut)
        else:
            first = [e.text_a for e in examples]
            second = None if examples[0].text_b is None else [e.text_b or "" for e in examples]
            if second is not None and backbone.family.decoder_only:
                # Their tokenizers would put the two texts end to end.
                first, second = [f"{a}\n{b}" for a, b in zip(first, second, strict=True)], None
            inputs = self.tokenizer(first, second, **cut)
            self.targets = [e.label for e in examples]
        if self.form == "text":
            if not examples[0].messages:
                answers = backbone.answers([e.target for e in examples])
            rows_of.say_cut(task, answers, task.max_target_length, "targets", "max_target_length")
            self.targets = [_cut(ids, task.max_target_length) for ids in answers]
        read = {k: inputs[k] for k in ("input_ids", "attention_mask", "token_type_ids") if k in inputs}
        self.inputs: dict[str, list[list[int]]] = understood(backbone.model, **read)
        if self.form == "text":  # what is generated from is padded, and a model that cannot be told so is refused
            self.inputs["attention_mask"] = read["attention_mask"]
        self.lengths = np.array([len(ids) for ids in self.inputs["input_ids"]])
        if self.causal:
            self.lengths += [len(answer) for answer in self.targets]

    def __len__(self) -> int:
        return len(self.examples)

    def constant_loss(self) -> float | None:
        """The least mean loss of one answer to every row: what a model has when it knows the labels' shares alone.

        Entropy of the labels in nats (text: of the whole targets, a token's share of it); the variance of numbers; None
        where nobody can tell (`Kind.constant_loss`).
        """
        return self.kind.constant_loss(self.examples, self.targets, self.form == "text")

    def take(self, indices: Sequence[int]) -> Features:
        """These examples alone, in this order."""
        made = copy.copy(self)
        made.examples = [self.examples[i] for i in indices]
        made.targets = [self.targets[i] for i in indices]
        made.inputs = {name: [rows[i] for i in indices] for name, rows in self.inputs.items()}
        made.lengths = self.lengths[list(indices)]
        return made

    def batch(self, indices: Sequence[int] | NDArray[np.int64], device: torch.device | str) -> dict[str, Tensor]:
        """Padded tensors with ``labels``; shapes (batch, longest) and, for a head, labels (batch,), (batch, labels) or
        (batch, longest), as it answers a row, each label, or each token.

        A causal language model reads prompt and answer in one row, with labels (not `IGNORE`) on the answer alone.
        """
        chosen = [self.targets[i] for i in indices]
        if self.causal:
            prompts = [self.inputs["input_ids"][i] for i in indices]
            rows = [p + a for p, a in zip(prompts, chosen, strict=True)]
            made = {
                "input_ids": _padded(rows, self.pad_id),
                "attention_mask": _padded([[1] * len(row) for row in rows], 0),
                "labels": _padded([[IGNORE] * len(p) + a for p, a in zip(prompts, chosen, strict=True)], IGNORE),
            }
        else:
            made = self._inputs(indices)
            if self.form == "text" or self.examples[0].words:
                made["labels"] = _padded(chosen, IGNORE)
            else:
                made["labels"] = torch.from_numpy(self.kind.labels(chosen))
        return {k: v.to(device, non_blocking=True) for k, v in made.items()}

    def prompts(
        self, indices: Sequence[int] | NDArray[np.int64], device: torch.device | str
    ) -> dict[str, Tensor]:  # each (batch, longest)
        """What a language model generates from. Causal ones are padded on the left, for they write on from the end."""
        return {k: v.to(device, non_blocking=True) for k, v in self._inputs(indices, left=self.causal).items()}

    def _inputs(self, indices: Sequence[int] | NDArray[np.int64], *, left: bool = False) -> dict[str, Tensor]:
        pad = {"input_ids": self.pad_id, "attention_mask": 0, "token_type_ids": 0}
        return {k: _padded([rows[i] for i in indices], pad[k], left=left) for k, rows in self.inputs.items()}

    def drawn(
        self, batch_size: int, seed: Sequence[int], device: torch.device | str, rank: int = 0, size: int = 1
    ) -> Callable[[int], dict[str, Tensor]]:
        """The training batch of a step, `batch_size` rows in each of `size` processes; see `shuffled`."""
        numbers = shuffled(self.lengths, batch_size * size, seed)
        return lambda step: self.batch(numbers(step)[rank::size], device)

    def few(self, device: torch.device | str) -> list[dict[str, Tensor]]:
        """A batch of rows that are enough to measure with: the longest of the first ones."""
        longest = np.argsort(-self.lengths[:_OF], kind="stable")[:_ROWS]
        return [self.batch(longest, device)]

    def by_length(self, batch_size: int) -> list[NDArray[np.int64]]:
        """Every index once, in batches of like lengths (for evaluation)."""
        order = np.argsort(self.lengths, kind="stable")
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def answered(labels: Tensor) -> int:
    """What the mean loss of a batch with these labels is taken over: rows, or label tokens."""
    return int((labels != IGNORE).sum()) if labels.dim() > 1 else len(labels)


#: Batches that are cut together from one sorted block, see `shuffled`.
BLOCK = 32


def shuffled(
    lengths: Sequence[int] | NDArray[np.int64], batch_size: int, seed: Sequence[int]
) -> Callable[[int], NDArray[np.int64]]:
    """The indices of the batch at a step: a new permutation each epoch, cut so that a batch has like lengths.

    As transformers' ``group_by_length``: blocks of the permutation are sorted by length before they are cut into
    batches, and the batches are then shuffled. On short texts this saves most of the padding.

    A pure function of (seed, step): a resumed run sees the batches it would have seen. An epoch has whole
    batches only; the rest of its permutation is left out.
    """
    size = np.asarray(lengths)
    n = len(size)
    width = min(batch_size, n)
    per_epoch = n // width

    @lru_cache(maxsize=1)
    def epoch_of(epoch: int) -> NDArray[np.int64]:  # -> (per_epoch, width)
        rng = np.random.default_rng([*seed, epoch])
        order = rng.permutation(n)[: per_epoch * width]
        blocks = [order[i : i + BLOCK * width] for i in range(0, len(order), BLOCK * width)]
        batches = np.concatenate([b[np.argsort(size[b], kind="stable")].reshape(-1, width) for b in blocks])
        return rng.permutation(batches)

    def at(step: int) -> NDArray[np.int64]:
        epoch, place = divmod(step, per_epoch)
        return epoch_of(epoch)[place]

    return at


def _cut(ids: list[int], most: int) -> list[int]:
    """At most so many tokens, the end token among them (a free text: labels have been found short enough)."""
    return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]


def _padded(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> Tensor:
    longest = max(map(len, rows))
    table = np.full((len(rows), longest), value, dtype=np.int64)
    for i, row in enumerate(rows):
        if left:
            table[i, longest - len(row) :] = row
        else:
            table[i, : len(row)] = row
    return torch.from_numpy(table)
