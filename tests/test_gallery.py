"""docs/gallery.md is what tools/make_gallery.py writes, and no figure of the package is missing there."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from figure_problems import DRAWING

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module("make_gallery")
    finally:
        sys.path.pop(0)


def test_the_page_is_what_the_script_writes(gallery):
    assert gallery.PAGE.read_text(encoding="utf-8") == gallery.text(), "run python tools/make_gallery.py"


def test_every_figure_is_there_with_its_picture(gallery):
    names = gallery.names()
    assert {gallery.name_of(code) for code in names.values()} == DRAWING
    pictures = {path.stem: path.stat().st_size for path in gallery.PICTURES.iterdir()}
    assert pictures.keys() == names.keys(), "run python tools/make_gallery.py"
    assert all(2_000 < size < 80_000 for size in pictures.values())


def test_the_page_shows_the_code_that_is_run(gallery, monkeypatch):
    """One table holds both: another line there is another line on the page, and another figure."""
    shown = gallery.text().count("```python\n")
    assert shown == len(gallery.names()) + 1
    known = {}
    exec(gallery.SETUP, known)
    monkeypatch.setitem(gallery.GALLERY, "Mine", [("Which?", "s3.figures.heatmap(run.structure())", "")])
    assert "```python\ns3.figures.heatmap(run.structure())\n```\n\n![Which?](gallery/heatmap-3.png)" in gallery.text()
    assert gallery.draw(gallery.names()["heatmap-3"], known).data[0].name == "gates"
