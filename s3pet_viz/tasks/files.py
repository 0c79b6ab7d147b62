"""Rows from what people have: a file (csv, tsv, json, jsonl, parquet, arrow), or a folder with one for each split."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from s3pet_viz.errors import MissingExtraError, TaskError
from s3pet_viz.files import is_folder, is_there, no_repeats, open_plain
from s3pet_viz.tasks.rows import Table, as_table, kind_of

#: What a split's file may be called, the first that is there.
NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "validation_matched", "dev_matched"),
    "test": ("test",),
}
#: A row's own field that says which split it is in, and what it may say.
SPLIT_COLUMN = "split"
SPLIT_OF = {name: split for split, names in NAMES.items() for name in names}
_PACKED = (".gz", ".bz2", ".xz", ".zip", ".zst")


def read_folder(folder: Path) -> dict[str, Table]:
    """The splits of a folder: train and, where they are there, validation and test.

    Each is a file (`READERS`), its shards (``train-00000-of-00002.parquet``), or what ``Dataset.save_to_disk`` wrote;
    the folder may be what ``DatasetDict.save_to_disk`` wrote, or hold the files in ``data``.

    Raises:
        TaskError: there is no such folder or no training file, two files for one split, or one that is damaged.
        MissingExtraError: a parquet or arrow file, without `datasets`.
    """
    if not is_folder(folder):
        check_rows(folder)
        raise TaskError(f"{folder}: expected a task folder with train.jsonl and validation.jsonl, found no folder.")
    if (folder / "dataset_dict.json").is_file() or _is_saved(folder):
        return saved(folder)
    splits = {split: table for split in NAMES if (table := _split(folder, split)) is not None}
    if "train" in splits:
        _said_left(folder)
        return splits
    if (folder / "data").is_dir() and _split(folder / "data", "train") is not None:
        return read_folder(folder / "data")
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:12]) or "an empty folder"
    endings = ", ".join(ending for ending in READERS if ending != ".jsonl")
    raise TaskError(f"{folder}: expected the file train.jsonl (or one that ends in {endings}), found: {found}.")


def _said_left(folder: Path) -> None:
    """Warn of files that look like rows, and are those of no split."""
    bases = {p: (re.sub(r"-\d+-of-\d+$", "", _unpacked(p).stem), _unpacked(p).suffix.lower()) for p in folder.iterdir()}
    rows = {p: base for p, (base, end) in bases.items() if end in READERS and (end != ".json" or base in SPLIT_OF)}
    there = {base for p, base in rows.items() if p == _unpacked(p)}
    taken = {next((n for n in names if n in there or _is_saved(folder / n)), None) for names in NAMES.values()}
    if left := sorted(p.name for p, base in rows.items() if base not in taken):
        split = f"a split's file is called {', '.join(SPLIT_OF)}, and is not packed"
        warnings.warn(f"{folder}: not read: {', '.join(left[:8])}; {split}", stacklevel=6)


def _unpacked(path: Path) -> Path:
    """The name of what is in a packed file."""
    return path.with_suffix("") if path.suffix.lower() in _PACKED else path


def check_rows(path: str | os.PathLike[str]) -> None:
    """Raises TaskError: a file is there whose ending `READERS` does not have."""
    if is_there(path) and not is_folder(path) and not is_row_file(path):
        packed = "; unpack it first" if _unpacked(Path(path)) != Path(path) else ""
        raise TaskError(
            f"{path}: expected a file that ends in {', '.join(READERS)}, found one that ends in "
            f"{Path(path).suffix or 'nothing'}{packed}."
        )


def _split(folder: Path, split: str) -> Table | None:
    for name in NAMES[split]:
        found = sorted(p for p in folder.glob(f"{name}.*") if p.suffix.lower() in READERS and p.stem == name)
        if _is_saved(folder / name):
            found.append(folder / name)
        shards = sorted(p for p in folder.glob(f"{name}-*-of-*.*") if p.suffix.lower() in READERS)
        if shards:
            count = int(re.sub(r".*-of-0*(\d+)$", r"\1", shards[0].stem) or 0)
            if len(shards) != count:
                raise TaskError(f"{folder}: expected {count} shards of the split {name}, found {len(shards)}.")
        if len(found) + bool(shards) > 1:
            several = ", ".join(p.name for p in [*found, *shards[:1]])
            raise TaskError(f"{folder}: expected one file for the split {split}, found {several}.")
        if shards:
            tables = [read_rows(p) for p in shards]
            rows = [row for table in tables for row in table.rows]
            return Table(str(shards[0]), rows, class_names=tables[0].class_names, untyped=tables[0].untyped)
        if found:
            return saved(found[0])["train"] if found[0].is_dir() else read_rows(found[0])
    return None


def is_row_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is there whose ending `READERS` has."""
    return Path(path).suffix.lower() in READERS and is_there(path) and not is_folder(path)


def read_rows(path: Path) -> Table:
    """The rows of one file, by its ending.

    Raises:
        TaskError: it cannot be read, or is not what its ending says; names the file and the line.
        MissingExtraError: a parquet or arrow file, without `datasets`.
    """
    return READERS[path.suffix.lower()](path)


def by_split(table: Table) -> dict[str, Table]:
    """A single table as training rows; as splits, where each row names its own in a column `SPLIT_COLUMN`.

    Raises:
        TaskError: some rows name a split there, train among them, and others do not.
    """
    names = [SPLIT_OF.get(str(row.get(SPLIT_COLUMN)).strip().lower(), "") for row in table.rows]
    if "train" in names and not all(names):
        i = names.index("")
        raise TaskError(
            f"{table.at(i)}: expected one of {', '.join(SPLIT_OF)} in column '{SPLIT_COLUMN}', as in other rows, found "
            f"{kind_of(table.rows[i].get(SPLIT_COLUMN))}."
        )
    if not all(names):
        return {"train": table}
    where: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        where.setdefault(name, []).append(i)
    return {split: table.take(rows) for split, rows in where.items()}


# -- what datasets and pyarrow write ---------------------------------------------------------------------------


def _is_saved(folder: Path) -> bool:
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def saved(folder: Path) -> dict[str, Table]:
    """The splits that ``save_to_disk`` wrote; a Dataset alone is the training split."""
    datasets = _datasets(folder)
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # `datasets` and Arrow raise many kinds
        raise TaskError(f"{folder}: expected what save_to_disk wrote, found: {error}.") from error
    splits = found if isinstance(found, Mapping) else {"train": found}
    return {SPLIT_OF.get(name, name): as_table(rows, f"{folder}, {name}") for name, rows in splits.items()}


def _arrow(path: Path) -> Table:
    datasets = _datasets(path)
    import pyarrow
    import pyarrow.parquet

    try:
        with os.fdopen(open_plain(path), "rb") as file:
            if path.suffix.lower() == ".parquet":
                table = pyarrow.parquet.read_table(file)
            else:
                data = pyarrow.py_buffer(file.read())
                try:
                    table = pyarrow.ipc.open_file(data).read_all()
                except pyarrow.ArrowInvalid:  # as `datasets` keeps them
                    table = pyarrow.ipc.open_stream(data).read_all()
        rows = datasets.Dataset(table)
    except (OSError, ValueError, TypeError, pyarrow.ArrowException) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise TaskError(f"{path}: expected {path.suffix[1:]} data with columns, found: {first}.") from error
    return as_table(rows, str(path))


def _datasets(path: Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f'{path}: expected the package `datasets` to read it; pip install "s3pet_viz[hub]"'
        ) from error
    return datasets


# -- text ------------------------------------------------------------------------------------------------------


def _separated(path: Path) -> Table:
    """Comma- or tab-separated rows under a line of column names; in a .csv without commas ``;`` or tabs serve too.

    All values are texts: ``NA``, ``1`` and ``01`` are what they say.
    """
    text = "".join(line for _, line in _lines(path))
    header = text.partition("\n")[0]
    tabs = path.suffix.lower() == ".tsv"
    separator = "\t" if tabs else ","
    if separator not in header:
        separator = next((mark for mark in (";", "\t", ",") if mark in header), separator)
    try:
        return _parsed(path, text, separator, csv.QUOTE_MINIMAL)
    except TaskError:
        if not tabs:
            raise
        try:
            return _parsed(path, text, separator, csv.QUOTE_NONE)  # GLUE's own files: a quote is a letter there
        except TaskError:
            pass
        raise


def _parsed(path: Path, text: str, separator: str, quoting: Any) -> Table:
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True)
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    names: list[str] | None = None
    begins = 1
    try:
        for values in reader:
            at, begins = f"{path}, line {begins}", reader.line_num + 1
            if not values:
                continue
            if names is None:
                names = [name.strip() for name in values]
                if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
                    raise TaskError(
                        f"{at}: expected each column once, found {twice[0]!r} {names.count(twice[0])} times."
                    )
            elif len(values) != len(names):
                raise TaskError(
                    f"{at}: expected {len(names)} values, one for each of the columns {', '.join(names)}; "
                    f"found {len(values)}."
                )
            else:
                rows.append({name: value for name, value in zip(names, values, strict=True) if name})
                numbers.append(int(at.rpartition(" ")[2]))
    except csv.Error as error:
        raise TaskError(f"{path}, line {begins}: expected {path.suffix[1:]} rows, found: {error}.") from error
    return Table(str(path), rows, numbers, unit="line", untyped=True)


def _json(path: Path) -> Table:
    """A list of objects, or lines of objects (as `datasets` writes .json), or an object of columns (as pandas does)."""
    raw = "".join(line for _, line in _lines(path)).strip()
    if raw[:1] == "{":
        try:
            whole = json.loads(raw, object_pairs_hook=no_repeats, parse_constant=_not_finite)
        except (ValueError, RecursionError):
            return read_jsonl(path)
        columns = list(whole.values())
        if columns and all(isinstance(one, Mapping) and one.keys() == columns[0].keys() for one in columns):
            return Table(str(path), [{name: whole[name][key] for name in whole} for key in columns[0]])
        if columns and all(isinstance(one, list) and len(one) == len(columns[0]) for one in columns):
            return Table(str(path), [dict(zip(whole, values, strict=True)) for values in zip(*columns, strict=True)])
        return read_jsonl(path)
    try:
        rows = json.loads(raw, object_pairs_hook=no_repeats, parse_constant=_not_finite)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{path}: expected a list of JSON objects, found: {error}.") from error
    if not isinstance(rows, list):
        raise TaskError(f"{path}: expected a list of JSON objects, found {kind_of(rows)}.")
    return as_table(rows, str(path))


def read_jsonl(path: Path) -> Table:
    """The rows of a JSON-lines file, blank lines skipped.

    Raises TaskError naming the file and the line for text that is not UTF-8, a line that is not one JSON
    object, a key that appears twice in an object, or NaN and Infinity.
    """
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, line in _lines(path):
        row = _parse(line, f"{path}, line {number}")
        if row is not None:
            rows.append(row)
            numbers.append(number)
    return Table(str(path), rows, numbers, unit="line")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, from 1."""
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    found = f"found byte {raw[error.start]:#04x}"
                    raise TaskError(f"{path}, line {number}: expected UTF-8 text, {found}.") from error
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error}.") from error


def _parse(line: str, at: str) -> dict[str, Any] | None:
    line = line.strip(" \t\r\n")
    if not line:
        return None
    try:
        row = _JSON.decode(line)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{at}: expected one JSON object, found: {error}.") from error
    if not isinstance(row, dict):
        raise TaskError(f"{at}: expected one JSON object, found {kind_of(row)}.")
    return row


def _not_finite(constant: str) -> NoReturn:
    raise ValueError(f"the number {constant}, which is not finite")


#: Made once: `json.loads` would make one for each line.
_JSON = json.JSONDecoder(object_pairs_hook=no_repeats, parse_constant=_not_finite)

#: How a file is read, by its ending.
READERS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": _json,
    ".csv": _separated,
    ".tsv": _separated,
    ".parquet": _arrow,
    ".arrow": _arrow,
    ".feather": _arrow,
}
