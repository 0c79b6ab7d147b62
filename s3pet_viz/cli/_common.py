"""What the commands share: options, errors as one line, where output goes."""

from __future__ import annotations

import functools
import inspect
import json
import os
import shlex
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from s3pet_viz.config import SearchConfig, TuneConfig
from s3pet_viz.config.names import DEFAULT_BACKBONE
from s3pet_viz.config.options import Option, options_of
from s3pet_viz.config.scoring import ScoreConfig
from s3pet_viz.config.search import LOADING
from s3pet_viz.errors import ConfigError, S3PETError, printable
from s3pet_viz.files import check_ending, expanded, is_folder, is_there, json_ready, read_json, write_text_atomic

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def option(text: str, **options: Any) -> Any:
    """An option that is None where it was not given, so that the package's own default holds."""
    return typer.Option(help=text, show_default=False, **options)


_SEARCH, _TUNE, _SCORE = options_of(SearchConfig), options_of(TuneConfig), options_of(ScoreConfig)
TASK_HELP, BACKBONE_HELP, BUDGET_HELP, FAMILY_HELP = (
    _SEARCH[name].help for name in ("task", "backbone", "budget", "family")
)
SEARCH_FIELDS, TUNE_FIELDS, SCORE_FIELDS = tuple(_SEARCH), tuple(_TUNE), tuple(_SCORE)
#: Of the fields of `SearchConfig`, those that every training takes too.
LOADED = (*LOADING, "device", "precision")


def kind_of(one: Option, text: str = "") -> Any:
    """The annotation of an option made from a field; it is None where it was not given."""
    kind: Any = one.kind if one.check is None else str
    more: dict[str, Any] = {"min": one.least} if kind is int else {}
    names = [f"--{one.name.replace('_', '-')}"]
    if kind is bool:
        names[0] += f"/--no-{names[0][2:]}"
    return Annotated[kind | None, typer.Option(*names, help=text or one.text, show_default=False, **more)]


Task = kind_of(_SEARCH["task"])
Backbone = kind_of(_SEARCH["backbone"], f"{BACKBONE_HELP} [default: {DEFAULT_BACKBONE}]")
Space, Device, Precision = (kind_of(_SEARCH[name]) for name in ("space", "device", "precision"))
Split, MaxRows = kind_of(_SEARCH["split"]), kind_of(_SEARCH["max_rows"])
Lr, BatchSize = kind_of(_TUNE["lr"]), kind_of(_TUNE["batch_size"])
Threads = Annotated[int | None, option("CPU threads. [default: all cores]", min=1)]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
ViewState = Annotated[
    Path | None, option("A file with the state of a view (its copy menu, view.share()): the page opens with it.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]
_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def takes_fields(
    *, search: Iterable[str] = (), tune: Iterable[str] = (), score: Iterable[str] = ()
) -> Callable[[F], F]:
    """Give a command that takes ``**options`` an option for each of these fields, before its own."""
    asked = ((_TUNE, tune), (_SCORE, score), (_SEARCH, search))
    found = {name: fields[name] for fields, names in asked for name in names}

    def made(function: F) -> F:
        signature = inspect.signature(function, eval_str=True)
        own = {name: one for name, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD}
        where = inspect.Parameter.POSITIONAL_OR_KEYWORD
        more = [
            own.pop(name, inspect.Parameter(name, where, default=None, annotation=kind_of(one)))
            for name, one in found.items()
        ]
        needed = [one for one in own.values() if one.default is one.empty]
        rest = [one for one in own.values() if one.default is not one.empty]
        function.__signature__ = signature.replace(parameters=[*needed, *more, *rest])  # type: ignore[attr-defined]
        return function

    return made


def takes_options_of(shared: Callable[..., Any]) -> Callable[[F], F]:
    """Give a command that takes ``**options`` those of a function or a dataclass, after its own."""

    def made(command: F) -> F:
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        more = inspect.signature(shared, eval_str=True).parameters.values()
        command.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return command

    return made


def split_load(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that were given, and apart those that a training takes as ``load``."""
    known = given(**options)
    load = {name: known.pop(name) for name in LOADING if name in known and name != "split"}
    return known, load


def command(function: Callable[..., T]) -> Callable[..., T]:
    """Give a command ``--debug``, errors as one line with exit code 2, and a clean end on Ctrl-C (130)."""

    @functools.wraps(function)
    def wrapper(*args: Any, debug: bool = False, **options: Any) -> T:
        try:
            with _short_warnings():
                # A shell leaves the ~ of --out=~/run alone.
                places = {k: expanded(v) if isinstance(v, Path) else v for k, v in options.items()}
                return function(*args, **places)
        except S3PETError as error:
            if debug:
                raise
            from s3pet_viz.runs.process import LAUNCHED

            # A launcher reads this line from the log, to raise the same error again.
            kind = f"[{type(error).__name__} {os.getpid()}] " if os.environ.get(LAUNCHED) else ""
            complain("error", f"{kind}{error}")
            raise typer.Exit(2) from None
        except KeyboardInterrupt as error:
            # A command that can be continued has said so already.
            if not getattr(error, "explained", False):
                complain("interrupted", "nothing more was done")
            raise typer.Exit(130) from None

    signature = inspect.signature(function, eval_str=True)
    extra = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Debug)
    wrapper.__signature__ = signature.replace(parameters=[*signature.parameters.values(), extra])  # type: ignore[attr-defined]
    return wrapper


def complain(kind: str, message: object) -> None:
    """One line on stderr."""
    typer.echo(f"{kind}: {printable(' '.join(str(message).splitlines()))}", err=True)


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Warnings meant for the user as one line each, without the source line that raised them."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if category is UserWarning:
                complain("warning", message)
            else:
                usual(message, category, *rest, **more)

        warnings.showwarning = show
        yield


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def console() -> Console:
    """Stdout. Its width is that of the terminal; names from files are never read as markup."""
    from rich.console import Console

    return Console(markup=False, highlight=False)


def say(*what: RenderableType) -> None:
    """Print each on lines of its own. Text is not wrapped, so that a path can be copied."""
    out = console()
    for part in what:
        out.print(part, soft_wrap=isinstance(part, str))


def check_free(*paths: Path | None, ending: str = "", force: bool = False) -> None:
    """Before long work: refuse to replace a file unasked, and a name of another form than what will be written.

    Raises:
        ConfigError: a file exists, is a folder, or cannot be written.
        FileError: a name ends as those of another form than `ending` do.
    """
    for path in paths:
        if path is None:
            continue
        if is_folder(path):
            raise ConfigError(f"{path}: expected a file name, found a folder")
        if ending:
            check_ending(path, ending)
        if is_there(path) and not force:
            raise ConfigError(f"{path}: exists already; give another name or --force")
        folder = next(p for p in path.absolute().parents if is_there(p))
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ConfigError(f"{path}: {folder} is not a folder that can be written")


def save_text(path: Path, text: str, force: bool = False) -> None:
    """Write a file as a whole.

    Raises:
        ConfigError: as `check_free`, or it cannot be written.
    """
    check_free(path, force=force)
    try:
        write_text_atomic(path, text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None


def save_json(path: Path, data: Any, force: bool = False) -> None:
    """`save_text` of a value as JSON."""
    save_text(path, json.dumps(json_ready(data), indent=1) + "\n", force)


def view_state(path: Path | None) -> Any:
    """What a file of ``--state`` holds; None where none was given. Raises ConfigError: no file, or no JSON."""
    return None if path is None else read_json(path, ConfigError)


def words(text: str) -> list[str]:
    """What is separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def quoted(path: str | Path) -> str:
    """A path as one can type it."""
    return printable(shlex.quote(str(path)))
