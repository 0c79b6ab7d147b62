"""What is committed of the notebooks; that they run is nbval's part (see pyproject.toml)."""

from __future__ import annotations

import base64
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import plotly.graph_objects as go
import pytest
from nbclient.exceptions import CellExecutionError
from nbval_figures import readable

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
needs_chrome = pytest.mark.skipif(
    not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), reason="no Chrome is installed"
)
BOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = ["01_watch_a_search", "02_explain_a_structure", "03_compare_tasks_and_budgets", "04_transfer", "05_your_own_model_and_task"]


def test_all_are_there():
    assert [path.stem for path in BOOKS] == NAMES


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_small_static_and_ready_for_papermill(path):
    assert path.stat().st_size < 500_000
    book = nbformat.read(path, as_version=4)
    assert "widgets" not in book.metadata
    assert book.metadata["kernelspec"]["name"] == "python3"
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert ["parameters" in cell.metadata.get("tags", []) for cell in code] == [True] + [False] * (len(code) - 1)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # run top to bottom, once
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
        # A cell whose digits are not compared has to hold something that must be true, or only shows what such a cell made.
        if "nbval-ignore-output" in cell.metadata.get("tags", []):
            made = ("run = s3.launch", "s3.figures.", "view = s3.watch", "model =", "from transformers")
            assert "assert " in cell.source or cell.source.startswith(made)


FIGURE, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
PICTURES = {"image/png", "image/svg+xml"}


def load(path: Path) -> ModuleType:
    """A script of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_every_figure_and_widget_has_a_picture(path):
    """GitHub, nbviewer and the site show these alone."""
    book = nbformat.read(path, as_version=4)
    shown = [output.data for cell in book.cells for output in cell.get("outputs", []) if {FIGURE, WIDGET} & set(output.get("data", {}))]
    assert shown
    pictures = []
    for data in shown:
        for kind in PICTURES & set(data):
            pictures.append(data[kind])
            assert 1_000 < len(data[kind]) < 80_000, kind
    assert len(pictures) == len(shown), "python tools/refresh_notebooks.py"
    page = load(ROOT / "docs/mkdocs/hooks.py").notebook_html(path)
    assert "<script" not in page
    assert len(re.findall("data:image/(?:png|svg[+]xml);base64,.{1000}|<svg[ >]", page)) >= len(shown)
    for data in shown:
        if "image/png" in data:
            assert "".join(data["image/png"].split())[:2000] in page
            picture = base64.b64decode(data["image/png"])
            assert picture.startswith(b"\x89PNG")
            width = int.from_bytes(picture[16:20])
            assert width == 900


@pytest.fixture(scope="module")
def refresh():
    return load(ROOT / "tools/refresh_notebooks.py")


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_figures_are_written_on_a_line(path, refresh):
    book = nbformat.read(path, as_version=4)
    assert refresh.written(book) == path.read_text(encoding="utf-8"), "python tools/refresh_notebooks.py"
    assert nbformat.reads(refresh.written(book), as_version=4) == book
    assert all(len(cell.source.splitlines()) <= 40 for cell in book.cells if cell.cell_type == "code")


class Drawn:
    """A widget that can draw itself, as the kernel holds it, in cells that use nothing but ipywidgets."""

    cells = (
        "from ipywidgets import Button, IntSlider\nclass Viewer(IntSlider):\n"
        "    def _static_svg(self):\n        return f'<svg>frame {self.value}</svg>'",
        "one, two = Viewer(value=1), Button()\none",
        "two",
        "one.value = 7",
    )


@pytest.mark.browser
@needs_chrome
def test_outputs_get_their_pictures(refresh):
    """A figure's is drawn; a widget's is that of its last frame; a widget that cannot draw itself (a bar) is left out."""
    figure = "import plotly.io, plotly.graph_objects as go\nplotly.io.renderers.default = 'plotly_mimetype'\ngo.Figure(go.Scatter(y=[1, 2]))"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (*Drawn.cells, figure)])
    frames = refresh.run(book)
    assert len(book.cells) == len(Drawn.cells) + 1
    refresh.clean(book)
    refresh.add_pictures(book, frames)
    data = [output.data for cell in book.cells for output in cell.outputs]
    assert [sorted({FIGURE, WIDGET, *PICTURES} & set(one)) for one in data] == [[WIDGET, "image/svg+xml"], [FIGURE, "image/png"]]
    assert data[0]["image/svg+xml"] == "<svg>frame 7</svg>"
    assert base64.b64decode(data[1]["image/png"]).startswith(b"\x89PNG")


def test_a_widget_that_cannot_be_drawn_stops_the_refresh(refresh):
    """A picture that is missing without a word would be the last run's."""
    broken = Drawn.cells[0].replace("return f'<svg>frame {self.value}</svg>'", "raise ValueError('no frame')")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (broken, Drawn.cells[1])])
    with pytest.raises(CellExecutionError, match="no frame"):
        refresh.run(book)


def test_pictures_are_not_compared(refresh, tmp_path):
    """They are drawn from what is compared: a run has none, and passes; another figure does not."""
    source = "import plotly.io, plotly.graph_objects as go\nplotly.io.renderers.default = 'plotly_mimetype'\ngo.Figure(go.Scatter(y=[1, 2]))"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    refresh.run(book)
    (output,) = book.cells[0].outputs
    output.data |= {"image/png": "iVBORw0KGgo=", "image/svg+xml": "<svg/>"}

    nbformat.write(book, tmp_path / "same.ipynb")
    output.data[FIGURE]["data"][0]["y"] = [1, 3]
    nbformat.write(book, tmp_path / "other.ipynb")
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "nbval_figures", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
    where = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])}
    said = subprocess.run(
        [*command, "same.ipynb", "other.ipynb"], cwd=tmp_path, env={**os.environ, **where}, timeout=600, check=False, text=True, capture_output=True
    ).stdout  # fmt: skip
    assert re.findall(r"^(PASSED|FAILED) (\w+)\.ipynb", said, re.MULTILINE) == [("PASSED", "same"), ("FAILED", "other")], said


@pytest.mark.browser
@needs_chrome
def test_a_picture_that_cannot_be_small_is_refused(refresh, monkeypatch):
    monkeypatch.setattr(refresh, "MOST", 1_000)
    with pytest.raises(ValueError, match="expected a picture below 1,000 bytes"):
        refresh.png(go.Figure(go.Scatter(y=np.random.default_rng(0).random(200))).to_plotly_json())


def test_figures_are_compared_as_numbers():
    def packed(values):
        return readable(go.Figure(go.Scatter(y=np.array(values))).to_plotly_json()["data"])

    assert packed([0.1 + 0.2, np.nan, -0.0]) == packed([0.3, np.nan, 0.0])
    assert packed([0.3]) != packed([0.30001])
    assert packed([np.nan]) != packed([0.0])
