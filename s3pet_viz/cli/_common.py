"""What the commands share: options, errors as one line, where output goes."""

from __future__ import annotations

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from s3pet_viz.errors import ConfigError, S3PETError, printable
from s3pet_viz.files import expanded, is_folder, is_there, write_text_atomic
from s3pet_viz.resources import list_resources

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


DEFAULT_BACKBONE = "tiny-t5"

T = TypeVar("T")
_TASKS = ", ".join(list_resources("tasks")) or "none"


def option(text: str, **options: Any) -> Any:
    """An option that is None where it was not given, so that the package's own default holds."""
    return typer.Option(help=text, show_default=False, **options)


TASK_HELP = f"A task: {_TASKS} (embedded), glue/rte, super_glue/cb, ..., or a folder with train and validation .jsonl."
BACKBONE_HELP = f"{DEFAULT_BACKBONE} (embedded), minilm (extra), a folder, or a Hugging Face name."

Task = Annotated[str | None, option(TASK_HELP)]
Backbone = Annotated[str | None, option(f"{BACKBONE_HELP} [default: {DEFAULT_BACKBONE}]")]
Budget = Annotated[str | None, option("0.1% or 1e-3 (share of the backbone), or 8404 (parameters).")]
Space = Annotated[
    str | None, option("S3PET-M, S3PET-L (+cross adds cross-attention), or a YAML / JSON file. [default: S3PET-M]")
]
Steps = Annotated[int | None, option("Training steps.", min=1)]
Seed = Annotated[int | None, option("[default: 0]", min=0)]
Device = Annotated[str | None, option("auto, cpu, cuda, cuda:1, mps. [default: auto]")]
Precision = Annotated[str | None, option("fp32 or bf16. [default: fp32]")]
Lr = Annotated[float | None, option("Learning rate of the PET weights.")]
HeadLr = Annotated[float | None, option("Learning rate of an encoder's head. [default: as --lr]")]
BatchSize = Annotated[int | None, option("[default: 32]", min=1)]
Split = Annotated[str | None, option("paper or holdout: how train, validation and test are made. [default: paper]")]
MaxRows = Annotated[int | None, option("Use at most so many rows of each split.", min=1)]
Revision = Annotated[str | None, option("Branch, tag or commit of a Hugging Face backbone.")]
TaskRevision = Annotated[str | None, option("Branch, tag or commit of a Hugging Face task.")]
Threads = Annotated[int | None, option("CPU threads. [default: all cores]", min=1)]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]
_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


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


def check_free(path: Path | None, force: bool = False) -> None:
    """Before long work: refuse to replace a file unasked.

    Raises:
        ConfigError: the file exists, or is a folder.
    """
    if path is None:
        return
    if is_folder(path):
        raise ConfigError(f"{path}: expected a file name, found a folder")
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
    check_free(path, force)
    try:
        write_text_atomic(path, text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None
