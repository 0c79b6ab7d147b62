"""Where and in which precision to compute, as accelerate sees it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from s3pet_viz.backbones.placed import computes_on, stays
from s3pet_viz.backbones.quantised import is_packed
from s3pet_viz.config.names import PRECISIONS
from s3pet_viz.errors import ConfigError
from s3pet_viz.threads import LOCK


def check_device(device: Any) -> None:
    """Raises ConfigError for a name that no kind of device has. Whether this machine has one is not checked."""
    try:
        kind = "" if device == "auto" else torch.device(device).type if isinstance(device, str) else None
    except RuntimeError:
        kind = None
    if kind in (None, "meta"):
        raise ConfigError(f"device: expected auto, cpu, cuda, cuda:1, mps or the like, found {device!r}")


@dataclass(frozen=True)
class Device:
    """A torch device and the autocast that goes with a precision."""

    torch: torch.device
    precision: str = "fp32"

    @classmethod
    def choose(cls, device: str = "auto", precision: str = "fp32") -> Device:
        """``auto`` takes what accelerate finds (CUDA, MPS, ..., else the CPU).

        No pass computes in fp16: its gradients need loss scaling, which a difference of gradients does not survive.

        Raises:
            ConfigError: an unknown precision or a device that is not here.
        """
        if precision not in PRECISIONS:
            raise ConfigError(f"precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}")
        check_device(device)
        if device == "auto":
            from accelerate import PartialState

            with LOCK:  # accelerate's state belongs to the process, and others see it before it is complete
                return cls(PartialState().default_device, precision)
        try:
            place = torch.device(device)
            torch.empty(1, device=place)
        except (RuntimeError, AssertionError) as error:
            first = str(error).splitlines()[0]
            raise ConfigError(f"device: {device!r} cannot be used here: {first}") from None
        return cls(place, precision)

    def suited(self, model: nn.Module) -> Device:
        """bf16 where a model's weights are of half precision: what is trained is float32 (see
        `model_state.raise_precision`), and only autocast computes with both. Of a model that stays, where it computes.
        """
        half = any(p.dtype.itemsize < 4 for p in model.parameters() if not is_packed(p))
        made = replace(self, precision="bf16") if half else self
        return replace(made, torch=computes_on(model)) if stays(model) else made

    def autocast(self) -> Any:
        """A fresh autocast context (a null one in fp32)."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.torch.type, dtype=torch.bfloat16)
