"""Folders that are written as a whole, and where an adapter lies: in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from s3pet_viz.errors import AdapterError, ConfigError
from s3pet_viz.files import located
from s3pet_viz.hub import folder_of

STRUCTURE, WEIGHTS, META = "structure.json", "adapter.safetensors", "adapter.json"
#: The files of an adapter.
FILES = (STRUCTURE, WEIGHTS, META)


def check_free_folder(
    path: str | os.PathLike[str],
    overwrite: bool = False,
    *,
    advice: str = "give another one, or overwrite=True (--force)",
) -> Path:
    """Before long work: a folder that can be made, is empty, or may be written into. Raises ConfigError: a file is
    there, the folder holds something and `overwrite` is not given (it ends with `advice`), or it cannot be written.
    """
    try:
        target = located(path).resolve()
        there, held = target.exists(), target.is_dir() and any(target.iterdir())
        standing = next(p for p in (target, *target.parents) if p.exists())
    except (OSError, ValueError, RuntimeError) as error:  # no permission; a null byte; a loop of links
        raise ConfigError(f"{path}: cannot be used as a folder ({error})") from None
    if there and not target.is_dir():
        raise ConfigError(f"{path}: expected a folder, found a file")
    if held and not overwrite:
        raise ConfigError(f"{path}: the folder is not empty; {advice}")
    if not standing.is_dir() or not os.access(standing, os.W_OK):
        raise ConfigError(f"{path}: {standing} is not a folder that can be written")
    return target


@contextmanager
def staged_folder(path: str | os.PathLike[str], *, overwrite: bool = False, own: Sequence[str] = ()) -> Iterator[Path]:
    """A temporary folder whose files take their place when the block ends well; it vanishes otherwise.

    A new folder appears as a whole. In one that is there, each new file replaces its old one as a whole, and other
    files stay; but those that match `own` (weights of an earlier export, which a reader might prefer) go. Raises
    ConfigError: as `check_free_folder`, or the files cannot be written.
    """
    target = check_free_folder(path, overwrite)
    name = f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    # A rename is atomic only within a file system, and a folder that is there may be one of its own.
    standing = target.is_dir()
    staged = target / name if standing else target.with_name(name)
    try:
        staged.mkdir(parents=True)
        yield staged
        for file in staged.rglob("*"):
            if file.is_file():
                with file.open("rb+") as f:
                    os.fsync(f.fileno())
        if standing:
            _replace_files(staged, target, own)
        else:
            check_free_folder(path, overwrite)  # it may have been filled meanwhile
            staged.rename(target)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _replace_files(staged: Path, target: Path, own: Sequence[str]) -> None:
    new = sorted(p.relative_to(staged) for p in staged.rglob("*") if p.is_file())
    # Weights first: what describes them comes when they are there.
    for name in sorted(new, key=lambda n: n.suffix == ".json"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).replace(target / name)
    for pattern in own:
        for old in target.glob(pattern):
            if old.is_file() and old.relative_to(target) not in new:
                old.unlink()


def find_adapter(name: str | os.PathLike[str], *, revision: str | None = None, **hub: Any) -> Path:
    """The local folder of an adapter; see `hub.folder_of`.

    Raises:
        AdapterError: neither a folder nor a repository that can be reached and holds the three files.
        ConfigError: a revision for a folder.
    """
    return folder_of(name, FILES, AdapterError, "an adapter", revision=revision, **hub)
