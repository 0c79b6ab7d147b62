"""The errors a user can meet: each message names what was expected and what was found. And how to say them safely."""

from __future__ import annotations


class S3PETError(Exception):
    """Base of every error that this package raises on purpose. Its text may quote a stranger's file or the name of a
    folder, so control characters in it are escaped (`printable`).
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class FileError(S3PETError, OSError):
    """A file or folder cannot be read or written, or something else is in its place. `errno`, `strerror` and `filename`
    are those of an OSError.
    """

    def __str__(self) -> str:
        return super().__str__() if self.filename is None else printable(f"{self.filename}: {self.strerror}")


class ConfigError(S3PETError, ValueError):
    """An option has a value that cannot be used."""


class BudgetError(S3PETError, ValueError):
    """A parameter budget that cannot be parsed or cannot be met."""


class StructureError(S3PETError, ValueError):
    """A structure file, or its match with a backbone, is wrong."""


class SpaceError(S3PETError, ValueError):
    """A search space names positions or PET types that do not exist."""


class BackboneError(S3PETError, ValueError):
    """A backbone cannot be found or loaded, or cannot do the task."""


class TaskError(S3PETError, ValueError):
    """A task, its files, columns or labels are wrong."""


class RunError(S3PETError, ValueError):
    """A run directory is missing, foreign, busy or damaged."""


class SourceError(ConfigError, RunError, TypeError):
    """Something else than the run, the structure or the file that was expected."""


class StudyError(S3PETError, ValueError):
    """A study folder is missing, foreign, busy, damaged, or of another plan."""


class AdapterError(S3PETError, ValueError):
    """An adapter folder is missing, foreign, damaged, or for another backbone."""


class ExportError(S3PETError, ValueError):
    """A structure or an adapter that the form asked for cannot hold, or whose export computes something else."""


class NonFiniteLossError(S3PETError, ArithmeticError):
    """A loss became NaN or infinite."""


class MissingExtraError(S3PETError, ImportError):
    """An optional dependency is needed; the message says what to install."""


def printable(text: object) -> str:
    """Text that may quote a stranger's file, as a terminal may show it: no escape sequence gets through, and what was
    there can still be read (``\\x1b``).
    """
    said = str(text)
    if said.isprintable():
        return said
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in said)


def short(value: object) -> str:
    """A value that was found, for a message: at most 60 characters of its repr."""
    try:
        shown = repr(value)
    except ValueError:  # a whole number of more than 4,300 digits
        shown = f"a number of {value.bit_length():,} bits" if isinstance(value, int) else type(value).__name__
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
