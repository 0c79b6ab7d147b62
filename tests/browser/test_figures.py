"""Every public figure, and the report, in a real browser: the mouse goes over all of it, and no script throws."""

from __future__ import annotations

import os
import shutil
import time

import pytest
from figure_problems import DRAWING, every_figure

import s3pet_viz as s3

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("S3PET_BROWSER") == "required"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium found (apt-get install chromium)"),
]

#: Plotly looks at the mouse 20 times a second only; here each move is one.
EVERY_MOVE = "{ let now = Date.now(); Date.now = () => (now += 1000); }"
#: Moves over all that is in the window, a few pixels apart; returns how many elements were met.
SWEEP = """(step) => {
  const met = new Set();
  for (let y = 1; y < innerHeight; y += step) for (let x = 1; x < innerWidth; x += step) {
    const at = document.elementFromPoint(x, y);
    if (!at) continue;
    met.add(at);
    for (const type of ['mouseover', 'mousemove']) {
      at.dispatchEvent(new MouseEvent(type, {clientX: x, clientY: y, bubbles: true, cancelable: true, view: window}));
    }
  }
  return met.size;
}"""
#: Of each trace the first, middle and last point is hovered by name; returns what was thrown.
EACH_TRACE = """() => {
  const thrown = [];
  for (const plot of document.querySelectorAll('.js-plotly-plot')) plot._fullData.forEach((trace, i) => {
    const n = (plot.calcdata[i] || []).length;
    for (const at of trace.type === 'heatmap' ? [] : [0, n >> 1, n - 1]) {
      try { Plotly.Fx.hover(plot, [{curveNumber: i, pointNumber: at}], trace.xaxis + trace.yaxis); }
      catch (error) { thrown.push(`${trace.name}, point ${at}: ${error}`); }
    }
  });
  return thrown;
}"""
COUNT = """() => { window.hovered = 0;
  for (const plot of document.querySelectorAll('.js-plotly-plot')) plot.on('plotly_hover', () => { window.hovered += 1; }); }"""


@pytest.fixture(scope="module")
def browser():
    from lab import page_of

    with page_of(CHROMIUM, width=1000, height=900) as (page, errors):
        page.add_init_script(EVERY_MOVE)
        yield page, errors


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return every_figure(tmp_path_factory.mktemp("study"))


def mouse_over_all(page) -> None:
    """A real mouse on a coarse grid, then each few pixels; the whole page, a window's height after another."""
    height, tall = page.viewport_size["height"], page.evaluate("document.documentElement.scrollHeight")
    for top in range(0, tall, height - 50):
        page.evaluate("top => scrollTo(0, top)", top)
        for y in range(10, height, 80):
            for x in range(10, page.viewport_size["width"], 70):
                page.mouse.move(x, y)
        assert page.evaluate(SWEEP, 18) > 0


def test_an_error_of_a_page_is_noticed(browser):
    page, errors = browser
    page.set_content("<p onmousemove='undefined.c2p'>here</p>")
    mouse_over_all(page)
    assert any("c2p" in error for error in errors)
    errors.clear()


@pytest.mark.parametrize("function", sorted(DRAWING))
def test_no_figure_throws_under_the_mouse(browser, drawn, tmp_path, function):
    page, errors = browser
    for name in [name for name in drawn if name.split()[0] == function]:
        drawn[name](theme="dark" if name == "heatmap" else "light").write_html(tmp_path / "figure.html", include_plotlyjs="directory")
        page.goto((tmp_path / "figure.html").as_uri())
        page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=120_000)
        page.evaluate(COUNT)
        mouse_over_all(page)
        assert page.evaluate("window.hovered") > 0, f"{name}: nothing answered to the mouse"
        assert page.evaluate(EACH_TRACE) + errors == [], name


@pytest.mark.parametrize("several", [False, True])
def test_no_report_throws_under_the_mouse(browser, tmp_path, several):
    page, errors = browser
    runs = [s3.open_run(f"sentiment-0.2pct-s{seed}") for seed in range(2)]
    s3.report(runs if several else runs[0], tmp_path / "report.html")
    page.goto((tmp_path / "report.html").as_uri())
    page.locator("svg, canvas").first.wait_for(timeout=120_000)
    deadline = time.monotonic() + 300
    while page.evaluate("!!document.querySelector('[data-figure]') && !document.documentElement.dataset.drawn"):
        assert time.monotonic() < deadline, "the report is drawn"
        time.sleep(0.2)
    mouse_over_all(page)
    assert not errors
