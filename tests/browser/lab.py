"""JupyterLab on a folder, and a headless Chromium that looks at it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

#: As this is run as root in CI; the rest keeps Chromium from calling home.
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
#: What JupyterLab itself says in a folder without settings of its own.
HARMLESS = ("favicon", "workspaces", "Failed to load resource: the server responded with a status of 404")


@contextmanager
def jupyterlab(root: Path) -> Iterator[str]:
    """The address of a server's page for a file of `root`, to be completed with the file's name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    home = root / ".jupyter"
    quiet = home / "config/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    folders = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    with (root / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
                "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}",
            ],
            cwd=root, env={**os.environ, **folders, "IPYTHONDIR": str(home / "ipython")}, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.25)
            yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}&reset"
        finally:
            server.terminate()
            server.wait(20)


@contextmanager
def page_of(executable: str, width: int = 1300, height: int = 1500) -> Iterator[tuple[Page, list[str]]]:
    """A page, and the errors that its console shows."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        try:
            page = chromium.new_context(viewport={"width": width, "height": height}).new_page()
            errors: list[str] = []
            page.on("console", lambda m: errors.append(m.text) if m.type == "error" and not harmless(m.text) else None)
            page.on("pageerror", lambda e: errors.append(f"page error: {e}"))
            page.on("dialog", lambda d: (errors.append(f"dialog: {d.message}"), d.dismiss()))
            yield page, errors
        finally:
            chromium.close()


def harmless(text: str) -> bool:
    return any(part in text for part in HARMLESS)


def open_notebook(page: Page, address: str, name: str) -> None:
    page.goto(address.format(name))
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=90_000)
    page.keyboard.press("Control+b")  # the side bar takes width from the notebook
    # Before the kernel has answered, Shift+Enter is lost.
    page.locator(".jp-StatusBar-Widget", has_text="| Idle").first.wait_for(timeout=90_000)


def run_cells(page: Page, marker: str) -> None:
    """Run from the top, a cell at a time as a reader does, to the code cell whose source holds `marker`."""
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    for _ in range(60):
        active = page.locator(".jp-Notebook .jp-Cell.jp-mod-active")
        text = active.inner_text()
        page.keyboard.press("Shift+Enter")
        page.locator(".jp-StatusBar-Widget", has_text="| Idle").first.wait_for(timeout=120_000)
        if marker in text:
            return
    raise AssertionError(f"no cell with {marker!r}")


def heatmap(page: Page) -> str:
    """What the last heatmap shows, as text: its cells, and its outlines."""
    return page.evaluate(
        """() => { const plots = [...document.querySelectorAll('.jp-OutputArea .js-plotly-plot')]
            .filter(p => p.data && p.data[0] && p.data[0].type === 'heatmap');
        if (!plots.length) return '';
        const d = plots[plots.length - 1].data;
        return JSON.stringify([Array.from(d[0].z || [], r => Array.from(r)), Array.from(d[1].x || []), Array.from(d[1].y || [])]); }"""
    )


def button(page: Page, label: str) -> Locator:
    return page.locator(".jp-OutputArea-output button", has_text=label).last
