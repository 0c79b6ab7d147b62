"""Writing files that a reader never sees half-written."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes) -> Path:
    """Replace a file as a whole or not at all; parents are made.

    The temporary file lies in the same folder, because a rename is atomic only within a file system.

    Raises:
        OSError: the folder cannot be written; the old file is then untouched and nothing is left behind.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        # 'x', not tempfile: the result gets the permissions that the user's umask asks for.
        with temporary.open("xb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target


def write_text_atomic(path: str | os.PathLike[str], text: str) -> Path:
    """`write_bytes_atomic` of UTF-8 text."""
    return write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: str | os.PathLike[str], data: Any) -> Path:
    """Write JSON by `write_bytes_atomic`; values pass through `json_ready`.

    Raises:
        TypeError: a value has no JSON form; raised before anything is written.
        OSError: the folder cannot be written.
    """
    text = json.dumps(json_ready(data), indent=1, ensure_ascii=False, allow_nan=False)
    return write_text_atomic(path, text + "\n")


def json_ready(value: Any) -> Any:
    """The value with plain JSON types only.

    NaN and infinities become None (strict JSON has no word for them), NumPy values plain ones, paths
    strings, tuples and sets lists (sets sorted).

    Raises:
        TypeError: a value has no JSON form.
    """
    if value is None or isinstance(value, (bool, str)):
        # A lone surrogate (an undecodable file name) cannot be written as UTF-8.
        return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
    if isinstance(value, (np.generic, np.ndarray)):
        return json_ready(value.tolist())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return json_ready(os.fspath(value))
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return [json_ready(v) for v in sorted(value)]
    raise TypeError(f"expected a value that JSON can hold, found {type(value).__name__}: {value!r}")
