"""Torch's random numbers belong to the process, a model to one user at a time: for threads that both run here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from s3pet_viz.threads import LOCK

F = TypeVar("F", bound=Callable[..., Any])

_models: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's random numbers begin at this seed and no other thread draws; afterwards they go on as before."""
    with LOCK, torch.random.fork_rng(devices=_devices()):
        _begin_at(seed)
        yield


class RandomStream:
    """Torch's random numbers from a seed on, drawn in parts: each `part` goes on where the last one ended.

    Args:
        seed: of the stream.
    """

    def __init__(self, seed: int) -> None:
        with seeded(seed):
            self._state = _state()

    @contextmanager
    def part(self) -> Iterator[None]:
        """Inside, the next numbers are this stream's; as `seeded`."""
        with LOCK, torch.random.fork_rng(devices=_devices()):
            torch.set_rng_state(self._state[0])
            for device, state in zip(_devices(), self._state[1:], strict=False):
                torch.cuda.set_rng_state(state, device)
            try:
                yield
            finally:
                self._state = _state()


@contextmanager
def alone(model: Any) -> Iterator[None]:
    """Inside, no other thread is: two at one model would train each other's PET modules."""
    if not isinstance(model, nn.Module):
        yield
        return
    with LOCK:
        lock = _models.setdefault(model, threading.RLock())
    with lock:
        yield


def alone_with_its_model(function: F) -> F:
    """Decorator: the call is `alone` with its ``model=``, where it has one."""

    @wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        with alone(options.get("model")):
            return function(*args, **options)

    return cast(F, called)


def _begin_at(seed: int) -> None:
    """`torch.manual_seed`; where there are CPUs only, without its notes for devices that are not there: each holds the
    text of the call stack, which takes longer than the pass of a tiny backbone.
    """
    if _accelerated():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@cache
def _accelerated() -> bool:
    return torch.accelerator.is_available()


def _state() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in _devices())]


def _devices() -> list[int]:
    """CUDA's, whose random numbers `torch.manual_seed` begins anew too."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
