"""The run directory on disk: file names, and the two Arrow tables in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s3pet_viz import files
from s3pet_viz.errors import FileError, RunError, StructureError
from s3pet_viz.structure import Gate
from s3pet_viz.structure.gate import LIMITS, LONGEST, MOST_GATES, MOST_UNITS, check_grid
from s3pet_viz.structure.units import check_units

SCHEMA_VERSION = 1
KIND = "s3pet_viz.run"
STEPS_KIND = "s3pet_viz.steps"

RUN_JSON = "run.json"
GATES = "gates.parquet"
STEPS = "steps"
EVALS = "evals.jsonl"
STRUCTURE = "structure.json"
SCORES = "scores.json"
CHECKPOINT = "checkpoint"
LOCK = "lock"
LOG = "log.txt"
CONTROL = "control.json"
EXPLAIN = "explain.json"
TRACKING = "tracking"
MARKS = "marks.json"

_FILES = (RUN_JSON, GATES, EVALS, STRUCTURE, SCORES, LOCK, LOG, CONTROL, EXPLAIN, MARKS)
_FOLDERS = (STEPS, CHECKPOINT, TRACKING)
NAMES = frozenset((*_FILES, *_FOLDERS))

#: Bytes of run.json; ours have 10 KB, and as much again where a search space is spelled out.
_MOST_RUN_JSON = 4 * 1024**2
#: Bytes of gates.parquet, of its index, and its columns. Ours have 8 columns, in an index of 5 KB.
_MOST_PARQUET, _MOST_FOOTER, _MOST_COLUMNS = 16 * 1024**2, 1024**2, 64
#: What Parquet may be packed with: Snappy, as ours, makes at most 21 of 1; others make thousands.
_PACKED = ("SNAPPY", "UNCOMPRESSED")
#: Evaluations, and names in them: ours have 5, callbacks may add some.
_MOST_EVALS, _MOST_NAMES = 100_000, 200
#: Fields of a run's config that a resumed search may find in a new place.
MAY_MOVE = ("task", "backbone")
#: No search arrives at a larger alpha, and squares and differences of such still fit float32.
MOST_ALPHA = 1e12

#: Columns of a step besides `alpha` and `p`.
SCALARS = ("step", "seconds", "zeta", "train_loss", "val_loss", "lr")

_WHOLE, _TEXT = pa.int64(), pa.string()
_GATE_COLUMNS: dict[str, Any] = {
    **{"index": _WHOLE, "position": _TEXT, "stack": _TEXT, "layer": _WHOLE, "module": _TEXT, "pet_type": _TEXT},
    **{"n_params": _WHOLE, "options": _TEXT},
}
#: A column more where a space has units; -1 for a gate that is none.
_UNIT = "unit"


def part_path(run: Path, part: int) -> Path:
    return run / STEPS / f"part-{part:05d}.arrow"


@contextmanager
def run_errors() -> Iterator[None]:
    """Inside, what is wrong with a file of a run becomes a `RunError`."""
    try:
        yield
    except FileError as error:
        raise RunError(str(error)) from None


def check_entries(run: Path) -> None:
    """A run's files and folders are plain ones inside it. By a link, a run directory from elsewhere could have other
    files read, replaced or cut; at a pipe its readers would wait for ever. Raises RunError: names the first that is
    something else. Nothing is changed.
    """
    with run_errors():
        for name in _FILES:
            files.refuse_special(run / name, links=False)
        for name in _FOLDERS:
            files.refuse_special(run / name, links=False, folder=True)
        for name in (STEPS, CHECKPOINT):
            if (run / name).is_dir():
                with os.scandir(run / name) as entries:
                    for entry in entries:
                        if not entry.is_file(follow_symlinks=False):
                            files.refuse_special(entry.path, links=False)


def part_paths(run: Path) -> list[Path]:
    """The parts of the step log, in order. Raises RunError: what holds them is no folder of the run."""
    with run_errors():
        files.refuse_special(run / STEPS, links=False, folder=True)
    return sorted((run / STEPS).glob("part-[0-9][0-9][0-9][0-9][0-9].arrow"))


def check_numbers(path: Path, steps: np.ndarray, alpha: np.ndarray, p: np.ndarray) -> None:
    """The one check of what a step log says of its gates. `steps`: shape (n_rows,). alpha, p: shape (n_rows, n_gates).
    Raises RunError: alpha is not finite or beyond `MOST_ALPHA`, or p is no probability; names the step and the gate.
    """
    for name, values, least, most in (("alpha", alpha, -MOST_ALPHA, MOST_ALPHA), ("p", p, 0, 1)):
        # min and max hand NaN on, and need no memory.
        if values.size and not (values.min() >= least and values.max() <= most):
            row, gate = np.argwhere(~((values >= least) & (values <= most)))[0]
            raise RunError(
                f"{path}: step {steps[row]}, gate {gate}: {name}: expected a number from {least:g} to {most:g}, "
                f"found {values[row, gate]:g}"
            )


def steps_schema(n_gates: int, from_step: int, started: str | None = None) -> pa.Schema:
    """Schema of one part; its metadata hold the first step that the part may contain, and when its run began, by which
    it is told from a part of another run in the same place.
    """
    vector = pa.list_(pa.field("item", pa.float32(), nullable=False), n_gates)
    fields = [pa.field("step", pa.int64(), nullable=False)]
    fields += [pa.field(name, pa.float64(), nullable=False) for name in SCALARS[1:]]
    fields += [pa.field(name, vector, nullable=False) for name in ("alpha", "p")]
    metadata = {"kind": STEPS_KIND, "schema_version": str(SCHEMA_VERSION), "from_step": str(from_step)}
    return pa.schema(fields, metadata=metadata | ({"started": started} if started else {}))


def gates_to_parquet(gates: Sequence[Gate]) -> bytes:
    """The static table, options as JSON text."""
    rows = [{_UNIT: -1, **g.to_dict(), "options": json.dumps(g.options, sort_keys=True)} for g in gates]
    columns = _columns([_UNIT] if any(g.unit is not None for g in gates) else [])
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items())))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def gates_from_parquet(path: Path, n_gates: int | None = None) -> tuple[Gate, ...]:
    """Read gates.parquet. What it would cost is looked at before it is read. `n_gates`: as run.json says; None:
    whatever is there. Raises RunError: names the file, and the field where one is wrong.
    """
    if not os.path.lexists(path):
        raise RunError(f"{path}: missing; a run directory holds one")
    try:
        table = _read_parquet(path, n_gates)
    # Arrow checks less than it reads: text that is no UTF-8, sizes that no memory holds.
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path}: damaged, or no Parquet table ({first_line(error)})") from None
    columns: dict[str, list[Any]] = {}
    for name, kind in _columns(table.column_names).items():
        column = table.column(name)
        if column.null_count:
            raise RunError(f"{path}: field {name!r}: expected {kind} without nulls, found some")
        try:
            column.validate(full=True)
            columns[name] = _as_list(column, f"{path}: field {name!r}", LONGEST.get(name, 0))
        except (pa.ArrowException, ValueError) as error:
            if isinstance(error, RunError):
                raise
            raise RunError(f"{path}: field {name!r}: damaged ({first_line(error)})") from None
    if not columns["index"]:
        raise RunError(f"{path}: expected at least one gate, found none")
    if columns["index"] != list(range(len(columns["index"]))):
        raise RunError(f"{path}: field 'index': expected 0, 1, 2, ... in order")
    for name in ("layer", "n_params"):
        least, most = LIMITS[name]
        for row, number in enumerate(columns[name]):
            if not least <= number <= most:
                expected = f"at least {least}" if number < least else f"at most {most:,}"
                raise RunError(f"{path}: field {name!r}, row {row}: expected {expected}, found {number}")
    units = columns.pop(_UNIT, [-1] * len(columns["index"]))
    for row, unit in enumerate(units):
        if not -1 <= unit < MOST_UNITS:
            raise RunError(f"{path}: field 'unit', row {row}: expected -1 to {MOST_UNITS - 1}, found {unit}")
    known: dict[str, dict[str, Any]] = {}
    for row, text in enumerate(columns["options"]):
        if text not in known:
            try:
                options = files.parse_json(text)
            except ValueError:
                options = None
            if not isinstance(options, dict):
                raise RunError(f"{path}: field 'options', row {row}: expected a JSON object, found {text[:60]!r}")
            known[text] = options
        columns["options"][row] = dict(known[text])
    gates = tuple(map(Gate, *(columns[name] for name in _GATE_COLUMNS), (None if u < 0 else u for u in units)))
    seen: set[tuple[str, str]] = set()
    for row, gate in enumerate(gates):
        if gate.key in seen:
            raise RunError(f"{path}: field 'position', row {row}: gate {gate.name} appears twice")
        seen.add(gate.key)
    try:
        check_units(gates, str(path))
        check_grid(gates, str(path))
    except StructureError as error:
        raise RunError(str(error)) from None
    return gates


def _columns(there: Sequence[str]) -> dict[str, Any]:
    """The columns of gates.parquet with those names among them that it may have."""
    return _GATE_COLUMNS | ({_UNIT: _WHOLE} if _UNIT in there else {})


def _read_parquet(path: Path, n_gates: int | None) -> pa.Table:
    """The table; texts as Arrow's dictionaries, so that one that many rows share is held once."""
    data = files.read_bytes(path, RunError, most=_MOST_PARQUET, links=False)
    if int.from_bytes(data[-8:-4], "little") > _MOST_FOOTER:
        raise RunError(f"{path}: damaged, or no Parquet table (an index of more than {_MOST_FOOTER // 1024:,} KiB)")
    table = pq.ParquetFile(pa.BufferReader(data))
    facts, names = table.metadata, table.schema_arrow.names
    most = MOST_GATES if n_gates is None else n_gates
    if facts.num_rows > most or facts.num_rows > MOST_GATES:
        raise RunError(f"{path}: expected at most {min(most, MOST_GATES):,} gates, found {facts.num_rows:,} rows")
    if len(names) > _MOST_COLUMNS or facts.num_row_groups > MOST_GATES // 1000:
        raise RunError(f"{path}: expected {len(_GATE_COLUMNS)} columns, found {len(names):,}")
    for name, kind in _columns(names).items():
        if name not in names:
            raise RunError(f"{path}: field {name!r} is missing")
        if names.count(name) > 1:
            raise RunError(f"{path}: field {name!r} is there twice")
        if (found := table.schema_arrow.field(name).type) != kind:
            raise RunError(f"{path}: field {name!r}: expected {kind} without nulls, found {found}")
    for group in range(facts.num_row_groups):
        for column in range(facts.num_columns):
            if (packed := facts.row_group(group).column(column).compression) not in _PACKED:
                raise RunError(f"{path}: expected {' or '.join(_PACKED)} columns, found {packed}")
    texts = [name for name, kind in _GATE_COLUMNS.items() if kind == pa.string()]
    shared = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
    return shared.read(columns=list(_columns(names)), use_threads=False)


def _as_list(column: pa.ChunkedArray, where: str, longest: int) -> list[Any]:
    """A column's values; a text that many rows share is one object. Raises RunError: a text of more characters than
    `longest`.
    """
    if not pa.types.is_dictionary(column.type):
        values: list[Any] = column.to_pylist()
        return values
    found: list[Any] = []
    for chunk in column.chunks:
        lengths = pc.binary_length(chunk.dictionary).to_numpy(zero_copy_only=False)
        if lengths.size and lengths.max() > longest:
            raise RunError(f"{where}: expected at most {longest:,} bytes of text, found {lengths.max():,}")
        words = chunk.dictionary.to_pylist()
        found += [words[i] for i in chunk.indices.to_pylist()]
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file of a run. Raises RunError: cannot be read, is a link, or is not a JSON object; names the
    file.
    """
    most = _MOST_RUN_JSON if path.name == RUN_JSON else files.MOST_BYTES
    data = files.read_json(path, RunError, links=False, most=most)
    if not isinstance(data, dict):
        raise RunError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def read_evals(run: Path) -> list[dict[str, Any]]:
    """The records of evals.jsonl. Raises RunError: a line is damaged (half a line at the end is not: it is being
    written), or there is more than a table can hold.
    """
    path = run / EVALS
    data = files.read_bytes(path, RunError, links=False) if os.path.lexists(path) else b""
    if (found := data.count(b"\n")) > _MOST_EVALS:  # before a hostile file is cut into millions of lines
        raise RunError(f"{path}: expected at most {_MOST_EVALS:,} lines, found {found:,}")
    records = []
    names: set[str] = set()
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            record = files.parse_json(line.decode())
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise RunError(f"{path}: line {number}: expected a JSON object; it is damaged")
        names |= record.keys()
        if len(names) > _MOST_NAMES:  # each is a column of the table
            raise RunError(f"{path}: line {number}: expected at most {_MOST_NAMES} names in all lines, found more")
        records.append(record)
    return records


def read_run_json(run: Path) -> dict[str, Any]:
    """run.json, checked: kind, schema version, and the type of every field that readers rely on. Raises RunError: no
    run directory, foreign, of another version, or damaged; names file and field.
    """
    path = run / RUN_JSON
    if not files.is_folder(run):
        raise RunError(f"{run}: no such run directory")
    if not os.path.lexists(path):
        raise RunError(f"{run}: not a run directory of s3pet_viz ({RUN_JSON} is missing)")
    info = files.check_kind(read_json(path), KIND, SCHEMA_VERSION, RunError, path)
    for name, kinds, word in (
        ("name", (str,), "text"),
        ("status", (str,), "text"),
        ("config", (dict,), "an object"),
        ("n_gates", (int,), "a whole number"),
        ("backbone", (str, type(None)), "text or null"),
        ("backbone_params", (int, type(None)), "a whole number or null"),
        ("budget", (int, type(None)), "a whole number or null"),
        ("steps_total", (int, type(None)), "a whole number or null"),
        ("tau", (int, float), "a number"),
    ):
        value = info.setdefault(name, None)  # readers look it up by its name
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise RunError(f"{path}: field {name!r}: expected {word}, found {value!r}")
        if isinstance(value, int) and not 0 <= value < 2**63:
            raise RunError(f"{path}: field {name!r}: expected 0 or more, within 64 bits, found {value}")
    if info["n_gates"] > MOST_GATES:
        raise RunError(f"{path}: field 'n_gates': expected at most {MOST_GATES:,}, found {info['n_gates']:,}")
    return info


def first_line(error: BaseException) -> str:
    """Arrow's messages run over several lines."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
