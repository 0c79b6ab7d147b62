"""What people write on a run: a name, a note, tags, and that it is put away. It lies beside what the search wrote."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s3pet_viz import files
from s3pet_viz.config.checks import short
from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.resources import find_resource
from s3pet_viz.runs import layout
from s3pet_viz.runs.lock import LockHeldError, WriterLock
from s3pet_viz.runs.status import ENDED, RunStatus

KIND = "s3pet_viz.marks"
_MOST = 4096  # characters of a note


@dataclass(frozen=True)
class Marks:
    """What is written on a run.

    Attributes:
        name: in place of the search's own; empty: that. note: any text. tags: words, in order, each once.
        archived: left out of lists unless they ask for it.

    Raises:
        ConfigError: a value of another kind, or longer than can be shown.
    """

    name: str = ""
    note: str = ""
    tags: tuple[str, ...] = ()
    archived: bool = False

    def __post_init__(self) -> None:
        for field, most in (("name", 120), ("note", _MOST)):
            value = getattr(self, field)
            if not isinstance(value, str) or len(value) > most:
                raise ConfigError(f"{field}: expected a text of at most {most:,} characters, found {short(value)}")
        words = () if isinstance(self.tags, str) or not isinstance(self.tags, Sequence) else tuple(self.tags)
        bad = [tag for tag in words if not isinstance(tag, str) or not tag.strip() or "," in tag or len(tag) > 60]
        if bad or len(words) > 60 or (self.tags and not words):
            raise ConfigError(f"tags: expected words without a comma, found {short(bad[0] if bad else self.tags)}")
        if not isinstance(self.archived, bool):
            raise ConfigError(f"archived: expected True or False, found {short(self.archived)}")
        object.__setattr__(self, "tags", tuple(dict.fromkeys(tag.strip() for tag in words)))


def read_marks(run: Path) -> Marks:
    """What is written on a run; nothing, where nobody wrote.

    Raises:
        RunError: marks.json is damaged or foreign; names the field.
    """
    path = run / layout.MARKS
    if not os.path.lexists(path):
        return Marks()
    data = files.check_kind(layout.read_json(path), KIND, layout.SCHEMA_VERSION, RunError, path)
    known = {name: data[name] for name in Marks.__dataclass_fields__ if name in data}
    try:
        return Marks(**known)
    except ConfigError as error:
        raise RunError(f"{path}: field {error}") from None


def write_marks(run: Path, **changes: Any) -> Marks:
    """Change some of what is written on a run, also of one that a search writes.

    Raises:
        ConfigError: as `Marks`. RunError: no run there, its marks are damaged, or it cannot be written.
    """
    _check(run)
    made = Marks(**{**asdict(read_marks(run)), **changes})
    path = run / layout.MARKS
    try:
        about = {"kind": KIND, "schema_version": layout.SCHEMA_VERSION}
        files.write_json_atomic(path, {**about, **asdict(made)}, parents=False)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from None
    return made


def delete_run(run: Path) -> None:
    """Take a run off the disk, as a whole: it is out of sight before the first file goes.

    Raises:
        RunError: a process holds it, no run is there, or the folder cannot be changed; nothing is deleted then.
    """
    _check(run)
    if run.is_symlink():
        raise RunError(f"{run}: is a link; delete what it points to, {run.resolve()}")
    if (status := RunStatus(run).status) not in ENDED:
        raise RunError(f"{run}: expected a run that no process writes, found one that is {status}; stop it first")
    gone = run.with_name(f".{run.name}.{secrets.token_hex(4)}.deleted")
    try:
        lock = WriterLock(run / layout.LOCK)
    except LockHeldError as error:
        raise RunError(f"{run}: expected a run that no process holds: {error}") from None
    try:
        run.rename(gone)
    except OSError as error:
        raise RunError(f"{run}: cannot be deleted ({error.strerror})") from None
    finally:
        lock.release()
    shutil.rmtree(gone, ignore_errors=True)


def _check(run: Path) -> None:
    layout.read_run_json(run)
    layout.check_entries(run)
    own = find_resource("runs", run.name)
    if own is not None and own.resolve() == run.resolve():
        raise RunError(f"{run}: came with the package and stays as it is; copy it, and change the copy")
