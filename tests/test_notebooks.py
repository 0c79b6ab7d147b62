"""What is committed of the notebooks; that they run is nbval's part (see pyproject.toml)."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import plotly.graph_objects as go
import pytest
from nbval_figures import readable

FOLDER = Path(__file__).parent.parent / "notebooks"
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


def test_figures_are_compared_as_numbers():
    def packed(values):
        return readable(go.Figure(go.Scatter(y=np.array(values))).to_plotly_json()["data"])

    assert packed([0.1 + 0.2, np.nan, -0.0]) == packed([0.3, np.nan, 0.0])
    assert packed([0.3]) != packed([0.30001])
    assert packed([np.nan]) != packed([0.0])
