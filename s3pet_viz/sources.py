"""The one opener: what a function or a command may be given where it needs a run, a structure or final alphas."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from s3pet_viz.config.checks import short
from s3pet_viz.config.names import A_RUN
from s3pet_viz.errors import ConfigError, RunError, SourceError, StructureError
from s3pet_viz.files import expanded, is_folder, is_there, parse_json, read_text
from s3pet_viz.resources import find_resource
from s3pet_viz.runs import Run, open_run
from s3pet_viz.runs.layout import RUN_JSON
from s3pet_viz.runs.reader import Budget
from s3pet_viz.structure import FinalAlphas, Structure, from_s3delta, read_final_alphas
from s3pet_viz.structure.published import is_s3delta
from s3pet_viz.structure.t5 import shape_of

RunLike = Run | str | os.PathLike[str]
Opened = Run | Structure | FinalAlphas
#: A run, its folder, its run.json or a recorded run's name; a structure or its file (ours, or S3Delta's JSON); final
#: alphas or their file.
Source = Opened | str | os.PathLike[str]
#: One of them, or several.
Sources = Source | Iterable[Source]

#: What a function takes.
ANY, RUN = (Run, Structure, FinalAlphas), (Run,)
A_SOURCE = "a run, a structure, or the path of one"
_WORDS = {Run: "a run", Structure: "a structure", FinalAlphas: "final alphas"}
#: What a folder is that holds no run, by a file in it.
_FOLDERS = {"adapter.json": "a trained adapter", "study.json": "a study"}


def open_source(
    source: Any,
    *,
    allow: tuple[type, ...] = ANY,
    what: str = "source",
    wanted: str = "",
    hint: str = "",
    backbone: Any = None,
) -> Any:
    """Open whatever names a run, a structure or final alphas; one that is open is returned as it is.

    A folder or a file that is there wins over a recorded run's name.

    Args:
        allow: `ANY`, `RUN`, or a class of the caller's own.
        what: the argument, for messages. wanted: what may stand there, in words. hint: the end of the message.
        backbone: the name of the T5 that a file of S3Delta is for, where known: it tells positions and sizes.

    Raises:
        SourceError: nothing of these, or of a kind that is not allowed.
        RunError: nothing is there, or a run is damaged. StructureError: a file is damaged or foreign.
    """
    named = isinstance(source, (str, os.PathLike)) and isinstance(os.fspath(source), str) and os.fspath(source)
    opened = _open(os.fspath(source), allow == ANY, backbone) if named else source
    if isinstance(opened, allow):
        return opened
    found: Any = next((word for kind, word in _WORDS.items() if isinstance(opened, kind)), None)
    found = found or (opened if named else short(source))
    wanted = wanted or (A_RUN if allow == RUN else A_SOURCE)
    raise SourceError(f"{named or what}: expected {wanted}, found {found}{hint}")


def open_sources(sources: Any, *, allow: tuple[type, ...] = ANY, what: str = "sources") -> list[Any]:
    """`open_source` of one or several.

    Raises:
        ConfigError: none at all; else as `open_source`.
    """
    single = isinstance(sources, (*ANY, str, bytes, os.PathLike)) or not isinstance(sources, Iterable)
    opened = [open_source(one, allow=allow, what=what) for one in ([sources] if single else sources)]
    if not opened:
        raise ConfigError(f"{what}: expected at least one {'run' if allow == RUN else 'run or structure'}, found none")
    return opened


def structure_of(source: Opened, budget: Budget | None = None) -> Structure:
    """The structure that a source is, or chose, or would choose at another budget.

    Raises:
        ConfigError: another budget of a structure. RunError, BudgetError, StructureError: as `Run.structure`.
    """
    if not isinstance(source, Structure):
        return source.structure(budget)
    if budget is not None:
        raise ConfigError("budget: only a run can be solved again at another budget, for it keeps its alpha")
    return source


def names_source(text: str | os.PathLike[str]) -> bool:
    """Whether a path or a name is a run's, or a file's: where a task's or a backbone's may stand as well."""
    if is_there(text):
        return not is_folder(text) or os.path.lexists(expanded(text) / RUN_JSON)
    return find_resource("runs", os.fspath(text)) is not None


def is_recorded(run: Run) -> bool:
    """Whether a run came with the package; nothing is added to such a one."""
    own = find_resource("runs", run.path.name)
    return own is not None and own.resolve() == run.path.resolve()


def _open(name: str, files: bool, backbone: Any) -> Opened | str:
    """What a path or a name stands for; where that is none of ours, what was found there, in words."""
    path = expanded(name)
    if is_folder(path):
        if os.path.lexists(path / RUN_JSON):
            return open_run(path)
        return next((word for file, word in _FOLDERS.items() if is_there(path / file)), f"a folder without {RUN_JSON}")
    if path.name == RUN_JSON and is_there(path):
        return open_run(path.parent)
    if is_there(path):
        try:
            return _read(path, backbone)
        except StructureError:
            if files:
                raise
            return "a file"
    if recorded := find_resource("runs", name):
        return open_run(recorded)
    places = "a run folder or a structure file" if files else "a run folder or a recorded run's name"
    raise RunError(f"{name}: no such run directory: expected {places}, found neither")


def _read(path: Path, backbone: Any) -> Structure | FinalAlphas:
    """A file, by its content: a rule of = begins final alphas, all else is JSON."""
    text = read_text(path, StructureError)
    known = backbone if isinstance(backbone, str) and shape_of(backbone) is not None else None
    if text.lstrip()[:1] == "=" or path.suffix.lower() == ".txt":
        return read_final_alphas(path, known)
    try:
        foreign = is_s3delta(parse_json(text))
    except ValueError:
        foreign = False  # `load` says what is damaged
    return from_s3delta(path, backbone=known) if foreign else Structure.load(path)
