"""Reading the step log while it grows."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from s3pet_viz.errors import RunError
from s3pet_viz.files import file_errors, open_plain
from s3pet_viz.runs import layout
from s3pet_viz.runs.layout import first_line, run_errors

COLUMNS = (*layout.SCALARS, "alpha", "p")
_HEADER = struct.Struct("<Ii")  # of an Arrow message: continuation marker, length of its metadata
_CONTINUATION = 0xFFFFFFFF
#: Bytes read at once: opening a long run must not hold it twice, not even for a moment. Never mapped: a part that is
#: cut while it is mapped ends the process.
_CHUNK = 1 << 20
#: Bytes of a part's schema, and of a row beside its numbers.
_MOST_SCHEMA, _MOST_MORE = 1 << 16, 1 << 13
#: Bytes at the beginning and at the end of what was read, by which a part is known again.
_SAMPLE = 256


@dataclass
class Part:
    """One file of the log, as far as it was read."""

    path: Path
    schema: pa.Schema
    from_step: int
    started: bytes | None
    start: int  # of the first message
    offset: int  # end of the last whole message that was read
    message_bytes: int = 0  # of one row; 0 until one was read
    stamp: tuple[int, int, int] = (0, 0, 0)
    samples: tuple[bytes, bytes] = (b"", b"")

    def look(self, f: BinaryIO) -> tuple[bytes, bytes]:
        """What tells this part from another in its place: its first bytes and the last that were read."""
        f.seek(0)
        first = f.read(min(self.start + _SAMPLE, self.offset))
        f.seek(max(0, self.offset - _SAMPLE))
        return first, f.read(min(_SAMPLE, self.offset))

    def row_bytes(self, n_gates: int) -> int:
        """At most so many has one row."""
        return self.message_bytes or most_row_bytes(n_gates)


def most_row_bytes(n_gates: int) -> int:
    return 8 * len(layout.SCALARS) + 8 * n_gates + _MOST_MORE


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A part, open for reading. Raises RunError: it is no plain file, or cannot be read."""
    with run_errors(), os.fdopen(open_plain(path, links=False), "rb", buffering=0) as f, file_errors(path):
        yield f


def stamp_of(found: os.stat_result) -> tuple[int, int, int]:
    """Changes with whatever is written to a file, or put in its place."""
    return found.st_ino, found.st_mtime_ns, found.st_size


def read_head(path: Path, f: BinaryIO, n_gates: int) -> Part:
    """What a part says of itself. Raises RunError: it is no part of this run; names the file and the field."""
    f.seek(0)
    try:
        reader = pa.BufferReader(f.read(_MOST_SCHEMA))
        schema = pa.ipc.read_schema(reader)
        offset = reader.tell()
    except (pa.ArrowException, OSError, EOFError) as error:
        raise RunError(f"{path}: expected an Arrow stream of steps ({first_line(error)})") from None
    metadata = schema.metadata or {}
    try:
        from_step = int(metadata.get(b"from_step", b""))
    except ValueError:
        from_step = -1
    if metadata.get(b"kind") != layout.STEPS_KIND.encode() or from_step < 0:
        raise RunError(f"{path}: not a step log of s3pet_viz (field 'kind' or 'from_step' is missing)")
    expected = layout.steps_schema(n_gates, from_step)
    if not schema.equals(expected):
        names = [f.name for f in expected if f.name not in schema.names or schema.field(f.name) != f]
        field = names[0] if names else schema.names[-1]
        found = schema.field(field).type if field in schema.names else "nothing"
        wanted = expected.field(field).type if field in expected.names else "nothing"
        raise RunError(f"{path}: field {field!r}: expected {wanted}, found {found}")
    return Part(path, schema, from_step, metadata.get(b"started"), offset, offset)


def read_messages(part: Part, data: bytes, n_gates: int) -> tuple[list[Any], int]:
    """Whole record batches at the beginning of `data`, which begins at the part's offset, and the bytes they take.
    Raises RunError: damaged; names the file and the byte.
    """
    buffer = pa.py_buffer(data)
    reader, batches, used, total = pa.BufferReader(buffer), [], 0, len(data)
    while total - used >= _HEADER.size:
        marker, length = _HEADER.unpack_from(data, used)
        if marker == _CONTINUATION and length == 0:  # end of stream, as other Arrow writers put it
            break
        try:
            if marker != _CONTINUATION:
                raise pa.ArrowInvalid("no message starts here")
            reader.seek(used)
            message = pa.ipc.read_message(reader)
            where = f"{part.path}: damaged at byte {part.offset + used}"
            # A row that is whole is no torn one, whatever is wrong with it.
            if reader.tell() - used > most_row_bytes(n_gates) or _compressed(message):
                raise RunError(f"{where}: expected a plain row of {n_gates:,} gates, found a larger or compressed one")
            batch = pa.ipc.read_record_batch(message, part.schema)
            if batch.num_rows != 1:
                raise RunError(f"{where}: expected 1 row, found {batch.num_rows}")
        except (pa.ArrowException, OSError, EOFError) as error:
            # All rows of a part take the same number of bytes: less is left only of a torn one.
            # Zeros are what a file system may leave of data that a power cut kept from the disk.
            left = total - used
            torn = left < part.message_bytes or (not part.message_bytes and marker == _CONTINUATION)
            if torn or data.count(0, used) == left:
                break
            raise RunError(f"{part.path}: damaged at byte {part.offset + used}: {first_line(error)}") from None
        batches.append(batch)
        part.message_bytes = reader.tell() - used
        used = reader.tell()
    return batches, used


def as_rows(part: Part, batches: list[Any], n_gates: int, *, check: bool = True) -> dict[str, np.ndarray]:
    """The numbers of some messages, checked: alpha and p of shape (n_rows, n_gates), every other of shape (n_rows,).

    Args:
        check: alpha and p; not where only the step is wanted.

    Raises:
        RunError: they are damaged; names the file, and of alpha and p the step and the gate.
    """
    table = pa.Table.from_batches(batches, part.schema)
    rows: dict[str, np.ndarray] = {}
    try:
        table.validate()
        for name in COLUMNS:
            column = table.column(name).combine_chunks()
            if column.null_count:
                raise pa.ArrowInvalid(f"field {name!r} holds nulls")
            if name in ("alpha", "p"):
                rows[name] = column.flatten().to_numpy().reshape(-1, n_gates)
            else:
                rows[name] = column.to_numpy()
    except (pa.ArrowException, ValueError) as error:
        raise RunError(f"{part.path}: damaged: {error}") from None
    steps = rows["step"]
    if steps[0] < part.from_step or (np.diff(steps) <= 0).any():
        raise RunError(f"{part.path}: field 'step': expected rising steps from {part.from_step}")
    if check:
        layout.check_numbers(part.path, steps, rows["alpha"], rows["p"])
    return rows


def _compressed(message: Any) -> bool:
    """Whether the buffers of an Arrow message are compressed, so that a few bytes may stand for any number of them.
    Ours are not. Source: Message.fbs and flatbuffers' internals; `compression` is field 3 of a RecordBatch.
    """
    data = message.metadata.to_pybytes()

    def field(table: int, number: int) -> int:
        vtable = table - struct.unpack_from("<i", data, table)[0]
        (size,) = struct.unpack_from("<H", data, vtable)
        offset = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0] if 6 + 2 * number <= size else 0
        return table + offset if offset else 0

    try:
        (root,) = struct.unpack_from("<I", data)
        header = field(root, 2)
        return bool(header and field(header + struct.unpack_from("<I", data, header)[0], 3))
    except struct.error:
        return True


class StepLog:
    """All rows of a run's parts, in order; `refresh` reads only what was added since.

    A part may end in a torn message: its writer died, or is writing now. That tail is ignored. Damage
    anywhere else, or a file that is no part of this run, raises. A later part supersedes the rows of
    earlier ones from its first step on.
    """

    def __init__(self, run: Path, n_gates: int) -> None:
        self._run = run
        self._n_gates = n_gates
        self._parts: list[Part] = []
        self._data: dict[str, np.ndarray] = {}
        self._n = self._room = 0
        self._clear()

    def __len__(self) -> int:
        return self._n

    def column(self, name: str) -> np.ndarray:
        """A read-only view, shape (n_steps,), or (n_steps, n_gates) for `alpha` and `p`; never copied.

        It stays valid and unchanged when the log grows.
        """
        view = self._data[name][: self._n]
        view.flags.writeable = False
        return view

    def refresh(self) -> None:
        """Take up what the writer added. A log that was replaced (a run may be deleted and made anew) or rewritten is
        read from its beginning. Raises RunError: a part is damaged or foreign; names the file.
        """
        paths = layout.part_paths(self._run)
        if not self._continues(paths):
            self._clear()
        if self._parts:
            with opened(self._parts[-1].path) as f:
                self._read_rows(self._parts[-1], f)
        for path in paths[len(self._parts) :]:
            with opened(path) as f:
                part = read_head(path, f, self._n_gates)
                if {p.started for p in self._parts} - {part.started, None} and part.started is not None:
                    raise RunError(f"{path}: not a part of this run, but of one that began at another time")
                self._supersede(part.from_step)
                self._parts.append(part)
                self._read_rows(part, f)

    # -- inside ----------------------------------------------------------------------------------------

    def _clear(self) -> None:
        self._parts = []
        self._n = 0
        self._data = {name: np.empty(0) for name in layout.SCALARS[1:]}
        self._data["step"] = np.empty(0, np.int64)
        self._data |= {name: np.empty((0, self._n_gates), np.float32) for name in ("alpha", "p")}

    def _continues(self, paths: list[Path]) -> bool:
        """Whether the files are still those already read."""
        if [part.path for part in self._parts] != paths[: len(self._parts)]:
            return False
        for part in self._parts:
            try:
                found = part.path.lstat()
            except FileNotFoundError:
                return False
            if stamp_of(found) == part.stamp:
                continue
            if found.st_ino != part.stamp[0] or found.st_size < part.offset:
                return False
            with opened(part.path) as f:
                if part.look(f) != part.samples:
                    return False
        return True

    def _supersede(self, from_step: int) -> None:
        keep = int(np.searchsorted(self._data["step"][: self._n], from_step))
        if keep < self._n:
            # Copied, because views handed out earlier must not change under their owner.
            self._data = {name: values[:keep].copy() for name, values in self._data.items()}
            self._n = keep

    def _read_rows(self, part: Part, f: BinaryIO) -> None:
        found = os.fstat(f.fileno())
        size, chunk = found.st_size, _CHUNK
        if stamp_of(found) == part.stamp:
            return
        while part.offset < size:
            f.seek(part.offset)
            # A row that the chunk cuts looks torn; the next chunk begins with it.
            batches, used = read_messages(part, f.read(min(chunk, size - part.offset)), self._n_gates)
            if batches:
                self._extend(part, as_rows(part, batches, self._n_gates), size)
            part.offset += used
            if not used:
                if part.offset + chunk >= size:
                    break
                chunk *= 4
        part.stamp, part.samples = stamp_of(found), part.look(f)

    def _extend(self, part: Part, rows: dict[str, np.ndarray], size: int) -> None:
        last = int(self._data["step"][self._n - 1]) if self._n else -1
        if rows["step"][0] <= last:
            raise RunError(f"{part.path}: field 'step': expected rising steps from {part.from_step}")
        self._room = self._n + (size - part.offset) // part.message_bytes
        self._store(rows)

    def _store(self, rows: dict[str, np.ndarray]) -> None:
        """Keep checked rows: alpha and p of shape (n_rows, n_gates), every other of shape (n_rows,)."""
        need = self._n + len(rows["step"])
        for name, values in rows.items():
            held = self._data[name]
            if need > len(held):
                # As many as the file holds by now, or twice as many as before.
                grown = np.empty((max(need, self._room, 2 * len(held)), *held.shape[1:]), held.dtype)
                grown[: self._n] = held[: self._n]
                self._data[name] = held = grown
            held[self._n : need] = values
        self._n = need
