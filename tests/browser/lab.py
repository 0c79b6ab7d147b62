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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Page, sync_playwright

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
    quiet.parent.mkdir(parents=True, exist_ok=True)
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
            server.wait(120)


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


def notebook(path: Path, cells: Sequence[str]) -> str:
    """Writes a notebook of these cells, which opens without a question for its kernel; its name."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, path)
    return path.name


def open_notebook(page: Page, address: str, name: str) -> None:
    page.goto(address.format(name))
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=180_000)
    page.keyboard.press("Control+b")  # the side bar takes width from the notebook
    # Before the kernel has answered, Run All Cells is lost.
    page.locator(".jp-StatusBar-Widget", has_text="| Idle").first.wait_for(timeout=180_000)


def run_all(page: Page) -> None:
    """Run All Cells, as a reader does; returns at once."""
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()


def views(page: Page) -> list[dict[str, Any]]:
    """What each viewer on the page says it shows, with the outlines that are drawn."""
    found: list[dict[str, Any]] = page.evaluate(
        """() => [...document.querySelectorAll(".s3pet-viewer")].filter((v) => v.s3pet && v.isConnected).map((v) => {
            const boxes = (kind) => [...v.querySelectorAll(`.s3-heatmap path.s3-${kind}, .s3-heatmap-A path.s3-${kind}`)]
                .reduce((a, p) => a + (p.getAttribute("d").match(/M/g) ?? []).length, 0);
            const map = v.querySelector("figure canvas"), pen = map?.getContext("2d");
            const inked = map && map.width && map.height ? pen.getImageData(0, 0, map.width, map.height).data.some((x) => x) : false;
            return { ...v.s3pet.state(), outlines: boxes("chosen") + boxes("fill"), inked, width: v.clientWidth,
                     text: v.innerText, drawn: map ? map.clientWidth : 0, room: v.parentElement.clientWidth };
        })"""
    )
    return found


def throttle(page: Page, rate: float) -> None:
    """Slow Chromium's CPU so many times."""
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": rate})


@contextmanager
def load(processes: int = 2) -> Iterator[None]:
    """Two cores of other work."""
    burning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


def until(condition: Callable[[], Any], seconds: float, what: str | Callable[[], object]) -> Any:
    """What `condition` gives once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"within {seconds} s: {what() if callable(what) else what}"
        time.sleep(0.1)
    return found
