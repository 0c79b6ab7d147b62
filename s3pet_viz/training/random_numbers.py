"""Random numbers for code of the user's own: seeded for it, and as they were for all others."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from s3pet_viz.backbones.shared import RandomStream


class Numbers:
    """Torch's, NumPy's and Python's random numbers, and those of generators, from a seed on; used in parts.

    Afterwards all of them go on as if nothing had been drawn.
    """

    def __init__(self, seed: Sequence[int], generators: Sequence[torch.Generator] = ()) -> None:
        own = [g.initial_seed() for g in generators]
        words = np.random.SeedSequence([*seed, *own]).generate_state(2, np.uint64) >> np.uint64(1)
        self._stream, self._generators = RandomStream(int(words[0])), tuple(generators)
        self._seed, self._states = int(words[1]), None

    @contextmanager
    def part(self) -> Iterator[None]:
        with self._stream.part():
            before = self._held()
            if self._states is None:
                random.seed(self._seed)
                np.random.seed(self._seed % 2**32)  # noqa: NPY002 - the one that other code draws from
                for generator in self._generators:
                    generator.manual_seed(self._seed)
            else:
                self._put(self._states)
            try:
                yield
            finally:
                self._states = self._held()
                self._put(before)

    def _held(self) -> Any:
        return random.getstate(), np.random.get_state(), [g.get_state() for g in self._generators]  # noqa: NPY002

    def _put(self, states: Any) -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for generator, state in zip(self._generators, states[2], strict=True):
            generator.set_state(state)


def holders(given: Any) -> list[Any]:
    """A loader and what it draws from."""
    made = [given]
    for path in (("dataset",), ("sampler",), ("batch_sampler",), ("batch_sampler", "sampler")):
        held = given
        for name in path:
            held = getattr(held, name, None)
        if held is not None:
            made.append(held)
    return made


def generators_of(given: Any) -> list[torch.Generator]:
    """Those that a loader and what it draws from shuffle by."""
    found = (getattr(holder, "generator", None) for holder in holders(given))
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
