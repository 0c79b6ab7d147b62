"""The notebooks in real JupyterLab, in a real browser: what is drawn moves, and the buttons do what they say."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import nbformat
import pytest

from s3pet_viz.runs import open_run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("S3PET_BROWSER") == "required"
NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not REQUIRED, reason="no Chromium found (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """Where screenshots go: $S3PET_SCREENSHOTS, to look at them."""
    folder = Path(os.environ.get("S3PET_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from lab import jupyterlab

    root = tmp_path_factory.mktemp("lab")
    with jupyterlab(root) as address:
        yield root, address


def put(root: Path, name: str, **parameters: object) -> str:
    """A notebook without outputs, with these parameters, as papermill would set them."""
    book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
    nbformat.write(book, root / f"{name}.ipynb")
    return f"{name}.ipynb"


def until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"within {seconds} s: {what() if callable(what) else what}"
        time.sleep(0.05)


def state(page, run, seen):
    """What there is to know of a view that does not move."""
    words = " ".join(page.locator(".jp-OutputArea").all_inner_texts())
    log = (run.path / "run.log").read_text()[-1500:] if (run.path / "run.log").is_file() else "no log"
    plots = page.locator(".jp-OutputArea .js-plotly-plot").count()
    return f"{len(seen)} pictures, {plots} plots, {run.n_steps} steps, {run.status}, {log!r}, on the page: {words[-1500:]!r}"


def settled(read, seconds=20, still=1.0):
    """What `read` gives once it has not changed for `still` seconds: pictures of a drag come one after another."""
    deadline = time.monotonic() + seconds
    value, since = read(), time.monotonic()
    while time.monotonic() - since < still:
        assert time.monotonic() < deadline, f"still changing after {seconds} s"
        time.sleep(0.05)
        if (now := read()) != value:
            value, since = now, time.monotonic()
    return value


def step_on_screen(page):
    """Steps taken, as the view says."""
    words = " ".join(page.locator(".jp-OutputArea").all_inner_texts())
    return int(re.findall(r"step ([\d,]+) of", words)[-1].replace(",", ""))


def test_watch_a_search(server, shots):
    """Notebook 01: the heatmap moves while the search runs; Pause, Resume and Stop reach the search."""
    from lab import button, heatmap, open_notebook, page_of, run_cells
    from playwright.sync_api import expect

    root, address = server
    name = put(root, "01_watch_a_search", steps=100_000)
    with page_of(CHROMIUM) as (page, errors):
        open_notebook(page, address, name)
        run_cells(page, "s3.watch(run)")
        button(page, "Pause").wait_for(timeout=60_000)
        (folder,) = (root / "runs").iterdir()
        run = open_run(folder)
        try:
            seen = set()
            changes = "the heatmap changes three times"
            until(lambda: seen.add(heatmap(page)) or len(seen - {""}) >= 4, 120, lambda: f"{changes}: {state(page, run, seen)}")
            delays = []
            for _ in range(5):
                taken, began = run.n_steps, time.monotonic()
                until(lambda taken=taken: step_on_screen(page) >= taken, 10, "the step is on screen")
                delays.append(time.monotonic() - began)
            assert sorted(delays)[2] < 1, f"a step is on screen within a second: {delays}"
            page.screenshot(path=shots / "01-running.png")
            status = page.locator("[role=status]").last

            button(page, "Pause").click()
            until(lambda: run.status == "paused", 30, "paused")
            expect(status).to_contain_text("paused", timeout=5_000)
            time.sleep(1)  # the last step is on screen within one second
            held, picture = run.n_steps, heatmap(page)
            time.sleep(2)
            assert (run.n_steps, heatmap(page)) == (held, picture)
            page.screenshot(path=shots / "01-paused.png")

            button(page, "Resume").click()
            until(lambda: run.n_steps > held, 30, "steps go on")
            until(lambda: heatmap(page) != picture, 10, "the heatmap goes on")
            expect(status).to_contain_text("running", timeout=5_000)

            button(page, "Stop").click()
            until(lambda: run.ended, 30, "the search ends")
            assert run.status == "stopped"
            expect(status).to_contain_text("stopped", timeout=5_000)
            page.screenshot(path=shots / "01-stopped.png")
        finally:
            if not run.ended:
                run.stop()
                run.wait(60)
        assert not errors, errors
    assert json.loads((folder / "run.json").read_text())["stop_reason"] == "asked to stop"


def test_a_killed_search_is_shown_as_dead(server, shots):
    from lab import button, open_notebook, page_of, run_cells
    from playwright.sync_api import expect

    root, address = server
    shutil.rmtree(root / "runs", ignore_errors=True)
    name = put(root, "01_watch_a_search", steps=100_000)
    with page_of(CHROMIUM) as (page, _):
        open_notebook(page, address, name)
        run_cells(page, "s3.watch(run)")
        button(page, "Pause").wait_for(timeout=60_000)
        (folder,) = (root / "runs").iterdir()
        run = open_run(folder)
        until(lambda: run.n_steps > 2, 60, "steps")
        os.kill(run.info["pid"], 9)
        expect(page.locator("[role=status]").last).to_contain_text("dead", timeout=5_000)
        page.screenshot(path=shots / "01-dead.png")
        assert len(run.steps()) == run.n_steps > 2


def test_explain_a_structure(server, shots):
    """Notebook 02: the budget slider, dragged and by keyboard, moves the outlines."""
    from lab import heatmap, open_notebook, page_of, run_cells

    root, address = server
    name = put(root, "02_explain_a_structure")
    with page_of(CHROMIUM) as (page, errors):
        open_notebook(page, address, name)
        run_cells(page, "s3.widgets.StructureExplorer(run)")
        handle = page.locator(".widget-slider .noUi-handle").nth(1)
        handle.wait_for(timeout=30_000)
        handle.scroll_into_view_if_needed()
        until(lambda: heatmap(page) != "", 30, "a heatmap")
        outlines = lambda: json.loads(heatmap(page))[1:]  # noqa: E731
        first = outlines()
        box = handle.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x - 100, y, steps=5)
        page.mouse.up()
        until(lambda: len(outlines()[0]) < len(first[0]), 20, "a smaller budget outlines fewer gates")
        small = settled(outlines)
        assert len(small[0]) < len(first[0])
        page.screenshot(path=shots / "02-small-budget.png")
        handle.focus()
        for _ in range(30):
            page.keyboard.press("ArrowRight")
        until(lambda: len(outlines()[0]) > len(small[0]), 20, "a larger budget outlines more gates")
        page.screenshot(path=shots / "02-explorer.png")
        assert not errors, errors
