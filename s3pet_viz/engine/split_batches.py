"""The two parts of a task that a search reads, as batches."""

from __future__ import annotations

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
from s3pet_viz.training.processes import Processes


class SplitBatches:
    """The training split cut in two with a seed: train for the weights, val for alpha. Mode ``prune`` trains on all of
    it and looks at the validation split."""

    def __init__(
        self, data: TaskData, backbone: Backbone, config: SearchConfig, device: Device, processes: Processes
    ) -> None:
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
        self.device, self.processes = device.torch, processes
        self.features, self.indices = {}, {}
        halves = [[data.train[i] for i in sorted(part)] for part in (order[:middle], order[middle:])]
        if config.mode == "prune":
            halves = [data.train, data.validation]
            if len(data.validation) < processes.size:
                raise TaskError(
                    f"task {data.task.name}: expected at least {processes.size} validation rows for {processes.size} "
                    f"processes, found {len(data.validation)}"
                )
        for k, (half, rows) in enumerate(zip(("train", "val"), halves, strict=True)):
            with LOCK:  # as in `Splits.make`
                self.features[half] = Features(rows, backbone, data.task, max_source_length=config.max_source_length)
            self.indices[half] = shuffled(
                self.features[half].lengths, config.batch_size * processes.size, [config.seed, 20 + k]
            )

    def batch(self, half: str, step: int) -> dict[str, torch.Tensor]:
        mine = self.indices[half](step)[self.processes.rank :: self.processes.size]
        return self.features[half].batch(mine, self.device)

    def constant_loss(self, half: str) -> float | None:
        """See `Problem`."""
        features = self.features[half]
        if half == "val":
            features = features.take(np.concatenate([self.indices[half](k) for k in range(BATCHES)]).tolist())
        return features.constant_loss()
