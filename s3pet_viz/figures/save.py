"""Figures as files: PNG, SVG and PDF for a paper, HTML that needs no network."""

from __future__ import annotations

import importlib
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal, get_args

import plotly.graph_objects as go

from s3pet_viz.config.checks import among
from s3pet_viz.errors import ConfigError, MissingExtraError, short
from s3pet_viz.figures._print import PX_PER_MM, printed
from s3pet_viz.files import is_folder, located, write_bytes_atomic, write_text_atomic

Style = Literal["print", "screen"]

SUFFIXES = (".png", ".svg", ".pdf", ".html")
#: Width of a figure that spans both columns of a page.
_PAGE_MM = 178.0
_SCREEN_PX = 1100.0
#: Pixels of a PNG for each 1/96 inch: 300 to the inch for print.
_SCALE = {"print": 300 / 96, "screen": 2.0}
_SECONDS = 90
_CHROME = "install Chrome or Chromium, or give the path of one in the environment variable BROWSER_PATH"


def save(
    figure: go.Figure,
    path: str | os.PathLike[str],
    *,
    width_mm: float | None = None,
    style: Style = "print",
    scale: float | None = None,
    title: bool | None = None,
    caption: str | None = None,
) -> Path:
    """Write a figure to a file, as a whole or not at all. The figure itself is left as it is.

    PNG, SVG and PDF need the extra ``s3pet_viz[export]`` (kaleido) and a Chrome or Chromium; HTML needs neither, holds
    plotly.js (5 MB), stays interactive, and takes no option. Each call starts a browser, which takes a second or two;
    for many figures call ``kaleido.start_sync_server(mathjax=False)`` before.

    Args:
        path: its suffix says the format: .png, .svg, .pdf or .html. Parents are made; a file is replaced.
        width_mm: final width in mm: 85 for one column of a paper, 178 for both (the default of ``print``; of
            ``screen`` the figure's own width, else 291 mm = 1100 px).
        style: ``print``: fonts of 7 to 9 pt at that width, thinner lines, white ground, and below 120 mm legend and
            colour bar under the plot. ``screen``: as in the notebook.
        scale: pixels of a PNG for each 1/96 inch; 3.125 (300 dpi) for print, 2 for screen.
        title: keep the figure's title; not in print where not given, because the caption says it.
        caption: text that is written beside it, to a file of the same name that ends in .txt; `caption` makes it.

    Raises:
        ConfigError: an unknown suffix or a value out of range; no Chrome, or it failed; the file cannot be written.
        MissingExtraError: kaleido is not installed.
    """
    target = located(path)
    suffix = target.suffix.lower()
    if not isinstance(figure, go.Figure):
        raise TypeError(f"figure: expected a plotly Figure, found {type(figure).__name__}")
    if suffix not in SUFFIXES:
        raise ConfigError(f"{target}: expected a name ending in {', '.join(SUFFIXES)}, found {suffix or 'none'}")
    among("style", style, get_args(Style))
    _in_range("width_mm", width_mm, 30, 2000)
    _in_range("scale", scale, 0.1, 20)
    if caption is not None and not (isinstance(caption, str) and caption.strip()):
        raise ConfigError(f"caption: expected text, as figures.caption(run) gives it, found {short(caption)}")
    beside = target.with_suffix(".txt")
    for path_ in (target, *([beside] if caption is not None else [])):
        if is_folder(path_):
            raise ConfigError(f"{path_}: expected a file name, found a folder")
    if suffix == ".html":
        given = {"width_mm": width_mm, "scale": scale, "title": title}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise ConfigError(f"{', '.join(wrong)}: a page adapts itself; expected .png, .svg or .pdf, found .html")
        data = figure.to_html(include_plotlyjs=True, full_html=True, div_id="figure").encode()
    else:
        if scale is not None and suffix != ".png":
            raise ConfigError(f"scale: only a PNG has pixels, {suffix} has none; leave it out, or give width_mm")
        data = _rendered(figure, suffix, width_mm, style, scale or _SCALE[style], title)
    try:
        written = write_bytes_atomic(target, data)
        if caption is not None:
            write_text_atomic(beside, caption.strip() + "\n")
    except OSError as error:
        raise ConfigError(f"{error.filename or target}: cannot be written ({error.strerror})") from None
    return written


def _in_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ConfigError(f"{name}: expected {low:g} to {high:g}, found {value!r}")


def _rendered(
    figure: go.Figure, suffix: str, width_mm: float | None, style: Style, scale: float, title: bool | None
) -> bytes:
    """The bytes of a PNG, SVG or PDF."""
    if style == "print":
        drawn = printed(figure, _PAGE_MM if width_mm is None else width_mm, title=bool(title))
    else:
        width = width_mm * PX_PER_MM if width_mm is not None else figure.layout.width or _SCREEN_PX
        drawn = go.Figure(figure)
        drawn.update_layout(width=round(width))
        if title is False:
            drawn.update_layout(title=None)
    pixels = scale if suffix == ".png" else 1
    options = {"format": suffix[1:], "width": drawn.layout.width, "height": drawn.layout.height or 450, "scale": pixels}
    data = _draw(drawn, options)
    return _with_density(data, 96 * scale) if suffix == ".png" else data


def _draw(figure: go.Figure, options: dict[str, Any]) -> bytes:
    """Ask kaleido, without network (it would load MathJax) and without Chrome's sandbox, which needs rights that
    containers and the root user do not have; the page holds nothing but the figure.
    """
    try:
        kaleido, errors = importlib.import_module("kaleido"), importlib.import_module("kaleido.errors")
    except ImportError:
        raise MissingExtraError(
            "PNG, SVG and PDF need kaleido 1 or newer: pip install 's3pet_viz[export]'. "
            f"It draws with a browser: {_CHROME}. A file name that ends in .html needs neither."
        ) from None
    try:
        with warnings.catch_warnings():
            # A server that the reader started (kaleido.start_sync_server) has its own settings, and says so.
            warnings.filterwarnings("ignore", "The kopts argument is ignored", UserWarning)
            data: bytes = kaleido.calc_fig_sync(
                figure, opts=options, kopts={"mathjax": False, "timeout": _SECONDS, "enable_sandbox": False}
            )
    except errors.ChromeNotFoundError:
        tried = f" (BROWSER_PATH={os.environ['BROWSER_PATH']})" if os.environ.get("BROWSER_PATH") else ""
        raise ConfigError(
            f"no Chrome found to draw with{tried}: {_CHROME}; a file name that ends in .html needs none"
        ) from None
    except (errors.BrowserClosedError, errors.BrowserFailedError, errors.KaleidoError, TimeoutError, OSError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ConfigError(f"Chrome could not draw the figure ({said}): {_CHROME}") from error
    return data


def _with_density(png: bytes, dpi: float) -> bytes:
    """A PNG that says how large it is meant to be, so that LaTeX and Word place it at its final width.

    Source: PNG specification, chunk pHYs: pixels per metre in x and y, unit 1; after IHDR.
    """
    per_metre = round(dpi / 0.0254)
    body = b"pHYs" + struct.pack(">IIB", per_metre, per_metre, 1)
    chunk = struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body))
    head = 8 + 25  # signature and IHDR, which has 13 bytes of content
    return png if b"pHYs" in png[:200] else png[:head] + chunk + png[head:]
