"""Figures as files: sizes, fonts at the final width, what is refused, and that the figure itself stays as it is."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import struct
import sys
import types
import zlib
from pathlib import Path

import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3pet_viz import figures
from s3pet_viz.errors import ConfigError, MissingExtraError
from s3pet_viz.figures._print import PX_PER_MM, printed
from s3pet_viz.figures.save import save

SEVEN_PT = 7 * 96 / 72

needs_chrome = pytest.mark.skipif(
    importlib.util.find_spec("kaleido") is None
    or not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    reason="kaleido or a Chrome is not installed",
)


def fonts(node: object, name: str = "") -> list[float]:
    """Every font size in a figure's JSON form."""
    found: list[float] = []
    if isinstance(node, dict):
        if name.endswith("font") and isinstance(node.get("size"), (int, float)):
            found.append(node["size"])
        for key, value in node.items():
            found += fonts(value, key)
    elif isinstance(node, (list, tuple)):
        for value in node:
            found += fonts(value, name)
    return found


def every_figure(run) -> dict[str, go.Figure]:
    return {
        "heatmap": figures.heatmap(run),
        "trace": figures.trace(run),
        "curves": figures.curves(run),
        "sums": figures.sums(run),
        "modules": figures.sums(run, by="module"),
        "path": figures.budget_path(run),
        "compare": figures.compare(run, run),
        "overlap": figures.overlap([run, run]),
        "agreement": figures.agreement([run, run]),
    }


# -- the print style ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("width_mm", [85.0, 178.0])
def test_every_font_is_readable_at_its_final_width(run, width_mm):
    for name, figure in every_figure(run).items():
        made = printed(figure, width_mm, title=True)
        sizes = fonts(json.loads(made.to_json()))
        assert min(sizes) >= SEVEN_PT, name
        assert max(sizes) <= 12, name
        assert made.layout.font.size >= SEVEN_PT
        assert made.layout.width == round(width_mm * PX_PER_MM)
        assert made.layout.paper_bgcolor == made.layout.plot_bgcolor == "white"
        plot = made.layout.height - made.layout.margin.t - made.layout.margin.b
        for axis in made.select_yaxes():  # each row label has its line
            low, high = axis.domain or (0, 1)
            lines = len(axis.ticktext) if axis.ticktext is not None else 0
            assert lines * (axis.tickfont.size or made.layout.font.size) * 1.2 <= plot * (high - low), name


def test_the_figure_stays_as_it_is(run):
    for figure in every_figure(run).values():
        before = figure.to_json()
        made = printed(figure, 85)
        assert figure.to_json() == before
        assert len(made.data) == len(figure.data)
        assert made.to_json() == printed(figure, 85).to_json()


def test_title_is_the_captions_task(run):
    figure = figures.heatmap(run, title="One part · another part that is long · a third one that is longer still")
    assert printed(figure, 85).layout.title.text is None
    assert printed(figure, 85, title=True).layout.title.text.count("<br>") >= 1
    assert printed(figure, 178, title=True).layout.title.text.count("<br>") == 0


def test_narrow_figures_keep_their_plot(run):
    """At a column's width legends and colour bars lie below; at a page's they stay beside."""
    wide, narrow = (printed(figures.trace(run), mm) for mm in (178, 85))
    assert wide.layout.legend.orientation != "h"
    assert (narrow.layout.legend.orientation, narrow.layout.legend.y) == ("h", 0)
    wide, narrow = (printed(figures.heatmap(run), mm) for mm in (178, 85))
    assert wide.data[0].colorbar.orientation != "h"
    assert narrow.data[0].colorbar.orientation == "h"


def test_crowded_columns_are_thinned_by_stack(large):
    """260 columns: every label that stays has its place, and each stack begins with its first."""
    made = printed(figures.heatmap(large), 178)
    labels = list(made.layout.xaxis.ticktext)
    assert labels[0] == "E.0"
    assert "D.0" in labels
    assert len(labels) * SEVEN_PT < 178 * PX_PER_MM
    assert len(labels) > 20


@settings(max_examples=30, deadline=None)
@given(
    size=st.floats(1, 60), width=st.floats(0, 20), names=st.lists(st.text(max_size=60), min_size=1, max_size=20), mm=st.floats(30, 400)
)
def test_any_figure_can_be_printed(size, width, names, mm):
    figure = go.Figure([go.Scatter(x=[0, 1], y=[1, 2], name=name, line={"width": width}) for name in names])
    figure.update_layout(font_size=size, title="A · B", legend={"orientation": "h", "y": 1.1})
    made = printed(figure, mm, title=True)
    assert min(fonts(json.loads(made.to_json()))) >= SEVEN_PT
    assert made.layout.height > made.layout.margin.t + made.layout.margin.b + 100
    assert all(trace.line.width <= max(0.5, width) for trace in made.data)


# -- files -------------------------------------------------------------------------------------------------


def chunks(png: bytes) -> dict[bytes, bytes]:
    """Chunks of a PNG by name, their checksums checked."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, found = 8, {}
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        body = png[at + 4 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(body)
        found.setdefault(body[:4], body[4:])
        at += 12 + length
    return found


@pytest.fixture(scope="module")
def chrome():
    """One browser for all that is drawn here; starting it takes seconds on a busy machine."""
    import kaleido

    kaleido.start_sync_server(mathjax=False)
    yield
    kaleido.stop_sync_server()


@pytest.mark.browser
@needs_chrome
def test_one_file_without_a_server(run, tmp_path):
    assert save(figures.curves(run), tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.browser
@needs_chrome
def test_png_svg_pdf(run, tmp_path, chrome):
    figure = figures.heatmap(run)
    before = figure.to_json()
    path = save(figure, tmp_path / "deep" / "a.PNG", width_mm=85)
    found = chunks(path.read_bytes())
    width, _ = struct.unpack(">II", found[b"IHDR"][:8])
    per_metre = struct.unpack(">IIB", found[b"pHYs"])[0]
    assert per_metre == round(300 / 0.0254)
    assert width / per_metre == pytest.approx(0.085, abs=5e-4)

    svg = save(figure, tmp_path / "a.svg").read_text()
    assert re.search(r'<svg[^>]* width="673"', svg)  # 178 mm
    assert "SelfAttn.Q" in svg
    assert b"/Type /Page" in save(figure, tmp_path / "a.pdf").read_bytes()
    assert figure.to_json() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pdf", "a.svg", "deep", "run"]


@pytest.mark.browser
@needs_chrome
def test_screen_style_keeps_the_figure(run, tmp_path, chrome):
    figure = figures.heatmap(run)
    found = chunks(save(figure, tmp_path / "a.png", style="screen", scale=1).read_bytes())
    assert struct.unpack(">II", found[b"IHDR"][:8]) == (1100, figure.layout.height)


def test_html_needs_no_browser(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    page = save(figures.heatmap(run), tmp_path / "a.html").read_text()
    assert "Plotly.newPlot" in page
    assert "cdn.plot.ly/plotly" not in page
    assert save(figures.heatmap(run), tmp_path / "b.html").read_text() == page


def test_html_of_hostile_names(hostile, tmp_path):
    page = save(figures.heatmap(hostile), tmp_path / "a.html").read_text()
    assert "<script>alert" not in page


def test_without_kaleido(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(MissingExtraError, match=r"s3pet_viz\[export\]"):
        save(figures.heatmap(run), tmp_path / "a.png")
    assert list(tmp_path.glob("*.png")) == []


class NotFound(RuntimeError):
    pass


class Failed(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("error", "words"), [(NotFound("x"), "no Chrome found"), (Failed("it fell\nover"), "it fell"), (TimeoutError(), "TimeoutError")]
)
def test_no_browser_is_said_clearly(run, tmp_path, monkeypatch, error, words):
    def calc(*_, **__):
        raise error

    errors = types.SimpleNamespace(
        ChromeNotFoundError=NotFound, BrowserClosedError=Failed, BrowserFailedError=Failed, KaleidoError=Failed
    )
    monkeypatch.setitem(sys.modules, "kaleido", types.SimpleNamespace(calc_fig_sync=calc, errors=errors))
    monkeypatch.setitem(sys.modules, "kaleido.errors", errors)
    with pytest.raises(ConfigError, match=words) as caught:
        save(figures.heatmap(run), tmp_path / "a.pdf")
    assert "BROWSER_PATH" in str(caught.value)
    assert not (tmp_path / "a.pdf").exists()


def test_refuses(run, tmp_path):
    figure = figures.heatmap(run)
    for name, found in (("a.gif", ".gif"), ("a", "none")):
        with pytest.raises(ConfigError, match=rf"\.png, \.svg, \.pdf, \.html, found {re.escape(found)}"):
            save(figure, tmp_path / name)
    with pytest.raises(ConfigError, match="style: expected one of print, screen"):
        save(figure, tmp_path / "a.png", style="poster")  # type: ignore[arg-type]
    for options in ({"width_mm": 5}, {"width_mm": float("nan")}, {"scale": 0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            save(figure, tmp_path / "a.png", **options)
    with pytest.raises(ConfigError, match="scale: only a PNG has pixels"):
        save(figure, tmp_path / "a.svg", scale=2)
    with pytest.raises(ConfigError, match="width_mm: a page adapts itself"):
        save(figure, tmp_path / "a.html", width_mm=85)
    with pytest.raises(TypeError, match="expected a plotly Figure, found dict"):
        save({}, tmp_path / "a.html")  # type: ignore[arg-type]
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ConfigError, match="found a folder"):
        save(figure, tmp_path / "folder.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        save(figure, Path(tmp_path / "file" / "a.html"))
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["file"]
