"""Take the README's screenshot: notebook 01 in JupyterLab while its search runs. Or that of docs/views.md: a run's viewer.

    python tools/make_screenshot.py docs/jupyterlab.png
    python tools/make_screenshot.py docs/viewer.png --run similarity-0.2pct-s0
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from PIL import Image

import s3pet_viz as s3
from s3pet_viz.cli._output import heatmap_page

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "browser"))
from lab import jupyterlab, open_notebook, page_of, run_all, until, views  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("png", type=Path)
    parser.add_argument("--step", type=int, default=60, help="of the search, at which the picture is taken")
    parser.add_argument("--run", help="a run's viewer on a page of its own, instead of JupyterLab; two gates are picked")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("make_screenshot: expected Chromium on the PATH (apt-get install chromium), found none")
    if args.run is not None:
        view_of(args.run, chromium, args.png)
        return
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


def view_of(name: str, chromium: str, png: Path) -> None:
    """The viewer with the two likeliest chosen gates picked."""
    run = s3.open_run(name)
    picked = sorted(run.structure().gates, key=lambda gate: -run.p()[gate.index])[:2]
    state = {"selection": [list(gate.key) for gate in picked]}
    with tempfile.TemporaryDirectory() as folder, page_of(chromium, 1100, 1080) as (page, _):
        made = Path(folder, "view.html")
        made.write_text(heatmap_page(run, state=state), encoding="utf-8")
        page.goto(made.as_uri())
        page.wait_for_function("() => document.querySelector('.s3pet-viewer')?.s3pet.view.scene", timeout=180_000)
        time.sleep(1)
        page.locator(".s3pet-viewer").screenshot(path=png)
    Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(png, optimize=True)
    print(png)


if __name__ == "__main__":
    main()
