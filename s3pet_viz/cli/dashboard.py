"""``s3pet dashboard``."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from s3pet_viz.cli import _common as c
from s3pet_viz.errors import ConfigError, MissingExtraError

Folder = Annotated[Path, typer.Argument(help="A folder that holds run folders.")]
Control = Annotated[
    bool, typer.Option("--control", help="Runs may be changed, searches paused and stopped from there.")
]
Port = Annotated[int, typer.Option(help="Of the server.", min=0, max=65535)]
Ip = Annotated[str, typer.Option(help="Where the server listens; all who reach it and have the token see the runs.")]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")]
Theme = Annotated[str, typer.Option(help="light, dark or auto.")]

#: The page is a notebook of one cell, which nobody sees: the server shows what it draws.
_CELL = "from s3pet_viz.widgets import RunBrowser\nRunBrowser({folder!r}, control={control!r}, theme={theme!r})"


def dashboard(
    folder: Folder = Path("runs"),
    control: Control = False,
    port: Port = 8866,
    ip: Ip = "127.0.0.1",
    theme: Theme = "auto",
    no_browser: NoBrowser = False,
) -> None:
    """Serve the table of runs and the viewer in a browser, without a notebook; Ctrl-C ends it.

    Only this machine reaches it, with the token that is printed. It reads, unless --control is given.
    """
    from importlib.util import find_spec

    import nbformat

    from s3pet_viz.analysis.run_table import open_runs
    from s3pet_viz.config.checks import among

    among("theme", theme, ("auto", "light", "dark"))
    if find_spec("voila") is None:
        raise MissingExtraError(
            "s3pet dashboard needs Voilà, which is not installed: pip install 's3pet_viz[dashboard]'"
        )
    found = open_runs(folder, archived=True)
    token = secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory(prefix="s3pet-dashboard-") as place:
        cell = _CELL.format(folder=str(folder.absolute()), control=control, theme=theme)
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "s3pet runs", "language": "python"}
        nbformat.write(book, Path(place) / "runs.ipynb")
        # Its kernel takes messages of widgets alone, none that runs code. The list of processes shows no token.
        command = [
            *(sys.executable, "-m", "voila", "runs.ipynb", "--Voila.auto_token=True", "--Voila.log_level=ERROR"),
            *(f"--Voila.ip={ip}", f"--port={port}", "--Voila.port_retries=0", "--Voila.open_browser=False"),
            f"--theme={'dark' if theme == 'dark' else 'light'}",
        ]
        server = subprocess.Popen(command, cwd=place, env={**os.environ, "JUPYTER_TOKEN": token})
        try:
            address = f"http://{ip}:{port}/?token={token}"
            _wait(server, ip, port)
            c.say(f"{len(found)} runs of {folder}, {'may be changed' if control else 'read only'}: {address}")
            if not no_browser:
                typer.launch(address)
            server.wait()
        finally:
            server.terminate()
            server.wait()
    if server.returncode:
        raise ConfigError(f"dashboard: the server ended with code {server.returncode}")


def _wait(server: subprocess.Popen[bytes], ip: str, port: int) -> None:
    """Until it answers. Raises ConfigError: it has ended, as where another one holds the port."""
    import socket
    import time

    while server.poll() is None:
        try:
            socket.create_connection((ip if ip != "0.0.0.0" else "127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise ConfigError(
        f"dashboard: expected a free port, found that the server ended at once on {ip}:{port}; give --port"
    )
