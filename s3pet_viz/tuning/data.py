"""Tokenised examples and batches: the one way from a task's rows to tensors, for search and tuning alike."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s3pet_viz.backbones import Backbone
from s3pet_viz.errors import TaskError
from s3pet_viz.tasks import Example, Task

#: Positions of a target that the loss leaves out (transformers' convention).
IGNORE = -100


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
        self.regression = task.kind == "regression"
        self.tokenizer = backbone.tokenizer
        limit = min(max_source_length or task.max_source_length, _longest_input(backbone))
        cut: dict[str, Any] = {"truncation": True, "max_length": limit}
        if self.form == "text":
            inputs = self.tokenizer([e.source for e in examples], **cut)
            targets = self.tokenizer([e.target for e in examples], truncation=True, max_length=task.max_target_length)
            self.targets: list[Any] = targets["input_ids"]
        else:
            second = None if examples[0].text_b is None else [e.text_b or "" for e in examples]
            inputs = self.tokenizer([e.text_a for e in examples], second, **cut)
            self.targets = [e.label for e in examples]
        self.inputs: dict[str, list[list[int]]] = {
            k: inputs[k] for k in ("input_ids", "attention_mask", "token_type_ids") if k in inputs
        }
        self.lengths = np.array([len(ids) for ids in self.inputs["input_ids"]])

    def __len__(self) -> int:
        return len(self.examples)

    def constant_loss(self) -> float:
        """The least mean loss of one answer to every row: what a model has when it knows the labels' shares alone.

        Entropy of the labels in nats (text: of the whole targets, a token's share of it); the variance of numbers.
        """
        if self.form != "text" and self.regression:
            return float(np.var(np.asarray(self.targets, dtype=np.float64)))
        seen = Counter(tuple(t) if isinstance(t, list) else t for t in self.targets)
        share = np.array(list(seen.values()), dtype=np.float64) / len(self.targets)
        tokens = np.mean([len(t) for t in self.targets]) if self.form == "text" else 1.0
        return float(-(share * np.log(share)).sum() / tokens)

    def take(self, indices: Sequence[int]) -> Features:
        """These examples alone, in this order."""
        made = copy.copy(self)
        made.examples = [self.examples[i] for i in indices]
        made.targets = [self.targets[i] for i in indices]
        made.inputs = {name: [rows[i] for i in indices] for name, rows in self.inputs.items()}
        made.lengths = self.lengths[list(indices)]
        return made

    def batch(self, indices: Sequence[int] | NDArray[np.int64], device: torch.device | str) -> dict[str, Tensor]:
        """Padded tensors with ``labels``; shapes (batch, longest) and, for pairs, labels (batch,)."""
        pad = {"input_ids": self.tokenizer.pad_token_id or 0, "attention_mask": 0, "token_type_ids": 0}
        made = {k: _padded([rows[i] for i in indices], pad[k]) for k, rows in self.inputs.items()}
        chosen = [self.targets[i] for i in indices]
        if self.form == "text":
            made["labels"] = _padded(chosen, IGNORE)
        else:
            made["labels"] = torch.tensor(chosen, dtype=torch.float32 if self.regression else torch.long)
        return {k: v.to(device, non_blocking=True) for k, v in made.items()}

    def by_length(self, batch_size: int) -> list[NDArray[np.int64]]:
        """Every index once, in batches of like lengths (for evaluation)."""
        order = np.argsort(self.lengths, kind="stable")
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


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
    cache: dict[int, NDArray[np.int64]] = {}

    def epoch_of(epoch: int) -> NDArray[np.int64]:  # -> (per_epoch, width)
        rng = np.random.default_rng([*seed, epoch])
        order = rng.permutation(n)[: per_epoch * width]
        blocks = [order[i : i + BLOCK * width] for i in range(0, len(order), BLOCK * width)]
        batches = np.concatenate([b[np.argsort(size[b], kind="stable")].reshape(-1, width) for b in blocks])
        return rng.permutation(batches)

    def at(step: int) -> NDArray[np.int64]:
        epoch, place = divmod(step, per_epoch)
        if epoch not in cache:
            cache.clear()
            cache[epoch] = epoch_of(epoch)
        return cache[epoch][place]

    return at


def _longest_input(backbone: Backbone) -> int:
    """Encoders with learned positions cannot read further; T5's relative positions have no end."""
    config: Any = backbone.model.config
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None:
        return 10**6
    # RoBERTa and its kin number positions from padding_idx + 1.
    from_padding = config.model_type in ("roberta", "xlm-roberta", "camembert")
    return int(limit) - (config.pad_token_id + 1 if from_padding else 0)


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    table = np.full((len(rows), longest), value, dtype=np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return torch.from_numpy(table)
