"""The notebooks in real JupyterLab, as a reader runs them: Run All Cells."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nbformat
import pytest

from s3pet_viz.runs import open_run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("S3PET_BROWSER") == "required"
NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium found (apt-get install chromium)"),
]


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


def done(page) -> bool:
    """Whether every code cell has run; an error in one ends the test."""
    said = page.evaluate("() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map((p) => p.innerText.trim())")
    wrong = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr'], .jp-RenderedText pre", has_text="Traceback")
    assert not wrong.count(), wrong.first.inner_text()[-3000:]
    return bool(said) and all(words not in ("[*]:", "[ ]:", "[]:") for words in said)


def test_watch_a_search(server, shots):
    """Notebook 01: the picture moves while the search runs, ends as the search did, and agrees with the table below it."""
    from lab import open_notebook, page_of, run_all, until, views

    root, address = server
    name = put(root, "01_watch_a_search", steps=60)
    with page_of(CHROMIUM, height=4000) as (page, errors):
        open_notebook(page, address, name)
        run_all(page)
        seen: set[int] = set()
        until(lambda: seen.update(v["step"] for v in views(page) if v["step"]) or len(seen) > 3, 240, lambda: f"the picture moves: {seen} {views(page)}")
        page.screenshot(path=shots / "01-running.png")
        until(lambda: done(page), 400, "all cells have run")
        (folder,) = (root / "runs").iterdir()
        run = open_run(folder)
        until(lambda: (views(page)[0]["status"], views(page)[0]["step"]) == ("finished", 60), 180, lambda: views(page)[0])
        view, chosen = views(page)[0], run.structure().gates
        assert view["chosen"] == sorted(g.index for g in chosen)
        assert view["outlines"] == len(chosen)
        table = page.locator(".jp-RenderedHTMLCommon table").first.inner_text()
        assert [line.split()[-1] for line in table.splitlines()[1:] if line.split()] == [
            g.position for g in sorted(chosen, key=lambda g: -run.p()[g.index])
        ]
        page.screenshot(path=shots / "01-finished.png")
        assert not errors, errors


def test_a_killed_search_is_shown_as_dead(server, shots):
    from lab import open_notebook, page_of, run_all, until, views

    root, address = server
    shutil.rmtree(root / "runs", ignore_errors=True)
    name = put(root, "01_watch_a_search", steps=100_000)
    with page_of(CHROMIUM) as (page, _):
        open_notebook(page, address, name)
        run_all(page)
        until(lambda: views(page) and (views(page)[0]["step"] or 0) > 2, 240, "steps")
        (folder,) = (root / "runs").iterdir()
        os.kill(open_run(folder).info["pid"], 9)
        until(lambda: views(page)[0]["status"] == "dead", 60, lambda: views(page)[0])
        assert "the search died" in views(page)[0]["text"]
        page.screenshot(path=shots / "01-dead.png")
        assert len(open_run(folder).steps()) >= views(page)[0]["step"] > 2


@pytest.mark.parametrize(
    ("name", "parameters", "n_views"),
    [
        ("02_explain_a_structure", {"tune_steps": 4, "rows": 16}, 1),
        ("03_compare_tasks_and_budgets", {}, 1),
        ("04_transfer", {"steps": 2}, 1),
        ("05_your_own_model_and_task", {}, 0),
    ],
)
def test_run_all_cells(server, shots, name, parameters, n_views):
    """Every cell runs, every viewer draws, every plotly figure is there, and the page has no error."""
    from lab import open_notebook, page_of, run_all, until, views

    root, address = server
    notebook = put(root, name, **parameters)
    with page_of(CHROMIUM, height=9000) as (page, errors):
        open_notebook(page, address, notebook)
        run_all(page)
        until(lambda: done(page), 500, "all cells have run")
        until(lambda: len(views(page)) == n_views and all(v["drawn"] or v["chosen"] for v in views(page)), 60, lambda: views(page))
        page.screenshot(path=shots / f"{name}.png")
        assert not errors, errors
