"""The two parts of a task that a search reads, as batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from s3pet_viz.backbones import Backbone
from s3pet_viz.config.search import SearchConfig
from s3pet_viz.engine.prune import BATCHES
from s3pet_viz.errors import TaskError
from s3pet_viz.tasks import TaskData
from s3pet_viz.threads import LOCK
from s3pet_viz.training.batches import Features, shuffled
from s3pet_viz.training.device import Device
from s3pet_viz.training.own_data import OwnData
from s3pet_viz.training.processes import Processes


class SplitBatches:
    """The training split cut in two with a seed: train for the weights, val for alpha. Mode ``prune`` trains on all of
    it and looks at the validation split. Of own batches: train and validation as they were given.

    Attributes:
        features: of each half.
    """

    def __init__(
        self, data: TaskData | OwnData, backbone: Backbone, config: SearchConfig, device: Device, processes: Processes
    ) -> None:
        self.device, self.processes, self.config = device.torch, processes, config
        self.features: dict[str, Any]
        if isinstance(data, OwnData):
            self.features = {"train": data.train, "val": data.validation}
        else:
            self.features = self._halves(data, backbone)
        self._drawn = {
            half: rows.drawn(config.batch_size, self._seed(half), device.torch, processes.rank, processes.size)
            for half, rows in self.features.items()
        }

    def _seed(self, half: str) -> list[int]:
        return [self.config.seed, 20 + list(self.features).index(half)]

    def _halves(self, data: TaskData, backbone: Backbone) -> dict[str, Features]:
        config, processes = self.config, self.processes
        if len(data.train) < 2:
            raise TaskError(
                f"task {data.task.name}: expected at least 2 training rows to halve, found {len(data.train)}"
            )
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(config.seed)).tolist()
        middle = len(order) // 2
        if middle < processes.size:
            raise TaskError(
                f"task {data.task.name}: expected at least {2 * processes.size} training rows for "
                f"{processes.size} processes, found {len(data.train)}"
            )
        halves = [[data.train[i] for i in sorted(part)] for part in (order[:middle], order[middle:])]
        if config.mode == "prune":
            halves = [data.train, data.validation]
            if len(data.validation) < processes.size:
                raise TaskError(
                    f"task {data.task.name}: expected at least {processes.size} validation rows for {processes.size} "
                    f"processes, found {len(data.validation)}"
                )
        with LOCK:  # as in `Splits.make`
            return {
                half: Features(rows, backbone, data.task, max_source_length=config.max_source_length)
                for half, rows in zip(("train", "val"), halves, strict=True)
            }

    def batch(self, half: str, step: int) -> Any:
        return self._drawn[half](step)

    def constant_loss(self, half: str) -> float | None:
        """See `Problem`."""
        rows = self.features[half]
        if half == "val" and isinstance(rows, Features):
            numbers = shuffled(rows.lengths, self.config.batch_size * self.processes.size, self._seed(half))
            rows = rows.take(np.concatenate([numbers(k) for k in range(BATCHES)]).tolist())
        return rows.constant_loss()
