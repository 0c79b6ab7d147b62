"""Writing a run directory; the search engine is its only caller."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from s3pet_viz.errors import RunError
from s3pet_viz.files import json_ready, located, open_plain, write_bytes_atomic, write_json_atomic
from s3pet_viz.runs import layout, place
from s3pet_viz.runs.control import drop_stale_request
from s3pet_viz.runs.lock import WriterLock, process_mark, same_file
from s3pet_viz.runs.place import DiskError, LostRunError, append_whole, disk_errors
from s3pet_viz.structure import Gate, Structure

Status = Literal["running", "paused", "finished", "stopped", "failed"]
_ENDED = ("finished", "stopped", "failed")
#: Fields of run.json that describe the writer itself; nobody else sets them.
_OWN = frozenset(
    "schema_version kind config n_gates status error started updated finished host pid pid_mark locked place".split()
)


class RunWriter:
    """The one writer of a run directory; made by `create`, `resume` or `attach`.

    A second writer of the same run, in any process, is refused for as long as this one is open.
    """

    def __init__(self, path: Path, lock: WriterLock, info: dict[str, Any]) -> None:
        self.path = path
        # Open for as long as this is: no other folder gets its inode, so one that is made anew is told from it.
        self._home = None if sys.platform == "win32" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._lock = lock
        self._info = info
        self._n_gates: int = info["n_gates"]
        self._part = max(0, len(layout.part_paths(path)) - 1)
        self._stream: int | None = None
        self._schema: pa.Schema | None = None
        self._next_step = 0
        self._closed = False

    # -- opening ---------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        gates: Sequence[Gate],
        config: Mapping[str, Any],
        extra: Mapping[str, Any] | None = None,
    ) -> RunWriter:
        """Begin a run with status ``running``; parents are made.

        Args:
            path: a folder that does not exist yet, or is empty; ``~`` is the home folder.
            gates: the search space; gate i has index i.
            config: everything that decides the run; JSON values.
            extra: more fields of run.json: backbone, backbone_params, budget (parameters), tau, device,
                steps_total, name, versions (merged with this package's own), or others.

        Raises:
            RunError: the folder holds another run or unrelated files, or is being written; the gates are
                not numbered 0, 1, 2, ...; `extra` sets a field that the writer keeps itself.
            DiskError: the disk refuses; what is left there is no run, and `create` may be called again.
            TypeError: `config` or `extra` hold a value that JSON cannot.
        """
        run = located(path)
        if [g.index for g in gates] != list(range(len(gates))) or not gates:
            raise RunError("gates: expected at least one gate, with indices 0, 1, 2, ... in order")
        fields = dict(extra or {})
        _refuse_own(fields, "extra")
        now = _now()
        about = {"schema_version": layout.SCHEMA_VERSION, "kind": layout.KIND, "name": run.resolve().name}
        unknown = dict.fromkeys(("backbone", "backbone_params", "budget", "steps_total", "device"))
        versions = {**_versions(), **fields.get("versions", {})}
        times = {"started": now, "updated": now, "finished": None}
        state = {**_process(), "status": "running", "error": None, "locked": True, "place": str(run), **times}
        info = {**about, **unknown, "tau": 1.0, "n_gates": len(gates), **fields, "config": config, "versions": versions}
        info = json_ready({**info, **state})
        place.refuse_occupied(run)
        try:
            run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise place.disk_error(run, error, "cannot make the run directory", begun=False) from None
        layout.check_entries(run)
        lock = WriterLock(run / layout.LOCK)
        try:
            place.refuse_occupied(run)  # again: another process may have been quicker
            place.sweep_temporaries(run)
            with disk_errors(run / layout.GATES, begun=False):
                write_bytes_atomic(run / layout.GATES, layout.gates_to_parquet(gates), parents=False)
            info["locked"] = lock.effective
            # run.json makes it a run, so it comes after what every reader needs.
            with disk_errors(run / layout.RUN_JSON, begun=False):
                write_json_atomic(run / layout.RUN_JSON, info, parents=False)
            writer = cls(run, lock, info)
            writer._begin_part(0, from_step=0)
        except BaseException:
            lock.release()
            raise
        return writer

    @classmethod
    def attach(cls, path: str | os.PathLike[str]) -> RunWriter:
        """Open an existing run to add files to it (scores, evaluations, status), not steps. Raises RunError: not a run,
        damaged, being written by another process, or with a link or a device among its files.
        """
        run = located(path)
        layout.read_run_json(run)
        layout.check_entries(run)
        lock = WriterLock(run / layout.LOCK)
        try:
            return cls(run, lock, layout.read_run_json(run))
        except BaseException:
            lock.release()
            raise

    @classmethod
    def resume(cls, path: str | os.PathLike[str], *, from_step: int) -> RunWriter:
        """Open an existing run to continue it: `attach`, then `continue_from`. Raises RunError: not a run, damaged, or
        being written by another process; negative `from_step`. DiskError: the disk refuses.
        """
        writer = cls.attach(path)
        try:
            writer.continue_from(from_step)
        except BaseException:
            writer.close()
            raise
        return writer

    def continue_from(self, from_step: int, **moved: Any) -> None:
        """Open an attached run for steps; status becomes ``running``.

        A new part of the step log begins; rows of earlier parts from `from_step` on no longer count, nor do
        evaluations recorded for these steps. A structure of an earlier end is removed.

        Args:
            from_step: the first step that will be written (the step of the checkpoint, plus one where the
                checkpoint was taken after that step).
            moved: fields of the config and of run.json that name a task or a backbone in a new place.

        Raises:
            RunError: negative `from_step`. DiskError: the disk refuses.
        """
        self._check_open()
        if from_step < 0:
            raise RunError(f"from_step: expected 0 or more, found {from_step}")
        place.sweep_temporaries(self.path)
        drop_stale_request(self.path, self._info.get("pid"))
        with disk_errors(self.path / layout.EVALS):
            _cut_torn_line(self.path / layout.EVALS)
        parts = layout.part_paths(self.path)
        self._begin_part(int(parts[-1].stem.split("-")[1]) + 1 if parts else 0, from_step=from_step)
        (self.path / layout.STRUCTURE).unlink(missing_ok=True)
        config = {**self._info["config"], **moved.pop("config", {})}
        self._info.update(**_process(), locked=self._lock.effective, finished=None, place=str(self.path))
        self._info.update(**moved, config=config)
        self.set_status("running")

    # -- writing ---------------------------------------------------------------------------------------

    @property
    def checkpoint_dir(self) -> Path:
        """Where the engine keeps its checkpoint; not made here."""
        return self.path / layout.CHECKPOINT

    @property
    def info(self) -> dict[str, Any]:
        """run.json as last written (a copy)."""
        return dict(self._info)

    def append(
        self,
        *,
        step: int,
        seconds: float,
        zeta: float,
        train_loss: float,
        val_loss: float,
        lr: float,
        alpha: np.ndarray,
        p: np.ndarray,
    ) -> None:
        """Record one step; readers see it at once.

        Args:
            step: larger than every step written since `create` or `resume`.
            seconds: that this step took.
            zeta: the shift; may be -inf (every gate open).
            train_loss, val_loss: may be NaN where a mode does not compute it.
            lr: learning rate of the PET weights.
            alpha, p: shape (n_gates,); stored as float32.

        Raises:
            RunError: wrong shape or step, or not opened for steps. DiskError: the disk refuses; the log then still
                ends with the row before.
        """
        if self._stream is None or self._schema is None:
            raise RunError(f"{self.path}: not open for steps (use RunWriter.create or RunWriter.resume)")
        if step < self._next_step:
            raise RunError(f"step: expected {self._next_step} or later, found {step}")
        scalars = (seconds, zeta, train_loss, val_loss, lr)
        arrays = [pa.array([int(step)], pa.int64())]
        arrays += [pa.array([float(value)], pa.float64()) for value in scalars]
        for name, vector in (("alpha", alpha), ("p", p)):
            values = np.ascontiguousarray(vector, dtype=np.float32)
            if values.shape != (self._n_gates,):
                raise RunError(f"{name}: expected shape ({self._n_gates},), found {np.shape(vector)}")
            kind = self._schema.field(name).type
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(values), type=kind))
        self._check_here()
        part = layout.part_path(self.path, self._part)
        layout.check_numbers(part, np.array([step]), *(np.asarray(v, dtype=np.float32)[None] for v in (alpha, p)))
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        with disk_errors(part, "the step cannot be written"):
            append_whole(self._stream, memoryview(batch.serialize()))
        self._next_step = int(step) + 1

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Append one evaluation to evals.jsonl; a ``step`` in it lets a later resume supersede it. Raises TypeError: a
        value has no JSON form. RunError: the writer is closed. DiskError: the disk refuses; the file then ends as
        before.
        """
        self._check_open()
        line = json.dumps(json_ready({**record, "part": self._part}), ensure_ascii=False, allow_nan=False)
        path = self.path / layout.EVALS
        with disk_errors(path):
            fd = open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, links=False, in_place=True)
            try:
                append_whole(fd, line.encode("utf-8") + b"\n")
            finally:
                os.close(fd)

    def sync(self) -> None:
        """Let no step that was appended be lost to a power cut: before a checkpoint that comes after it. Raises
        DiskError: the disk refuses.
        """
        if self._stream is not None:
            self._check_here()
            with disk_errors(layout.part_path(self.path, self._part)):
                os.fsync(self._stream)

    def set_status(self, status: Status, *, error: str | None = None, **fields: Any) -> None:
        """Rewrite run.json with this status, error and other fields. Raises RunError: unknown status, a field that the
        writer keeps itself, or the writer is closed. DiskError: the disk refuses; run.json stays as it was.
        """
        self._check_open()
        if status not in ("running", "paused", *_ENDED):
            raise RunError(f"status: expected running, paused, finished, stopped or failed, found {status!r}")
        _refuse_own(fields, "set_status")
        if "versions" in fields:
            fields["versions"] = {**self._info.get("versions", {}), **fields["versions"]}
        now = _now()
        finished = now if status in _ENDED else None
        changed = {"status": status, "error": error, "updated": now, "finished": finished}
        info = json_ready({**self._info, **fields, **changed})
        self.sync()  # run.json must not run ahead of the steps it speaks of
        with disk_errors(self.path / layout.RUN_JSON):
            write_json_atomic(self.path / layout.RUN_JSON, info, parents=False)
        self._info = info

    def write_structure(self, structure: Structure) -> None:
        """structure.json: the structure this run chose."""
        self._write_json(layout.STRUCTURE, structure.to_dict())

    def write_scores(self, scores: Mapping[str, Any]) -> None:
        """scores.json: the scores of the tuned structure."""
        self._write_json(layout.SCORES, scores)

    def _write_json(self, name: str, data: Mapping[str, Any]) -> None:
        self._check_open()
        with disk_errors(self.path / name):
            write_json_atomic(self.path / name, data, parents=False)

    # -- closing ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the step log and release the lock; doing so twice is harmless. The status stays as it is."""
        if self._closed:
            return
        self._closed = True
        try:
            self.sync()
        finally:
            if self._stream is not None:
                os.close(self._stream)
            if self._home is not None:
                os.close(self._home)
            self._stream = self._home = None
            self._lock.release()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            try:
                if error is not None and not self._closed and self._info["status"] in ("running", "paused"):
                    stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
                    said = f"{type(error).__name__}: {error}"[:2000]
                    self.set_status("stopped" if stopped else "failed", error=said)
            finally:
                self.close()
        except DiskError:
            # What ended the run says more than that the disk would not take note of it.
            if error is None:
                raise

    def __repr__(self) -> str:
        return f"RunWriter({self._info['name']!r}, {'closed' if self._closed else self._info['status']})"

    # -- inside ----------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise RunError(f"{self.path}: this writer is closed")
        self._check_here()

    def _check_here(self) -> None:
        """The run still lies where it is written to: what goes into a folder that was taken away is lost, and one that
        is made anew in its place would claim to be the run.
        """
        gone = None
        if self._home is not None and not same_file(self._home, self.path):
            gone = f"{self.path}: the run's folder"
        elif not (self.path / layout.RUN_JSON).is_file():
            gone = f"{self.path / layout.RUN_JSON}: this file of the run"
        elif self._stream is not None and not same_file(self._stream, layout.part_path(self.path, self._part)):
            gone = f"{layout.part_path(self.path, self._part)}: this part of the step log"
        if gone:
            raise LostRunError(f"{gone} was removed, renamed or replaced while the run was written; nothing more is")

    def _begin_part(self, number: int, *, from_step: int) -> None:
        """A part appears with its schema or not at all, so a reader always learns its first step."""
        path = layout.part_path(self.path, number)
        self._schema = layout.steps_schema(self._n_gates, from_step, self._info.get("started"))
        with disk_errors(path):
            path.parent.mkdir(exist_ok=True)
            write_bytes_atomic(path, self._schema.serialize().to_pybytes(), parents=False)
            self._stream = open_plain(path, os.O_WRONLY | os.O_APPEND, links=False)
        self._part = number
        self._next_step = from_step


def _refuse_own(fields: Mapping[str, Any], where: str) -> None:
    taken = sorted(_OWN & fields.keys())
    if taken:
        raise RunError(f"{where}: field {taken[0]!r} is kept by the run itself and cannot be set")


def _cut_torn_line(path: Path) -> None:
    """Drop half a record at the end, so that the next one starts a line of its own."""
    if not path.exists():
        return
    with os.fdopen(open_plain(path, os.O_RDWR, links=False, in_place=True), "r+b") as f:
        f.truncate(f.read().rfind(b"\n") + 1)


def _process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "pid_mark": process_mark(pid)}


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _versions() -> dict[str, str]:
    try:
        own = importlib.metadata.version("s3pet_viz")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        own = "unknown"
    return {"python": platform.python_version(), "s3pet_viz": own, "numpy": np.__version__}
