"""What a batch of the user's own holds, however it is nested: moved to a device, its rows counted, told apart."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s3pet_viz.errors import TaskError

_END = object()


def moved(batch: Any, device: torch.device) -> Any:
    """A batch whose tensors are on the device, however they are nested."""
    from accelerate.utils import send_to_device

    # A mapping of the tokenizers moves itself; a loss may take entries out of what it is given.
    made = copy.copy(batch) if isinstance(batch, Mapping) else batch
    return send_to_device(made, device, non_blocking=True)


def rows_of(batch: Any) -> int | None:
    """The rows of a batch: of a list of rows their number, else the first size of its first tensor; None: unknown."""
    if isinstance(batch, (Tensor, np.ndarray)):
        return int(batch.shape[0]) if batch.ndim else None
    if isinstance(batch, (list, tuple)):
        if batch and all(isinstance(row, (Mapping, str)) for row in batch):
            return len(batch)
        return next((n for part in batch if (n := rows_of(part)) is not None), None)
    if isinstance(batch, Mapping):
        return next((n for part in batch.values() if (n := rows_of(part)) is not None), None)
    return None


def up_to(items: Iterator[Any], most: int, name: str) -> Iterator[Any]:
    """Whole batches until there are so many rows."""
    seen = 0
    while seen < most and (batch := next(items, _END)) is not _END:
        if (rows := rows_of(batch)) is None:
            raise TaskError(
                f"max_rows: expected batches whose rows can be counted, found {type(batch).__name__} ({name}=)"
            )
        seen += rows
        yield batch


def digest_of(value: Any) -> str:
    """Of what a batch holds."""
    made = hashlib.sha256()
    add_to(made, value)
    return made.hexdigest()


def add_to(digest: Any, value: Any) -> None:
    """What a value holds, in order, into one of hashlib's digests."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(np.ascontiguousarray(value.numpy()).tobytes())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key, part in value.items():
            digest.update(f"{key}:".encode())
            add_to(digest, part)
    elif isinstance(value, (list, tuple)):
        digest.update(f"{type(value).__name__}{len(value)}".encode())
        for part in value:
            add_to(digest, part)
    elif isinstance(value, (str, bytes, int, float, bool, type(None))):
        digest.update(repr(value).encode())
    else:
        digest.update(type(value).__name__.encode())
        add_to(digest, dict(sorted(vars(value).items())) if hasattr(value, "__dict__") else None)
