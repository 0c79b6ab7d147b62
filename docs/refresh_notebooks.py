"""Run the notebooks and keep their outputs small and the same for everybody.

    python docs/refresh_notebooks.py [NAME ...]

Each is run top to bottom in its own kernel. Saved are its static outputs; not the widgets' state (5 MB for one figure), nor
run times and progress bars.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
#: Standard error holds warnings and bars of the day.
DROPPED_STREAMS = ("stderr",)


def clean(book: nbformat.NotebookNode) -> None:
    """Strip what differs between two runs, or is large."""
    book.metadata.pop("widgets", None)
    book.metadata["language_info"] = {"name": "python"}
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") not in DROPPED_STREAMS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="without .ipynb; default: all")
    args = parser.parse_args()
    for path in [FOLDER / f"{n}.ipynb" for n in args.names] or sorted(FOLDER.glob("*.ipynb")):
        book = nbformat.read(path, as_version=4)
        began = time.perf_counter()
        NotebookClient(book, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
        seconds = time.perf_counter() - began
        clean(book)
        nbformat.write(book, path)
        print(f"{path.name}: {seconds:.0f} s, {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
