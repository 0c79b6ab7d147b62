"""Writing files that a reader never sees half-written; reading JSON that anyone may have written."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from s3pet_viz.errors import S3PETError

#: Larger than any file that this package writes: a structure of 100,000 gates has 25 MB.
MOST_BYTES = 64 * 1024**2
#: Objects and lists within each other; this package's own files have 6.
MOST_DEPTH = 64
#: Digits of a whole number: so many fit a float.
_MOST_DIGITS = 300


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


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is there; False too for a name that no file can have (too long, a null byte)."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` as the home folder; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether a file or folder is there; False too for a name that no file can have."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def read_text(
    path: str | os.PathLike[str], error: type[S3PETError], *, most: int = MOST_BYTES, what: str = "text"
) -> str:
    """UTF-8 text, with or without a byte order mark.

    Args:
        error: the kind of error to raise.
        most: bytes that the file may have.
        what: it is, for the message.

    Raises:
        S3PETError: of that kind: no such file, no plain file, too large, or of another encoding; names the file.
    """
    try:
        file = Path(path)
        size = file.stat().st_size
        if not file.is_file():  # reading a pipe would wait for ever
            raise error(f"{path}: cannot be read (it is a folder or a device)")
        if size > most:
            raise error(f"{path}: expected at most {most // 1024**2} MiB, found {size / 1024**2:,.0f} MiB")
        return file.read_bytes().decode("utf-8-sig")
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from None
    except UnicodeDecodeError as problem:
        raise error(f"{path}: expected {what} in UTF-8, found something else ({problem.reason})") from None
    except ValueError as problem:  # a null byte in the name
        if isinstance(problem, S3PETError):
            raise
        raise error(f"{str(path)!r}: cannot be read ({problem})") from None


def parse_json(text: str) -> Any:
    """JSON as this package writes it: finite numbers, whole ones that fit a float, no key twice in an object, text that
    UTF-8 can hold, at most `MOST_DEPTH` levels. What breaks one of these would only fail later, and less clearly.

    Raises:
        ValueError: it is not; names the place or the key.
    """
    try:
        data = json.loads(
            text, object_pairs_hook=no_repeats, parse_constant=_number, parse_float=_number, parse_int=_whole
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(data)
    if "\\u" in text:  # only so can JSON spell half a surrogate pair
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a surrogate pair, which is no text") from None
    return data


def read_json(path: str | os.PathLike[str], error: type[S3PETError], *, hint: str = "") -> Any:
    """The content of a JSON file, by `read_text` and `parse_json`.

    Raises:
        S3PETError: of the kind `error`; names the file, and ends with `hint` where the content is damaged.
    """
    text = read_text(path, error, what="JSON")
    try:
        return parse_json(text)
    except ValueError as problem:
        first = (str(problem).splitlines() or [""])[0][:200]
        raise error(f"{path}: expected JSON, found something else: it is damaged ({first}){hint}") from None


def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict; ValueError when it holds a key twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)[:60]!r} twice in one object")
    return found


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]}, which is not finite")
    return value


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"the number {text[:20]}..., which has {len(text):,} digits")
    return int(text)


def _check_depth(data: Any) -> None:
    """Level by level, as recursion is what must not be trusted."""
    level = [data]
    for _ in range(MOST_DEPTH):
        level = [
            child
            for value in level
            if isinstance(value, (dict, list))
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"it has more than {MOST_DEPTH} levels")
