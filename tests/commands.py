"""The commands of s3pet in this process, as a terminal calls them."""

from __future__ import annotations

from typer.testing import CliRunner

from s3pet_viz.cli import app


def call(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exit_code != code and result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: object) -> str:
    """The one line that a wrong input gets."""
    result = call(*arguments, code=2)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line
