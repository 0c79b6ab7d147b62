"""A task folder: train.jsonl, validation.jsonl, optional test.jsonl and task.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from s3pet_viz.errors import TaskError
from s3pet_viz.files import is_folder, no_repeats, open_plain
from s3pet_viz.tasks.rows import Table, kind_of


def read_folder(folder: Path) -> dict[str, Table]:
    """The splits of a folder: train, validation and, where there is one, test.

    `validation_matched.jsonl` (MNLI) stands in for a missing validation.jsonl. Raises TaskError when the
    folder or a required file is missing, or a file is not JSON lines.
    """
    if not is_folder(folder):
        raise TaskError(f"{folder}: expected a task folder with train.jsonl and validation.jsonl, found no folder.")
    validation = folder / "validation.jsonl"
    if not validation.is_file() and (folder / "validation_matched.jsonl").is_file():
        validation = folder / "validation_matched.jsonl"
    splits = {}
    for split, path in (("train", folder / "train.jsonl"), ("validation", validation)):
        if not path.is_file():
            found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:12]) or "an empty folder"
            raise TaskError(f"{folder}: expected the file {path.name}, found: {found}.")
        splits[split] = read_jsonl(path)
    if (folder / "test.jsonl").exists():
        splits["test"] = read_jsonl(folder / "test.jsonl")
    return splits


def read_jsonl(path: Path) -> Table:
    """The rows of a JSON-lines file, blank lines skipped.

    Raises TaskError naming the file and the line for text that is not UTF-8, a line that is not one JSON
    object, a key that appears twice in an object, or NaN and Infinity.
    """
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            for line_number, raw in enumerate(file, start=1):
                row = _parse(raw, f"{path}, line {line_number}", first=line_number == 1)
                if row is not None:
                    rows.append(row)
                    numbers.append(line_number)
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error}.") from error
    return Table(str(path), rows, numbers, unit="line")


def _parse(raw: bytes, at: str, *, first: bool) -> dict[str, Any] | None:
    try:
        line = raw.decode("utf-8-sig" if first else "utf-8").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        raise TaskError(f"{at}: expected UTF-8 text, found byte {raw[error.start]:#04x}.") from error
    if not line:
        return None
    try:
        row = json.loads(line, object_pairs_hook=no_repeats, parse_constant=_not_finite)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{at}: expected one JSON object, found: {error}.") from error
    if not isinstance(row, dict):
        raise TaskError(f"{at}: expected one JSON object, found {kind_of(row)}.")
    return row


def _not_finite(constant: str) -> NoReturn:
    raise ValueError(f"the number {constant}, which is not finite")
