"""Run the notebooks and keep their outputs small, the same for everybody, and visible where no script runs.

    python tools/refresh_notebooks.py [NAME ...] [--pictures]

Each is run top to bottom in its own kernel. Saved are its static outputs; not the widgets' state (5 MB for one figure), nor
run times and progress bars. A figure is one line of the file: indented like the rest it would take a third more. GitHub, nbviewer and the site draw no figure and no widget, so that a figure's output gets a
PNG beside it, and a widget's the SVG of its last frame.
"""

from __future__ import annotations

import argparse
import base64
import copy
import io
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kaleido
import nbformat
import plotly.graph_objects as go
from nbclient import NotebookClient
from PIL import Image

from s3pet_viz import figures

FOLDER = Path(__file__).parent.parent / "notebooks"
#: Standard error holds warnings and bars of the day.
DROPPED_STREAMS = ("stderr",)
FIGURE, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
PNG, SVG = "image/png", "image/svg+xml"
#: Largest picture, in bytes as it stands in the notebook.
MOST = 80_000
#: Width of a figure on the page, in px of CSS; a notebook's cell has about that.
WIDTH = 900
#: Run in the kernel after all cells: the last frame of every widget that can draw one.
FRAMES = """
import json
from ipywidgets.widgets.widget import _instances
print(json.dumps({name: widget._static_svg() for name, widget in _instances.items() if hasattr(widget, "_static_svg")}))
"""


def run(book: nbformat.NotebookNode) -> dict[str, str]:
    """Run every cell; the SVG of each widget at the end, by its model's number."""
    book.cells.append(nbformat.v4.new_code_cell(FRAMES))
    try:
        NotebookClient(book, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
        said = "".join(o.text for o in book.cells[-1].outputs if o.get("name") == "stdout")
    finally:
        book.cells.pop()
    frames: dict[str, str] = json.loads(said)
    return frames


def clean(book: nbformat.NotebookNode) -> None:
    """Strip what differs between two runs, or is large."""
    book.metadata.pop("widgets", None)
    book.metadata["language_info"] = {"name": "python"}
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") not in DROPPED_STREAMS]


def add_pictures(book: nbformat.NotebookNode, frames: dict[str, str]) -> None:
    """Beside each figure its PNG, beside each widget the SVG of its last frame.

    Args:
        frames: as `run` returns them; a widget that is not among them keeps what it showed first.
    """
    for cell in book.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if FIGURE in data:
                data[PNG] = png(data[FIGURE])
                title = str(data[FIGURE]["layout"].get("title", {}).get("text") or "figure")
                output.metadata[PNG] = {"width": WIDTH, "alt": title.replace("<br>", " · ")}
            elif WIDGET in data and data[WIDGET]["model_id"] in frames:
                data[SVG] = frames[data[WIDGET]["model_id"]]
        if cell.cell_type == "code":  # a bar of progress is a widget, too, and leaves nothing
            cell.outputs = [o for o in cell.outputs if not (WIDGET in o.get("data", {}) and SVG not in o.data)]


def written(book: nbformat.NotebookNode) -> str:
    """The file's text: as Jupyter writes it, but each figure on one line."""
    book, lines = copy.deepcopy(book), {}
    for cell in book.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if FIGURE in data:
                mark = f"figure {len(lines)} of {FIGURE}"
                lines[mark] = json.dumps(data[FIGURE], separators=(",", ":"), ensure_ascii=False, sort_keys=True)
                data[FIGURE] = mark
    text: str = nbformat.writes(book, version=4)
    for mark, line in lines.items():
        text = text.replace(json.dumps(mark), line, 1)
    return text + "\n"


def png(figure: dict[str, Any]) -> str:
    """The picture of a figure's JSON in base64, with as many colours as its size allows."""
    picture = _draw(go.Figure({key: figure[key] for key in ("data", "layout")}))
    for colours in (128, 64, 32):
        small = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        text = base64.b64encode(small.getvalue()).decode()
        if len(text) < MOST:
            return text
    raise ValueError(f"expected a picture below {MOST:,} bytes, found {len(text):,} at {WIDTH} px and {colours} colours")


def _draw(figure: go.Figure) -> Image.Image:
    """As on the screen, at one width, whatever the notebook's was."""
    with TemporaryDirectory() as folder:
        path = figures.save(
            figure, Path(folder) / "figure.png", style="screen", width_mm=WIDTH * 25.4 / 96, scale=1.0
        )
        return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="without .ipynb; default: all")
    parser.add_argument("--pictures", action="store_true", help="run nothing: only draw the figures that are saved")
    args = parser.parse_args()
    kaleido.start_sync_server(mathjax=False, enable_sandbox=False)
    for path in [FOLDER / f"{n}.ipynb" for n in args.names] or sorted(FOLDER.glob("*.ipynb")):
        book = nbformat.read(path, as_version=4)
        began = time.perf_counter()
        frames = {} if args.pictures else run(book)
        seconds = time.perf_counter() - began
        clean(book)
        add_pictures(book, frames)
        path.write_text(written(book), encoding="utf-8")
        print(f"{path.name}: {seconds:.0f} s, {path.stat().st_size / 1e3:.0f} kB", flush=True)
    kaleido.stop_sync_server()


if __name__ == "__main__":
    main()
