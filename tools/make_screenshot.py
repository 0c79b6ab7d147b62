"""Take the README's screenshot: notebook 01 in JupyterLab while its search runs.

    python tools/make_screenshot.py docs/jupyterlab.png
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat

import s3pet_viz as s3

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "browser"))
from lab import jupyterlab, open_notebook, page_of, run_all, until, views  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("png", type=Path)
    parser.add_argument("--step", type=int, default=60, help="of the search, at which the picture is taken")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("make_screenshot: expected Chromium on the PATH (apt-get install chromium), found none")
    with tempfile.TemporaryDirectory() as folder:
        book = nbformat.read(ROOT / "notebooks" / "01_watch_a_search.ipynb", as_version=4)
        for cell in book.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(book, Path(folder, "01_watch_a_search.ipynb"))
        with jupyterlab(Path(folder)) as address, page_of(chromium, 1180, 1240) as (page, _):
            open_notebook(page, address, "01_watch_a_search.ipynb")
            run_all(page)
            until(lambda: views(page) and (views(page)[0]["step"] or 0) >= args.step, 300, lambda: views(page))
            run = s3.open_run(next(Path(folder, "runs").iterdir()))
            page.evaluate(
                "() => [...document.querySelectorAll('.jp-CodeCell')].find(c => c.innerText.includes('s3.launch(')).scrollIntoView()"
            )
            time.sleep(1)
            page.screenshot(path=args.png)
            run.stop()
            run.wait(60)
    print(args.png)


if __name__ == "__main__":
    main()
