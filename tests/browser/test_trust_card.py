"""The card of s3.trust in a page: of a report without a kernel, and of a kernel that is busy."""

from __future__ import annotations

import os
import shutil

import pytest

import s3pet_viz as s3
from s3pet_viz.reports import report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("S3PET_BROWSER") == "required"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium found (apt-get install chromium)"),
]
RUNS = ["entailment-0.2pct-s0", "entailment-0.2pct-s1"]


def chip(viewer):
    return viewer.locator("label", has_text="can I trust it?").locator("input")


def test_a_report_has_the_card_of_each_view_and_of_all_in_both_themes(tmp_path):
    from lab import page_of

    made = report(RUNS, tmp_path / "report.html")
    with page_of(CHROMIUM) as (page, errors):
        page.goto(made.as_uri())
        page.wait_for_function("() => [...document.querySelectorAll('.s3pet-viewer')].every((el) => el.s3pet?.view.scene)", timeout=180_000)
        for which, source in enumerate([RUNS, *RUNS]):
            viewer = page.locator(".s3pet-viewer").nth(which)
            assert not viewer.locator(".s3-trust").is_visible()
            chip(viewer).check()
            judged, shown = s3.trust(source), viewer.locator(".s3-trust")
            shown.wait_for()
            assert judged.verdict in shown.inner_text()
            for row in judged.rows():
                assert all(words in shown.inner_text() for words in row), row
            viewer.locator("select", has_text="dark").select_option("dark")
            page.wait_for_function("(el) => el.dataset.theme === 'dark'", arg=viewer.element_handle())
            assert viewer.evaluate("(el) => getComputedStyle(el).backgroundColor") == "rgb(17, 17, 17)"
            assert viewer.evaluate("(el) => el.s3pet.view.share().theme") == "dark"
            assert viewer.evaluate("(el) => el.s3pet.view.share().show").count("trust") == 1
        compared = page.locator(".s3pet-viewer").first
        compared.locator("label", has_text="seed").locator("select").first.select_option("0")
        compared.locator(".s3-trust", has_text="of all 2 runs").wait_for()
        assert not errors, errors


def test_a_busy_kernel_is_waited_for_and_the_view_goes_on(server):
    from lab import notebook, open_notebook, page_of, run_all, until, views

    root, address = server
    cells = ["import s3pet_viz as s3, time", f"e = s3.widgets.StructureExplorer({RUNS[0]!r})\ne", "from pathlib import Path\nwhile not Path('go').exists():\n    time.sleep(0.1)"]
    notebook(root / "trust.ipynb", cells)
    with page_of(CHROMIUM) as (page, errors):
        open_notebook(page, address, "trust.ipynb")
        run_all(page)
        until(lambda: views(page) and views(page)[0]["inked"], 120, "a picture")
        viewer = page.locator(".s3pet-viewer").first
        chip(viewer).check()
        viewer.locator(".s3-trust", has_text="being judged").wait_for(timeout=120_000)
        page.evaluate("document.querySelector('.s3pet-viewer').s3pet.view.goTo(30)")
        until(lambda: views(page)[0]["step"] == 31, 30, "it is drawn while the kernel is blocked")
        (root / "go").touch()  # the kernel is free
        viewer.locator(".s3-trust", has_text=s3.trust(RUNS[0]).verdict).wait_for(timeout=120_000)
        assert not errors, errors
