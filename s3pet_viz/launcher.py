"""`launch`: a search in a process of its own, so that the cell returns at once and nothing here imports torch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from s3pet_viz import errors
from s3pet_viz.config import SearchConfig
from s3pet_viz.config.names import DEFAULT_BACKBONE
from s3pet_viz.config.options import options_of, takes
from s3pet_viz.config.search import named_mode
from s3pet_viz.config.typed import SearchOptions
from s3pet_viz.errors import ConfigError, FileError, RunError, S3PETError, printable
from s3pet_viz.files import is_there, located, open_plain
from s3pet_viz.runs import Run, layout, open_run
from s3pet_viz.runs.lock import is_holder, lock_is_held, process_mark, same_file, shared, taken_alone, wrote
from s3pet_viz.runs.naming import new_folder
from s3pet_viz.runs.place import refuse_occupied
from s3pet_viz.runs.process import log_tail, spawn
from s3pet_viz.runs.status import said_status
from s3pet_viz.sources import RUN, open_source

#: The options of a search, all of which are flags of ``s3pet search``, as are some more.
_OPTIONS = options_of(SearchConfig)
_FLAGS = {*_OPTIONS, "out", "track", "threads"}


class Launched:
    """A search that has been started, from its first moment on: before there is a run, and after.

    Attributes:
        path: the run directory that it makes.
        child: its process.
    """

    def __init__(self, path: Path, child: subprocess.Popen[bytes], *, own_folder: bool) -> None:
        self.path = located(path)
        self.child = child
        self._own_folder = own_folder
        self._mark = process_mark(child.pid)
        # Held until it has been read: another launch that fails must not take it away with the folder.
        self._log = _hold(self, self.path / layout.LOG)
        self._run: Run | None = None
        self._error: S3PETError | None = None

    @property
    def run(self) -> Run | None:
        """The run, once the search has loaded everything and made its directory."""
        if self._run is None and (self.path / layout.RUN_JSON).exists():
            run = open_run(self.path)
            # A run that is resumed exists already; it is this one's when its process says so.
            if wrote(run.info, self.child.pid, self._mark):
                self._run = run
                self._let_go()
        return self._run

    @property
    def error(self) -> S3PETError | None:
        """Why the search ended before it began; None while it may still begin, and once it has."""
        if self._error is None and self.child.poll() is not None and self.run is None:
            self._error = _error_of(self.path / layout.LOG, self.child.pid)
            self._let_go()
            if self._own_folder:
                _give_back(self.path, self.child.pid)
        return self._error

    def _let_go(self) -> None:
        if self._log is not None:
            self._log()

    def wait(self, timeout: float = 600) -> Run:
        """The run, as soon as there is one.

        Raises:
            S3PETError: what the search itself says is wrong.
            TimeoutError: neither by then.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.run is not None:
                return self.run
            if self.error is not None:
                raise self.error
            time.sleep(0.05)
        said = f"{self.path}: the search has not begun after {timeout:g} s; see {layout.LOG} there"
        raise TimeoutError(printable(said))

    def __repr__(self) -> str:
        state = "begun" if self.run is not None else "failed" if self.error is not None else "starting"
        return f"Launched({str(self.path)!r}, {state})"


@takes(SearchConfig)
def launch(
    *,
    task: str | os.PathLike[str] | None = None,
    backbone: str | os.PathLike[str] = DEFAULT_BACKBONE,
    budget: str | float | None = None,
    space: Any = None,
    out: str | os.PathLike[str] | None = None,
    load: Mapping[str, Any] | None = None,
    track: Any = None,
    threads: int | None = None,
    **options: Unpack[SearchOptions],
) -> Run:
    """Search in a process of its own; returns when its run directory is there (the backbone and the data are loaded).

    The search outlives this kernel. Follow it with ``s3.watch(run)``, or from anywhere with ``s3.open_run(path)``;
    ask it with ``run.pause()``, ``run.resume()``, ``run.stop()``, wait for it with ``run.wait()``.

    Args:
        task, backbone, budget, space, out, load, track: as of `search`.
        threads: of the CPU.
        options: fields of `SearchConfig`. What is in memory cannot travel: names, folders and mappings only.

    Raises:
        ConfigError: an option that cannot travel, or that `SearchConfig` refuses.
        S3PETError: what the search itself refuses, in its own words; nothing is left behind.
    """
    own = {"task": task, "backbone": backbone, "budget": budget, "space": space}
    return start(**own, out=out, load=load, track=track, threads=threads, **options).wait()


def start(**options: Any) -> Launched:
    """As `launch`, but without waiting for the run directory: for callers that must not block.

    Raises:
        ConfigError: as `launch`; what the search itself refuses is in `Launched.error`.
        RunError: the run directory cannot be made, or holds something else.
    """
    given = _given(options)
    for name in ("task", "budget"):
        if name not in given:
            raise ConfigError(f"{name}: expected a value, found none")
    given.setdefault("backbone", DEFAULT_BACKBONE)
    arguments = _arguments(given)
    _check(given)
    out = given.get("out")
    if out is None:
        seed, mode = given.get("seed", 0), named_mode(given.get("mode", "auto"), given.get("save"))
        path = new_folder(str(given["task"]), str(given["backbone"]), given["budget"], mode, seed)
        arguments += ["--out", str(path)]
        own = True
    else:
        path = located(out)
        arguments[arguments.index("--out") + 1] = str(path)
        if is_there(path / layout.RUN_JSON):
            raise RunError(f"{path}: already holds a run; continue it with resume, or use another out")
        own = _make(path)
    return Launched(path, spawn(["search", *arguments, "--quiet"], path / layout.LOG), own_folder=own)


def relaunch(run: str | os.PathLike[str] | Run, *, threads: int | None = None, **options: Any) -> Run:
    """Continue a stopped, failed or dead search in a process of its own; returns when it has taken over.

    Args:
        options: ``task`` and ``backbone``, where they lie in a new place (see `search`).

    Raises:
        ConfigError: any other option: a resumed search keeps its own.
        RunError: it is running, finished, or no run.
        S3PETError: what the search itself refuses.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in layout.MAY_MOVE:
            raise ConfigError(f"resume: a resumed search keeps its own options; {name!r} cannot be given")
    found: Run = open_source(run, allow=RUN, what="resume")
    if not found.ended or found.status == "finished":
        status = said_status(found.status, found.early_stop)
        raise RunError(f"{found.path}: the search is {status}; expected a stopped, failed or dead one")
    more = _arguments(given | ({} if threads is None else {"threads": threads}))
    child = spawn(["search", "--resume", str(found.path), "--quiet", *more], found.path / layout.LOG)
    return Launched(found.path, child, own_folder=False).wait()


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say something: None does where it is not the default."""
    says = {name for name, one in _OPTIONS.items() if one.optional and one.default is not None}
    return {name: value for name, value in options.items() if value is not None or name in says}


def _check(given: Mapping[str, Any]) -> None:
    """Refuse here what the search would refuse in its process, as far as it is known without the backbone."""
    plain = {name: value for name, value in given.items() if name not in ("out", "load", "track", "threads")}
    for name, value in plain.items():
        if name == "start_from" and isinstance(value, Run):
            plain[name] = str(value.path)
        elif isinstance(value, os.PathLike):
            plain[name] = os.fspath(value)
    with warnings.catch_warnings(action="ignore"):  # the search warns
        SearchConfig.from_dict(plain)


def _arguments(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line.

    Raises:
        ConfigError: a value that cannot be written down.
    """
    arguments: list[str] = []
    for name, value in options.items():
        if name == "start_from" and isinstance(value, Run):
            value = value.path
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        flag = "--" + name.replace("_", "-")
        if name in _FLAGS and isinstance(value, (str, int, float)) and not isinstance(value, bool):
            arguments += [flag, str(value)]
            continue
        try:
            arguments += ["--set", f"{name}={json.dumps(value, allow_nan=False)}"]
        except (TypeError, ValueError):
            raise ConfigError(
                f"{name}: a search in its own process takes names, folders, numbers and mappings, "
                f"found {type(value).__name__}; use s3.search for what is in memory"
            ) from None
    return arguments


def _hold(launched: Launched, log: Path) -> weakref.finalize[[int], Launched] | None:
    """Hold a log together with others, for as long as `launched` is there or until what comes back is called."""
    try:
        fd = open_plain(log, links=False)
    except FileError:
        return None
    shared(fd)
    return weakref.finalize(launched, os.close, fd)


def _make(path: Path) -> bool:
    """Make a run directory where there is none; whether it was made here, and by nobody else.

    Raises:
        RunError: it cannot be made, or there is something else than an empty folder.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except FileExistsError:
        refuse_occupied(path)
        return False
    except OSError as error:
        raise RunError(f"{path}: cannot make the run directory ({error.strerror})") from None
    except ValueError as error:  # a null byte
        raise RunError(f"{str(path)!r}: cannot make the run directory ({error})") from None
    return True


def _give_back(folder: Path, pid: int) -> None:
    """Remove what a launch that failed has made: its folder, its log, and what its process (`pid`) left there. Nothing
    goes where a run is, or where anybody else has put something or is about to.
    """
    log, lock = folder / layout.LOG, folder / layout.LOCK
    for _ in range(20):
        try:
            fd = open_plain(log, links=False)
        except FileError:
            return
        try:
            # Every search that was launched into this folder holds the log for as long as it lives.
            if taken_alone(fd) and same_file(fd, log):
                left = {entry.name for entry in folder.iterdir()} - {layout.LOG}
                if left and (lock_is_held(lock) or not is_holder(lock, pid)):
                    return
                if left <= {layout.LOCK, layout.GATES}:
                    for name in (*left, layout.LOG):
                        (folder / name).unlink(missing_ok=True)
                    folder.rmdir()
                return
        except (OSError, RunError):
            return
        finally:
            os.close(fd)
        time.sleep(0.05)


def _error_of(log: Path, pid: int) -> S3PETError:
    """What the search of this process said last, as the kind of error that it was."""
    found = re.findall(rf"^error: \[(\w+) {pid}\] (.*)$", log_tail(log, all_of=True), flags=re.MULTILINE)
    if not found:
        return RunError(f"the search ended before it began:\n{log_tail(log) or '(it said nothing)'}")
    kind, message = found[-1]
    made = getattr(errors, kind, RunError)
    error: S3PETError = made(message)
    return error
