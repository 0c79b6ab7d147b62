"""What stands where no script runs: well-formed, small, the chosen gates outlined, and all names text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from widget_runs import HOSTILE, space

from s3pet_viz import open_run
from s3pet_viz.resources import list_resources
from s3pet_viz.viewer.documents import space_doc
from s3pet_viz.viewer.static import Panel, svg
from s3pet_viz.widgets import CompareRuns, StructureExplorer, TransferExplorer, watch

SVG = "{http://www.w3.org/2000/svg}"
SMALL = 80_000


def parsed(drawn: str) -> ElementTree.Element:
    """A browser reads an image strictly: it must be XML."""
    root = ElementTree.fromstring(drawn)
    assert root.tag == f"{SVG}svg"
    allowed = {f"{SVG}{name}" for name in ("svg", "rect", "path", "text")}
    assert {element.tag for element in root.iter()} <= allowed
    assert not any(name.startswith("on") or "href" in name for element in root.iter() for name in element.attrib)
    return root


def outlines(root: ElementTree.Element) -> list[int]:
    """Outlined cells of each panel."""
    rings = [path.attrib["d"] for path in root.iter(f"{SVG}path") if path.attrib.get("fill") == "none"]
    return [len(re.findall("M", ring)) for ring in rings]


def words(root: ElementTree.Element) -> str:
    return " ".join(text.text or "" for text in root.iter(f"{SVG}text"))


def views_of(run) -> list:
    return [StructureExplorer(run), CompareRuns([run, run])]


@pytest.mark.parametrize("name", list_resources("runs"))
def test_every_recorded_run_has_a_small_picture_of_its_structure(name):
    run = open_run(name)
    view = StructureExplorer(run)
    drawn = view._repr_mimebundle_()["image/svg+xml"]
    view.close()
    assert len(drawn.encode()) < SMALL
    root = parsed(drawn)
    assert outlines(root) == [len(run.structure().gates)]
    assert f"step {run.n_steps:,}" in words(root)
    assert "pip install anywidget" in words(root)


def test_live_compare_and_transfer_have_one_too():
    a, b = open_run("similarity-0.2pct-s0"), open_run("sentiment-0.2pct-s0")
    for view, marked in (
        (watch(a), [len(a.structure().gates)]),
        (CompareRuns([a, b]), [len(a.structure().gates), len(b.structure().gates)]),
        (TransferExplorer("tiny-t5"), None),
    ):
        bundle = view._repr_mimebundle_()
        root = parsed(bundle["image/svg+xml"])
        assert len(bundle["image/svg+xml"].encode()) < SMALL
        assert marked is None or outlines(root) == marked
        assert bundle["image/svg+xml"] in view._static.value, "and it is there in the notebook until the module draws"
        view.close()
    labels = words(root)
    assert all(target in labels for target in view.matrix.targets)


def test_before_the_first_step_there_is_only_a_sentence(growing):
    view = watch(growing().path)
    root = parsed(view._static_svg())
    assert outlines(root) == []
    assert "pip install anywidget" in words(root)
    view.close()


@pytest.mark.parametrize("evil", [HOSTILE, "]]><script>", "&amp;\"'", "\x00\x01\x1b[2J", "\ud800", "\u202e", "\uffff", "𝔤" * 9])
def test_hostile_names_are_text(finished, evil):
    """Also signs that XML cannot hold."""
    gates = [type(g)(**{**g.to_dict(), "module": f"m{evil}", "position": f"{evil}{g.index}"}) for g in space(2, 0)]
    doc = space_doc(gates)
    drawn = svg([Panel(f"t{evil}", doc, np.linspace(0, 1, 4), np.array([True, False, False, True]))], f"s {evil}")
    root = parsed(drawn)
    drawn.encode()
    assert outlines(root) == [2]
    if evil.isprintable() and "\u202e" not in evil:
        assert f"t{evil}" in [text.text for text in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("n", [1, 3, 48, 500])
def test_any_shape_is_drawn(n):
    """One column, and five hundred."""
    gates = space(n, 0)
    values = np.linspace(-0.5, 1.5, len(gates))  # out of range is the end of the scale
    values[0] = np.nan
    marked = np.zeros(len(gates), dtype=bool)
    marked[-1] = True
    root = parsed(svg([Panel("p", space_doc(gates), values, marked)], "words"))
    assert outlines(root) == [1]
    cells = [p for p in root.iter(f"{SVG}path") if p.attrib["fill"] != "none"]
    assert sum(p.attrib["d"].count("M") for p in cells) == len(gates) - 1
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    assert width == 860
    assert 60 < height < 700


def test_what_no_script_draws_is_hidden_where_one_does(finished):
    view = StructureExplorer(finished())
    assert ".s3pet-frame:has(.s3pet-viewer) .s3pet-static{display:none}" in view._static.value
    assert "s3pet-frame" in view._dom_classes
    view.close()
