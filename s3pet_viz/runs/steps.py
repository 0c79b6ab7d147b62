"""Reading the step log while it grows."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s3pet_viz.errors import RunError
from s3pet_viz.runs import layout
from s3pet_viz.runs.layout import first_line

_COLUMNS = (*layout.SCALARS, "alpha", "p")
_HEADER = struct.Struct("<Ii")  # of an Arrow message: continuation marker, length of its metadata
_CONTINUATION = 0xFFFFFFFF


@dataclass
class _Part:
    path: Path
    inode: int
    schema: pa.Schema
    from_step: int
    offset: int  # end of the last whole message
    message_bytes: int = 0  # of one row; 0 until one was read


class StepLog:
    """All rows of a run's parts, in order; `refresh` reads only what was added since.

    A part may end in a torn message: its writer died, or is writing now. That tail is ignored. Damage
    anywhere else, or a file that is no part of this run, raises. A later part supersedes the rows of
    earlier ones from its first step on.
    """

    def __init__(self, run: Path, n_gates: int) -> None:
        self._run = run
        self._n_gates = n_gates
        self._parts: list[_Part] = []
        self._data: dict[str, np.ndarray] = {}
        self._n = 0
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

    @property
    def first_steps(self) -> list[int]:
        """The first step of each part."""
        return [part.from_step for part in self._parts]

    def refresh(self) -> None:
        """Take up what the writer added.

        Raises:
            RunError: a part is damaged or foreign; names the file.
        """
        paths = layout.part_paths(self._run)
        if not self._continues(paths):
            self._clear()
        if self._parts:
            self._read_rows(self._parts[-1])
        for path in paths[len(self._parts) :]:
            part = self._open(path)
            self._supersede(part.from_step)
            self._parts.append(part)
            self._read_rows(part)

    # -- inside ----------------------------------------------------------------------------------------

    def _clear(self) -> None:
        self._parts = []
        self._n = 0
        self._data = {name: np.empty(0) for name in layout.SCALARS[1:]}
        self._data["step"] = np.empty(0, np.int64)
        self._data |= {name: np.empty((0, self._n_gates), np.float32) for name in ("alpha", "p")}

    def _continues(self, paths: list[Path]) -> bool:
        """Whether the files are still those already read (a run may be deleted and made anew)."""
        if [part.path for part in self._parts] != paths[: len(self._parts)]:
            return False
        for part in self._parts:
            try:
                stat = part.path.stat()
            except FileNotFoundError:
                return False
            if stat.st_ino != part.inode or stat.st_size < part.offset:
                return False
        return True

    def _open(self, path: Path) -> _Part:
        try:
            with pa.OSFile(str(path)) as f:
                schema = pa.ipc.read_schema(f)
                offset = f.tell()
        except (pa.ArrowException, OSError, EOFError) as error:
            raise RunError(f"{path}: expected an Arrow stream of steps ({first_line(error)})") from None
        metadata = schema.metadata or {}
        try:
            from_step = int(metadata.get(b"from_step", b""))
        except ValueError:
            from_step = -1
        if metadata.get(b"kind") != layout.STEPS_KIND.encode() or from_step < 0:
            raise RunError(f"{path}: not a step log of s3pet_viz (field 'kind' or 'from_step' is missing)")
        expected = layout.steps_schema(self._n_gates, from_step)
        if not schema.equals(expected):
            names = [f.name for f in expected if f.name not in schema.names or schema.field(f.name) != f]
            field = names[0] if names else schema.names[-1]
            found = schema.field(field).type if field in schema.names else "nothing"
            wanted = expected.field(field).type if field in expected.names else "nothing"
            raise RunError(f"{path}: field {field!r}: expected {wanted}, found {found}")
        return _Part(path, path.stat().st_ino, schema, from_step, offset)

    def _supersede(self, from_step: int) -> None:
        keep = int(np.searchsorted(self._data["step"][: self._n], from_step))
        if keep < self._n:
            # Copied, because views handed out earlier must not change under their owner.
            self._data = {name: values[:keep].copy() for name, values in self._data.items()}
            self._n = keep

    def _read_rows(self, part: _Part) -> None:
        size = part.path.stat().st_size
        if size <= part.offset:
            return
        if part.message_bytes:
            # A map per update would exhaust the process's maps; what was added is small.
            with part.path.open("rb") as f:
                f.seek(part.offset)
                buffer = pa.py_buffer(f.read(size - part.offset))
        else:
            with pa.memory_map(str(part.path)) as f:
                f.seek(part.offset)
                buffer = f.read_buffer(size - part.offset)
        batches, used = self._messages(part, buffer)
        if batches:
            self._extend(part, pa.Table.from_batches(batches, part.schema))
        part.offset += used

    def _messages(self, part: _Part, buffer: pa.Buffer) -> tuple[list[Any], int]:
        """Whole record batches in the buffer, and the bytes they take."""
        reader, batches, used, total = pa.BufferReader(buffer), [], 0, buffer.size
        while total - used >= _HEADER.size:
            marker, length = _HEADER.unpack(buffer[used : used + _HEADER.size])
            if marker == _CONTINUATION and length == 0:  # end of stream, as other Arrow writers put it
                break
            try:
                if marker != _CONTINUATION:
                    raise pa.ArrowInvalid("no message starts here")
                reader.seek(used)
                batch = pa.ipc.read_record_batch(pa.ipc.read_message(reader), part.schema)
                if batch.num_rows != 1:
                    raise pa.ArrowInvalid(f"expected 1 row, found {batch.num_rows}")
            except (pa.ArrowException, OSError, EOFError) as error:
                # All rows of a part take the same number of bytes: less is left only of a torn one.
                # Zeros are what a file system may leave of data that a power cut kept from the disk.
                left = total - used
                torn = left < part.message_bytes or (not part.message_bytes and marker == _CONTINUATION)
                if torn or not any(memoryview(buffer)[used:]):
                    break
                raise RunError(
                    f"{part.path}: damaged at byte {part.offset + used}: {first_line(error)}"
                ) from None
            batches.append(batch)
            part.message_bytes = reader.tell() - used
            used = reader.tell()
        return batches, used

    def _extend(self, part: _Part, table: pa.Table) -> None:
        rows: dict[str, np.ndarray] = {}
        try:
            table.validate()
            for name in _COLUMNS:
                column = table.column(name).combine_chunks()
                if column.null_count:
                    raise pa.ArrowInvalid(f"field {name!r} holds nulls")
                if name in ("alpha", "p"):
                    rows[name] = column.flatten().to_numpy().reshape(-1, self._n_gates)
                else:
                    rows[name] = column.to_numpy()
        except (pa.ArrowException, ValueError) as error:
            raise RunError(f"{part.path}: damaged: {error}") from None
        steps = rows["step"]
        last = int(self._data["step"][self._n - 1]) if self._n else -1
        if steps[0] <= last or steps[0] < part.from_step or (np.diff(steps) <= 0).any():
            raise RunError(f"{part.path}: field 'step': expected rising steps from {part.from_step}")
        self._store(rows)

    def _store(self, rows: dict[str, np.ndarray]) -> None:
        """Keep checked rows: alpha and p of shape (n_rows, n_gates), every other of shape (n_rows,)."""
        need = self._n + len(rows["step"])
        for name, values in rows.items():
            held = self._data[name]
            if need > len(held):
                grown = np.empty((max(need, 2 * len(held)), *held.shape[1:]), held.dtype)
                grown[: self._n] = held[: self._n]
                self._data[name] = held = grown
            held[self._n : need] = values
        self._n = need
