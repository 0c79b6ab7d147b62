"""Batches of the user's own: any iterable that can be read again, as functions of the step.

What is read is the same each time: every pass begins with its own seeds of torch's, NumPy's and Python's random
numbers, and of a loader's generators. So a shuffling loader is a pure function of (seed, step), as `batches.shuffled`.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from s3pet_viz.errors import TaskError
from s3pet_viz.training.batch_contents import add_to, moved, up_to
from s3pet_viz.training.batches import shuffled
from s3pet_viz.training.random_numbers import Numbers, generators_of, holders

#: Of readings that nothing is trained on.
_LOOK = (0, 41)
#: Batches that tell two sources apart, and rows of one where only rows are given.
_PROBED, _ROWS = 2, 8
#: From here on a source that does not say how long it is may have no end.
_MANY = 10_000


@dataclass(frozen=True, eq=False)
class OwnBatches:
    """What was given as ``train=``, ``validation=`` or ``test=``.

    Attributes:
        name: which of these.
        given: an iterable that can be read again, or a function that makes one; of batches, or with `collate` of rows.
        collate: makes a batch of a list of rows.
        max_rows: the first so many rows alone, in whole batches.
    """

    name: str
    given: Any
    collate: Callable[[list[Any]], Any] | None = None
    max_rows: int | None = None
    _known: dict[str, Any] = field(default_factory=dict, repr=False)

    # -- what is told of it ----------------------------------------------------------------------------

    @property
    def indexed(self) -> bool:
        """Whether rows are had by their numbers, so that nothing has to be read in order."""
        return self.collate is not None and all(hasattr(self.given, name) for name in ("__len__", "__getitem__"))

    @property
    def rows(self) -> int:
        """Of what is `indexed`."""
        return min(len(self.given), self.max_rows or len(self.given))

    @property
    def length(self) -> int | None:
        """Batches of a pass (with `collate` and not `indexed`: rows), where it says so itself."""
        try:
            return None if self.max_rows else len(self.given)
        except (TypeError, NotImplementedError):
            return None

    @property
    def unending(self) -> bool:
        """Whether it may have no end: a stream without a length, of which no first rows are asked for."""
        dataset = getattr(self.given, "dataset", self.given)
        of_datasets = type(dataset).__module__.partition(".")[0] == "datasets" and not hasattr(dataset, "__len__")
        return self.max_rows is None and self.length is None and (isinstance(dataset, IterableDataset) or of_datasets)

    @property
    def words(self) -> str:
        """For people: its kind and its size."""
        kind = type(self.given).__name__
        if callable(self.given) and not isinstance(self.given, Iterable):
            kind = f"{getattr(self.given, '__name__', kind)}()"
        what = "rows" if self.collate is not None else "batches"
        size = self.rows if self.indexed else self.length
        most = f", the first {self.max_rows:,} rows" if self.max_rows and not self.indexed else ""
        return f"{self.name}: {kind} of {what if size is None else f'{size:,} {what}'}{most}"

    def constant_loss(self) -> None:
        """Of one answer to every row: nobody knows what an answer is."""

    def first(self, rows: int | None) -> OwnBatches:
        """The first so many rows alone."""
        return self if rows is None else replace(self, max_rows=min(rows, self.max_rows or rows), _known={})

    # -- reading ---------------------------------------------------------------------------------------

    def drawn(
        self, batch_size: int, seed: Sequence[int], device: torch.device, rank: int = 0, size: int = 1
    ) -> Callable[[int], Any]:
        """The training batch of a step, on the device: pass after pass. Each of several processes takes its own."""
        if self.indexed:
            numbers = shuffled(np.zeros(self.rows, dtype=np.int64), batch_size * size, seed)

            def batch(step: int) -> Any:
                return moved(self._gathered(numbers(step)[rank::size].tolist(), [*seed, step]), device)

            return batch
        reading = Reading(self, batch_size, seed)
        return lambda step: moved(reading.at(step * size + rank), device)

    def looked(self, batch_size: int, device: torch.device) -> Looks:
        """Every batch of one pass, the same ones whenever they are read."""
        return Looks(self, batch_size, device)

    def few(self, device: torch.device, most: int = 4) -> list[Any]:
        """A few batches to measure with."""
        return list(islice(self.looked(_ROWS, device), most))

    def probe(self) -> tuple[Any, str | None]:
        """Its first batch, and a digest of the first few; None: a second reading began with others.

        Raises:
            TaskError: it has none.
        """
        if "digest" not in self._known:
            found = []
            for _ in range(2):
                reading = islice(self.looked(_ROWS, torch.device("cpu")), _PROBED)
                made = hashlib.sha256()
                for k, batch in enumerate(reading):
                    if k == 0:
                        self._known.setdefault("first", batch)
                    add_to(made, batch)
                found.append(made.hexdigest()[:16])
            if "first" not in self._known:
                raise TaskError(f"{self.words}: expected at least one batch, found none")
            self._known["digest"] = found[0] if found[0] == found[1] else None
        return self._known["first"], self._known["digest"]

    def _gathered(self, indices: list[int], seed: Sequence[int]) -> Any:
        assert self.collate is not None
        several = getattr(self.given, "__getitems__", None)
        with Numbers(seed).part(), self._named(indices):
            rows = several(indices) if several is not None else [self.given[i] for i in indices]
            return self.collate(list(rows))

    @contextmanager
    def _named(self, indices: Sequence[int]) -> Iterator[None]:
        """Raises TaskError: what is done here with these rows fails."""
        try:
            yield
        except Exception as error:  # any code of the user's
            some = f"{', '.join(map(str, indices[:16]))}{', ...' if len(indices) > 16 else ''}"
            line = (str(error).splitlines() or [""])[0][:200]
            raise TaskError(
                f"{self.name}: no batch can be made of the rows {some} ({type(error).__name__}: {line})"
            ) from error

    def _items(self, batch_size: int, *, whole: bool) -> Iterator[Any]:
        """Batches of one pass; of rows, whole ones alone if there are any, or all."""
        opened = self.given() if callable(self.given) and not isinstance(self.given, Iterable) else self.given
        if isinstance(opened, DataLoader) and opened.persistent_workers:
            # Workers that go on draw other numbers in a later pass than new ones, and serve one reader alone.
            opened = copy.copy(opened)
            vars(opened).update(persistent_workers=False, _iterator=None)
        items = iter(opened)
        if self.collate is None:
            return items if self.max_rows is None else up_to(items, self.max_rows, self.name)
        return self._collated(islice(items, self.max_rows), batch_size, whole)

    def _collated(self, rows: Iterator[Any], batch_size: int, whole: bool) -> Iterator[Any]:
        assert self.collate is not None
        at = 0
        while part := list(islice(rows, batch_size)):
            if whole and at and len(part) < batch_size:
                return
            with self._named(range(at, at + len(part))):
                batch = self.collate(part)
            at += len(part)
            yield batch

    def _opened(self, epoch: int) -> None:
        """Tell whoever shuffles by the number of the pass."""
        for holder in holders(self.given):
            if callable(told := getattr(holder, "set_epoch", None)):
                told(epoch)


class Looks:
    """The batches of one pass over `OwnBatches`, on a device; can be read again and by number."""

    def __init__(self, batches: OwnBatches, batch_size: int, device: torch.device) -> None:
        self.batches, self.batch_size, self.device = batches, batch_size, device
        self._reading = None if batches.indexed else Reading(batches, batch_size, _LOOK, whole=False)

    def __iter__(self) -> Iterator[Any]:
        if self._reading is None:
            return map(self.at, range(self.count()))
        return (moved(batch, self.device) for batch in self._reading.once())

    def at(self, number: int) -> Any:
        """The batch of this number, from 0."""
        if self._reading is not None:
            return moved(self._reading.at(number), self.device)
        indices = range(number * self.batch_size, min((number + 1) * self.batch_size, self.batches.rows))
        return moved(self.batches._gathered(list(indices), [*_LOOK, number]), self.device)

    def __len__(self) -> int:
        if self._reading is not None and self._reading.length is None:
            raise TypeError(f"{self.batches.words}: how many batches there are is known once all were read")
        return self.count()

    def count(self) -> int:
        """Batches of the pass; where nobody says, they are read for it."""
        if self._reading is None:
            return -(-self.batches.rows // self.batch_size)
        return self._reading.count()


class Reading:
    """The batches of a source by their number, pass after pass: each is a function of the number and the seed alone.

    Two places are kept: where it has come to, and one for looks at earlier batches. A place that lies in a pass is
    come to by reading the pass from its start, and (where the source does not say how long it is) those before it.
    """

    def __init__(self, batches: OwnBatches, batch_size: int, seed: Sequence[int], *, whole: bool = True) -> None:
        self.batches, self.batch_size, self.seed, self.whole = batches, batch_size, list(seed), whole
        self.length = batches.length if batches.collate is None else None
        self.starts = [0]  # the number of each pass's first batch
        self._cursors = (_Cursor(self), _Cursor(self))

    def at(self, number: int) -> Any:
        for cursor in self._cursors:
            if cursor.number == number + 1:
                return cursor.last
        main, spare = self._cursors
        return (main if number >= main.number else spare).to(number)

    def once(self) -> Iterator[Any]:
        """One pass."""
        cursor = _Cursor(self)
        cursor.open(0)
        while (batch := cursor.next()) is not _END:
            if cursor.given == _MANY and self.length is None:
                more = "and no end yet; max_rows says how many rows are one pass"
                warnings.warn(f"{self.batches.words}: {_MANY:,} batches were read, {more}", stacklevel=2)
            yield batch
        if len(self.starts) == 1:
            self.starts.append(cursor.given)

    def count(self) -> int:
        """Batches of a pass."""
        if self.length is None and len(self.starts) == 1:
            for _ in self.once():
                pass
        return self.length if self.length is not None else self.starts[1]

    def begins(self, epoch: int) -> int:
        return epoch * self.length if self.length is not None else self.starts[epoch]

    def epoch_of(self, number: int) -> int:
        """The pass that a batch lies in, or the last one whose start is known."""
        return number // self.length if self.length is not None else bisect_right(self.starts, number) - 1


_END = object()


class _Cursor:
    """A place in a `Reading`. ``number``: of the next batch; ``last``: the batch before it."""

    def __init__(self, reading: Reading) -> None:
        self.reading, self.number, self.given = reading, 0, 0
        self.epoch, self.items, self.last = -1, cast(Any, None), cast(Any, None)

    def open(self, epoch: int) -> None:
        of = self.reading
        self.epoch, self.given = epoch, 0
        of.batches._opened(epoch)
        self.numbers = Numbers([*of.seed, epoch], generators_of(of.batches.given))
        with self.numbers.part():
            items = of.batches._items(of.batch_size, whole=of.whole)
        self.items = items

    def next(self) -> Any:
        """The next batch of this pass, or `_END`."""
        of, length = self.reading, self.reading.length
        if self.given == length:
            return _END
        with self.numbers.part():
            item = next(self.items, _END)
        if item is _END and self.given < (length or 1):
            found = f"{self.given} of the {length} that it says it has" if length else "none"
            raise TaskError(f"{of.batches.words}: expected batches, found {found}")
        self.given += item is not _END
        return item

    def to(self, number: int) -> Any:
        """The batch of this number, which is at `number` or beyond it, or before it (then from the start)."""
        of = self.reading
        epoch = of.epoch_of(number)
        if self.items is None or number < self.number or epoch > self.epoch:
            self.open(epoch)
            self.number = of.begins(epoch)
        while self.number <= number:
            item = self.next()
            if item is _END:
                if len(of.starts) == self.epoch + 1:
                    of.starts.append(self.number)
                self.open(self.epoch + 1)
                continue
            self.last, self.number = item, self.number + 1
        return self.last
