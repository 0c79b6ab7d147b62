"""Files and folders: where a path leads, what may lie there, writing that a reader never sees half-done, and reading
what anyone may have written.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from s3pet_viz.errors import FileError, S3PETError, short

#: Larger than any file that this package writes: a structure of 50,000 gates has 13 MB.
MOST_BYTES = 32 * 1024**2
#: Objects and lists within each other; this package's own files have 6.
MOST_DEPTH = 64
#: Objects and lists in one file, and values: a structure of 50,000 gates has 0.1 and 0.5 million.
MOST_PARTS, MOST_VALUES = 400_000, 1_000_000
#: Digits of a whole number: so many fit a float.
_MOST_DIGITS = 300

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISREG, "a file"),
)

# -- where a path leads --------------------------------------------------------------------------------------


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` as the home folder; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def located(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` as the home folder, and absolute, so that what holds it outlives a change of the working
    folder. Links stay as they are.
    """
    found = expanded(path)
    try:
        return found.absolute()
    except OSError:  # the working folder is gone
        return found


def name_or_folder(text: str | os.PathLike[str]) -> str:
    """What a task, a backbone or a run is called in a file: its folder (or a file with an ending) by the absolute path,
    where one is there (or a Path says so); else its name, as it was given.
    """
    found = located(text)
    there = is_folder(found) or (bool(found.suffix) and is_there(found))
    return str(found) if isinstance(text, os.PathLike) or there else str(text)


def named_in(text: str, folder: Path, was: object = None) -> str:
    """What a file means by the name of a task, a backbone or a run: a relative folder is found from the folder that
    the file lies in, whatever the working folder is.

    Args:
        folder: of the file.
        was: the absolute folder that the file lay in when it was written, where it says so. If an absolute folder is
            gone, and both have moved together, it is found as it lay.
    """
    if not text or "\0" in text:  # no file's name
        return text
    if text.startswith("~"):
        return str(expanded(text))
    if not Path(text).is_absolute():
        near = located(folder) / text
        return str(near.resolve()) if text.startswith(".") or is_folder(near) else text
    if not is_there(text) and isinstance(was, str) and Path(was).is_absolute() and "\0" not in was:
        near = located(folder) / os.path.relpath(text, was)
        return str(near.resolve()) if is_folder(near) else text
    return text


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is there; False too for a name that no file can have (too long, a null byte)."""
    try:
        return expanded(path).is_dir()
    except (OSError, ValueError):
        return False


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether a file or folder is there; False too for a name that no file can have."""
    try:
        return expanded(path).exists()
    except (OSError, ValueError):
        return False


# -- what lies there -----------------------------------------------------------------------------------------


_ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".xlsx", ".yaml", ".html", ".png", ".svg", ".pdf")


def check_ending(path: str | os.PathLike[str], ending: str) -> None:
    """A file's name does not promise another form than the one that is written. Raises FileError."""
    found = Path(path).suffix.lower().replace(".yml", ".yaml")
    if found in _ENDINGS and found != ending:
        raise FileError(
            errno.EINVAL, f"expected a name that ends in {ending}, the form that is written, found {found}", str(path)
        )


def kind_of(mode: int) -> str:
    """What a file of this `st_mode` is, in words."""
    return next((word for test, word in _KINDS if test(mode)), "a device")


@contextmanager
def file_errors(path: str | os.PathLike[str], doing: str = "") -> Iterator[None]:
    """Inside, what the system says about a file becomes a `FileError` that names it."""
    try:
        yield
    except S3PETError:
        raise
    except OSError as error:
        what = error.strerror or str(error)
        raise FileError(error.errno or errno.EIO, f"{doing} ({what})" if doing else what, str(path)) from error
    except ValueError as error:  # a null byte in the name
        raise FileError(errno.EINVAL, f"{doing} ({error})" if doing else str(error), repr(str(path))) from None


def open_plain(
    path: str | os.PathLike[str], flags: int = os.O_RDONLY, *, links: bool = True, in_place: bool = False
) -> int:
    """Open a plain file, at once: opening or reading a named pipe would wait for ever.

    Args:
        links: whether a link to a plain file will do.
        in_place: what is there will be changed, so that a second name of the same file (a hard link) will not do.

    Returns:
        A file descriptor.

    Raises:
        FileError: it cannot be opened, or is a folder, a named pipe, a socket, a device, or a link. Nothing is changed.
    """
    with file_errors(path):
        flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        if not links:
            flags |= getattr(os, "O_NOFOLLOW", 0)
        try:
            fd = os.open(expanded(path), flags, 0o666)
        except OSError:
            refuse_special(path, links=links)  # says more than "too many levels of symbolic links"
            raise
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or (in_place and found.st_nlink > 1):
            os.close(fd)
            raise _special(path, found)
        return fd


def refuse_special(path: str | os.PathLike[str], *, links: bool = True, folder: bool = False) -> None:
    """Raises FileError where something else than a plain file (or, with `folder`, a folder) is there."""
    with file_errors(path):
        try:
            found = expanded(path).lstat()
            if links and stat.S_ISLNK(found.st_mode):
                found = expanded(path).stat()
        except FileNotFoundError:
            return
        if not (stat.S_ISDIR if folder else stat.S_ISREG)(found.st_mode):
            raise _special(path, found, folder=folder)


def _special(path: str | os.PathLike[str], found: os.stat_result, *, folder: bool = False) -> FileError:
    kind = kind_of(found.st_mode)
    if kind == "a file" and not folder:
        kind = "one that has another name too (a hard link); make a copy"
    wanted = "a folder" if folder else "a plain file"
    number = errno.EISDIR if kind == "a folder" else errno.EINVAL
    return FileError(number, f"expected {wanted}, found {kind}", str(path))


# -- writing -------------------------------------------------------------------------------------------------


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes, *, parents: bool = True) -> Path:
    """Replace a file as a whole or not at all.

    The temporary file lies in the same folder, because a rename is atomic only within a file system.

    Args:
        parents: make the folder where there is none.

    Raises:
        FileError: the folder cannot be written, or holds something else than a plain file by that name; what was there
            is then untouched and nothing is left behind.
    """
    target = expanded(path)
    with file_errors(target):
        if parents:
            target.parent.mkdir(parents=True, exist_ok=True)
        refuse_special(target)
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


def write_json_atomic(path: str | os.PathLike[str], data: Any, *, parents: bool = True) -> Path:
    """Write JSON by `write_bytes_atomic`; values pass through `json_ready`. Raises TypeError: a value has no JSON form;
    raised before anything is written. FileError: the folder cannot be written.
    """
    text = json.dumps(json_ready(data), indent=1, ensure_ascii=False, allow_nan=False)
    return write_bytes_atomic(path, (text + "\n").encode("utf-8"), parents=parents)


def json_ready(value: Any) -> Any:
    """The value with plain JSON types only.

    NaN and infinities become None (strict JSON has no word for them), NumPy values plain ones, paths strings, tuples
    and sets lists (sets sorted). Raises TypeError: a value has no JSON form.
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


# -- reading -------------------------------------------------------------------------------------------------


def read_bytes(
    path: str | os.PathLike[str], error: type[S3PETError], *, most: int = MOST_BYTES, links: bool = True
) -> bytes:
    """The content of a plain file of at most so many bytes. Raises S3PETError: of the kind `error`: no such file, no
    plain file, or too large; names the file.
    """
    try:
        with os.fdopen(open_plain(path, links=links), "rb") as f, file_errors(path):
            size = os.fstat(f.fileno()).st_size
            data = f.read(most + 1) if size <= most else b""
    except FileError as problem:
        raise error(f"{problem.filename}: cannot be read ({problem.strerror})") from None
    if size > most or len(data) > most:
        limit = f"{most // 1024**2} MiB" if most >= 1024**2 else f"{most // 1024} KiB"
        raise error(f"{path}: expected at most {limit}, found {size / 1024**2:,.1f} MiB")
    return data


def read_text(
    path: str | os.PathLike[str],
    error: type[S3PETError],
    *,
    most: int = MOST_BYTES,
    what: str = "text",
    links: bool = True,
) -> str:
    """UTF-8 text, with or without a byte order mark.

    Args:
        error: the kind of error to raise.
        most: bytes that the file may have.
        what: it is, for the message.
        links: as of `open_plain`.

    Raises:
        S3PETError: of that kind: no such file, no plain file, too large, or of another encoding; names the file.
    """
    try:
        return read_bytes(path, error, most=most, links=links).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: expected {what} in UTF-8, found something else ({problem.reason})") from None


def parse_json(text: str) -> Any:
    """JSON as this package writes it: finite numbers, whole ones that fit a float, no key twice in an object, text that
    UTF-8 can hold, at most `MOST_DEPTH` levels. What breaks one of these would only fail later, and less clearly.
    Raises ValueError: it is not; names the place or the key.
    """
    # Before it is read: three bytes of text can stand for seventy of memory.
    if text.count("[") + text.count("{") > MOST_PARTS or text.count(",") > MOST_VALUES:
        raise ValueError(f"it holds more than {MOST_PARTS:,} objects and lists, or more than {MOST_VALUES:,} values")
    try:
        data = _JSON.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(data)
    if "\\u" in text:  # only so can JSON spell half a surrogate pair
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a surrogate pair, which is no text") from None
    return data


def read_json(
    path: str | os.PathLike[str], error: type[S3PETError], *, hint: str = "", most: int = MOST_BYTES, links: bool = True
) -> Any:
    """The content of a JSON file, by `read_text` and `parse_json`. Raises S3PETError: of the kind `error`; names the
    file, and ends with `hint` where the content is damaged.
    """
    text = read_text(path, error, what="JSON", most=most, links=links)
    try:
        return parse_json(text)
    except ValueError as problem:
        first = (str(problem).splitlines() or [""])[0][:200]
        raise error(f"{path}: expected JSON, found something else: it is damaged ({first}){hint}") from None


def check_kind(data: Any, kind: str, version: int, error: type[S3PETError], where: object) -> dict[str, Any]:
    """The content of a JSON file of this package, as far as it says what it is. Raises S3PETError: of the kind `error`:
    it is of another kind or version; begins with `where`, and names the field.
    """
    found = data if isinstance(data, dict) else {}
    if found.get("kind") != kind:
        raise error(f"{where}: field 'kind': expected {kind!r}, found {short(found.get('kind'))}")
    if found.get("schema_version") != version:
        raise error(
            f"{where}: field 'schema_version': expected {version}, found {short(found.get('schema_version'))}; "
            "it was written by another version of s3pet_viz"
        )
    return found


def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict; ValueError when it holds a key twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {again[:60]!r} twice in one object")
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


#: Made once: `json.loads` would make one for each text.
_JSON = json.JSONDecoder(object_pairs_hook=no_repeats, parse_constant=_number, parse_float=_number, parse_int=_whole)


def _check_depth(data: Any) -> None:
    """Level by level, as recursion is what must not be trusted."""
    level = [data]
    for _ in range(MOST_DEPTH):
        nested = [value for value in level if isinstance(value, (dict, list))]
        level = [child for value in nested for child in (value.values() if isinstance(value, dict) else value)]
        if not any(isinstance(child, (dict, list)) for child in level):
            return
    raise ValueError(f"it has more than {MOST_DEPTH} levels")
