"""Explore a transfer study: the matrix, and behind each cell the two structures side by side."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np

from s3pet_viz.analysis import Transfer
from s3pet_viz.figures.transfer import TransferLike, as_transfer
from s3pet_viz.viewer.documents import text
from s3pet_viz.viewer.state import State, opened
from s3pet_viz.viewer.static import Panel
from s3pet_viz.viewer.transfer import transfer_doc
from s3pet_viz.widgets.viewer import Viewer


class TransferExplorer(Viewer):
    """The matrix of sources and targets. Click a cell: the source's structure and the target's own are drawn side by
    side, the gates that both have outlined.

    Args:
        matrix: a `Transfer`, its study, or the path of the study's folder.
        theme: ``auto``, ``light`` or ``dark``.
        state: open as another view of this matrix was: what its `share` gave.

    Attributes:
        matrix: the `Transfer`.

    Raises:
        StudyError: not a study folder, or not one of transfer.
        ConfigError, MissingExtraError: as `watch`.
    """

    def __init__(self, matrix: TransferLike, *, theme: str = "auto", state: State | None = None) -> None:
        self.matrix = as_transfer(matrix)
        self._doc = transfer_doc(self.matrix, key=uuid.uuid4().hex, theme=theme)
        picked = [] if state is None else opened(state, self._doc)
        super().__init__(theme=theme, doc=text(self._doc), selection=picked)
        self._show_static()

    def _trusted(self, runs: Any) -> Transfer:
        return self.matrix

    def panels(self) -> list[Panel]:
        table = self._doc["matrices"][0]
        rows, columns = table["rows"], self._doc["targets"]
        cells = [cell for line in table["cells"] for cell in line]
        at = [divmod(i, len(columns)) for i in range(len(cells))]
        space = {"rows": rows, "columns": columns, "row": [i for i, _ in at], "col": [j for _, j in at]}
        shades = np.array([cell["shade"] for cell in cells], dtype=float)
        marked = np.array([cell["mark"] for cell in cells], dtype=bool)
        title = f"{table['title']}: rows are structures' sources, columns targets"
        return [Panel(title, space, shades, marked, [cell["text"] for cell in cells])]

    def __repr__(self) -> str:
        return f"TransferExplorer({len(self.matrix.sources)} sources, {len(self.matrix.targets)} targets)"
