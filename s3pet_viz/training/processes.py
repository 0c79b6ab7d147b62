"""Several processes at one search: each takes its share of every batch, and all of them take the same step.

Gate draws are shared, being a pure function of (seed, step); only gradients travel. The backbone is not wrapped:
it is frozen, and `torch.nn.parallel.DistributedDataParallel` would not see gradients taken with `torch.autograd.grad`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Processes:
    """The processes of one search: here, one alone.

    Attributes:
        rank: of this process, from 0. size: how many there are.
    """

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the run."""
        return self.rank == 0

    def mean(self, weight: float, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Means over the processes, each counting by its weight (its rows or label tokens)."""
        return list(tensors)

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag

    def share(self, value: Any) -> Any:
        """The value of the process that leads; plain data."""
        return value

    def wait(self) -> None:
        """Wait until all processes are here."""


class DistributedProcesses(Processes):
    """The processes of ``accelerate launch`` or ``torchrun``, through torch.distributed."""

    def __init__(self) -> None:
        import torch.distributed

        self._dist = torch.distributed
        self.rank, self.size = self._dist.get_rank(), self._dist.get_world_size()

    def mean(self, weight: float, tensors: Sequence[Tensor]) -> list[Tensor]:
        weights = tensors[0].new_full((1,), weight)
        flat = torch.cat([*(t.reshape(-1) * weights for t in tensors), weights])
        self._dist.all_reduce(flat)
        flat = flat[:-1] / flat[-1]
        parts = flat.split([t.numel() for t in tensors])
        return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]

    def any(self, flag: bool) -> bool:
        gathered: list[Any] = [None] * self.size
        self._dist.all_gather_object(gathered, flag)
        return any(gathered)

    def share(self, value: Any) -> Any:
        held = [value]
        self._dist.broadcast_object_list(held, src=0)
        return held[0]

    def wait(self) -> None:
        self._dist.barrier()


def find_processes() -> Processes:
    """The processes that a launcher started, this one among them; one alone where there is no launcher."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    from accelerate import PartialState

    # A paused search waits at the next step for as long as it is paused.
    PartialState(timeout=timedelta(days=30))
    return DistributedProcesses()


class SilentWriter(AbstractContextManager["SilentWriter"]):
    """Stands in for the `RunWriter` where another process writes the run."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path, self.info = path, info

    @property
    def checkpoint_dir(self) -> Path:
        return self.path / "checkpoint"

    def append(self, **_: Any) -> None: ...

    def evaluation(self, record: Any) -> None: ...

    def set_status(self, status: Any, **_: Any) -> None: ...

    def write_structure(self, structure: Any) -> None: ...

    def __exit__(self, *exc: object) -> None: ...
