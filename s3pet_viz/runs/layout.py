"""The run directory on disk: file names, and the two Arrow tables in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s3pet_viz import files
from s3pet_viz.errors import RunError
from s3pet_viz.structure import Gate
from s3pet_viz.structure.gate import LIMITS

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

#: Columns of a step besides `alpha` and `p`.
SCALARS = ("step", "seconds", "zeta", "train_loss", "val_loss", "lr")

_GATE_COLUMNS: dict[str, Any] = {
    "index": pa.int64(),
    "position": pa.string(),
    "stack": pa.string(),
    "layer": pa.int64(),
    "module": pa.string(),
    "pet_type": pa.string(),
    "n_params": pa.int64(),
    "options": pa.string(),
}


def part_path(run: Path, part: int) -> Path:
    return run / STEPS / f"part-{part:05d}.arrow"


def part_paths(run: Path) -> list[Path]:
    """The parts of the step log, in order."""
    return sorted((run / STEPS).glob("part-[0-9][0-9][0-9][0-9][0-9].arrow"))


def steps_schema(n_gates: int, from_step: int) -> pa.Schema:
    """Schema of one part; its metadata hold the first step that the part may contain."""
    vector = pa.list_(pa.field("item", pa.float32(), nullable=False), n_gates)
    fields = [pa.field("step", pa.int64(), nullable=False)]
    fields += [pa.field(name, pa.float64(), nullable=False) for name in SCALARS[1:]]
    fields += [pa.field(name, vector, nullable=False) for name in ("alpha", "p")]
    version = str(SCHEMA_VERSION)
    return pa.schema(
        fields, metadata={"kind": STEPS_KIND, "schema_version": version, "from_step": str(from_step)}
    )


def gates_to_parquet(gates: Sequence[Gate]) -> bytes:
    """The static table, options as JSON text."""
    rows = [{**g.to_dict(), "options": json.dumps(g.options, sort_keys=True)} for g in gates]
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(_GATE_COLUMNS.items())))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def gates_from_parquet(path: Path) -> tuple[Gate, ...]:
    """Read gates.parquet.

    Raises:
        RunError: names the file, and the field where one is wrong.
    """
    try:
        table = pq.ParquetFile(path).read()
    except FileNotFoundError:
        raise RunError(f"{path}: missing; a run directory holds one") from None
    # Arrow checks less than it reads: text that is no UTF-8, sizes that no memory holds.
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise RunError(f"{path}: damaged, or no Parquet table ({first_line(error)})") from None
    columns: dict[str, list[Any]] = {}
    for name, kind in _GATE_COLUMNS.items():
        if name not in table.column_names:
            raise RunError(f"{path}: field {name!r} is missing")
        if table.column_names.count(name) > 1:
            raise RunError(f"{path}: field {name!r} is there twice")
        column = table.column(name)
        if column.type != kind or column.null_count:
            raise RunError(f"{path}: field {name!r}: expected {kind} without nulls, found {column.type}")
        try:
            column.validate(full=True)
            columns[name] = column.to_pylist()
        except (pa.ArrowException, ValueError) as error:
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
    for row, text in enumerate(columns["options"]):
        try:
            options = files.parse_json(text)
        except ValueError:
            options = None
        if not isinstance(options, dict):
            raise RunError(f"{path}: field 'options', row {row}: expected a JSON object, found {text[:60]!r}")
        columns["options"][row] = options
    seen: set[tuple[str, str]] = set()
    for row, key in enumerate(zip(columns["position"], columns["pet_type"], strict=True)):
        if key in seen:
            raise RunError(f"{path}: field 'position', row {row}: gate {' '.join(key)} appears twice")
        seen.add(key)
    rows = zip(*columns.values(), strict=True)
    return tuple(Gate(**dict(zip(columns, values, strict=True))) for values in rows)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RunError: cannot be read, or is not a JSON object; names the file.
    """
    data = files.read_json(path, RunError)
    if not isinstance(data, dict):
        raise RunError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def read_run_json(run: Path) -> dict[str, Any]:
    """run.json, checked: kind, schema version, and the type of every field that readers rely on.

    Raises:
        RunError: no run directory, foreign, of another version, or damaged; names file and field.
    """
    path = run / RUN_JSON
    if not files.is_folder(run):
        raise RunError(f"{run}: no such run directory")
    if not path.is_file():
        raise RunError(f"{run}: not a run directory of s3pet_viz ({RUN_JSON} is missing)")
    info = read_json(path)
    if info.get("kind") != KIND:
        raise RunError(f"{path}: field 'kind': expected {KIND!r}, found {info.get('kind')!r}")
    if info.get("schema_version") != SCHEMA_VERSION:
        raise RunError(
            f"{path}: field 'schema_version': expected {SCHEMA_VERSION}, "
            f"found {info.get('schema_version')!r}; it was written by another version of s3pet_viz"
        )
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
    return info


def first_line(error: BaseException) -> str:
    """Arrow's messages run over several lines."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
