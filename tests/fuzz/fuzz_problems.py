"""Valid small artefacts, and the ways in which a file can be wrong."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from s3pet_viz.errors import BudgetError, S3PETError

#: Examples of every fuzz test instead of its own number (docs/bad_input.md).
COUNT = int(os.environ.get("S3PET_FUZZ", "0"))
#: What came of all examples of this session, by test: "accepted", or the name of the error.
OUTCOMES: dict[str, Counter[str]] = {}


def fuzz(examples: int) -> settings:
    """`examples` by default, always the same ones; S3PET_FUZZ=N draws N new ones."""
    return settings(
        max_examples=COUNT or examples, derandomize=not COUNT, deadline=None, database=None, print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )  # fmt: skip


def outcome(test: str, use: Callable[[], object], *, names: str = "") -> str:
    """Call `use`; only the package's own errors may come out, and their message holds `names`.

    A warning that numbers went wrong (RuntimeWarning) is an error here; those meant for the user are not.
    """
    found = "accepted"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            use()
    except S3PETError as error:
        found = type(error).__name__
        assert str(error).strip()  # noqa: PT017 - no error is fine too
        # What is wrong with a budget is the caller's.
        assert isinstance(error, BudgetError) or names in str(error), f"{type(error).__name__} does not name {names!r}: {error}"  # noqa: PT017
    OUTCOMES.setdefault(test, Counter())[found] += 1
    return found


# -- JSON --------------------------------------------------------------------------------------------------

_DEEP = "@deep@"
_TWICE = "@twice@"
LONG = "x" * 100_000

#: Values that a field never had in mind.
WRONG: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, -1e308,
    math.nan, math.inf, -math.inf, "", " ", "0", "nan", "x", LONG, "\0", "a\nb", "../../etc/passwd", "/etc/passwd",
    "C:\\x", "CON", "\ud800", "‮abc", "\x1b[31m", "<script>alert(1)</script>", "%s%n{0}", [], {}, [[]], [None], [1, 2], ["x"],
    {"x": 1}, {"": None}, [{}], _DEEP,
]  # fmt: skip


def _paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    if isinstance(value, dict):
        for key in value:
            yield from _paths(value[key], (*at, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 4)):  # the fifth is like the first
            yield from _paths(value[i], (*at, i))


@st.composite
def wrong_json(draw: st.DrawFn, good: Any, most: int = 2) -> str:
    """The text of `good` with one or two things wrong: a field gone, of another type, given twice, ..."""
    data = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, most))):
        places = list(_paths(data))
        if not places:
            break
        *way, last = draw(st.sampled_from(places))
        parent = data
        for key in way:
            parent = parent[key]
        how = draw(st.sampled_from(["wrong", "wrong", "wrong", "drop", "rename", "twice", "nest"]))
        if how == "drop":
            del parent[last]
        elif how == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from([str(last).upper(), "", LONG, "\0", "__class__", "\ud800"]))] = parent.pop(last)
        elif how == "twice" and isinstance(parent, dict):
            parent[f"{_TWICE}{last}"] = draw(st.sampled_from([1, "x", None, parent[last]]))
        elif how == "nest":
            parent[last] = [parent[last]] if draw(st.booleans()) else {"x": parent[last]}
        else:
            parent[last] = copy.deepcopy(draw(st.sampled_from(WRONG)))  # it may itself be changed
    if draw(st.integers(0, 19)) == 0:
        data = draw(st.sampled_from(WRONG))
    text = json.dumps(data).replace(_TWICE, "")
    depth = draw(st.sampled_from([3, 70, 900, 100_000])) if f'"{_DEEP}"' in text else 0
    return text.replace(f'"{_DEEP}"', "[" * depth + "]" * depth)


# -- bytes -------------------------------------------------------------------------------------------------


@st.composite
def wrong_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """Cut, flipped, doubled, zeroed, empty, of another encoding."""
    how = draw(st.sampled_from(["cut", "flip", "flip", "flip", "zero", "insert", "end", "empty", "encoding", "double", "noise"]))
    at = draw(st.integers(0, max(0, len(good) - 1)))
    if how == "cut":
        return good[:at]
    if how == "flip":
        changed = bytearray(good)
        for place in {at, *draw(st.lists(st.integers(0, max(0, len(good) - 1)), max_size=4))}:
            if changed:
                changed[place] ^= draw(st.integers(1, 255))
        return bytes(changed)
    if how == "zero":
        size = draw(st.integers(1, 64))
        return good[:at] + bytes(len(good[at : at + size])) + good[at + size :]
    if how == "insert":
        return good[:at] + draw(st.binary(min_size=1, max_size=16)) + good[at:]
    if how == "end":
        return good + draw(st.sampled_from([b"\0" * 8, b"\xff", b"{", b"\n\n", b"\r\n{}\n", good]))
    if how == "empty":
        return b""
    if how == "encoding":
        kind = draw(st.sampled_from(["utf-16", "utf-16-be", "utf-32", "utf-8-sig", "latin-1"]))
        return good.decode("utf-8", "replace").replace("�", "?").encode(kind, "replace")
    if how == "double":
        return good[:at] * 2 + good[at:]
    return draw(st.binary(max_size=200))


def put(path: Path, content: bytes | str | None) -> None:
    """Write a file; None puts a folder in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


#: In place of a file: nothing, a folder, a link that leads nowhere or to itself.
NO_FILE = ("gone", "folder", "dangling", "loop")


@contextlib.contextmanager
def changed(path: Path, content: bytes | str) -> Iterator[None]:
    """A file with other content (or one of `NO_FILE`) for the length of the block."""
    before = path.read_bytes()
    try:
        if content == "gone":
            path.unlink()
        elif content == "folder":
            put(path, None)
        elif content in ("dangling", "loop"):
            path.unlink()
            path.symlink_to(path if content == "loop" else path.with_name("nowhere"))
        else:
            put(path, content)
        yield
    finally:
        put(path, before)


def wrong_file(good: bytes, *, is_json: bool) -> st.SearchStrategy[bytes | str]:
    """Everything that can stand in place of a file."""
    kinds: list[st.SearchStrategy[bytes | str]] = [wrong_bytes(good), st.sampled_from(NO_FILE)]
    if is_json:
        kinds += [wrong_json(json.loads(good))] * 4
    return st.one_of(kinds)
