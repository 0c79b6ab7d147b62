"""A picture of the gates as SVG, drawn without plotly or a browser: what stands in a notebook where no script runs."""

from __future__ import annotations

import functools
import html
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s3pet_viz.runs import Run
from s3pet_viz.viewer.documents import Doc
from s3pet_viz.viewer.documents import of_run as space_of

_STOPS = ("e6eef7", "bdd3e9", "86b3d9", "4a8cc2", "1f5f9f", "08306b")
_LEVELS = 24
_WIDTH, _ROW, _CHAR = 860, 17, 6.1
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_OUTLINE, _INK, _MUTED = "#f26b1d", "#1f2933", "#5f6c78"
_HATCH = (
    "<defs><pattern id='hatch' width='5' height='5' patternUnits='userSpaceOnUse' patternTransform='rotate(45)'>"
    f"<path d='M0 0v5' stroke='{_MUTED}' stroke-width='1.2'/></pattern></defs>"
)


@dataclass(frozen=True)
class Panel:
    """One grid of cells.

    Attributes:
        space: as `documents.space_doc`. values: 0 to 1 or NaN, shape (n_gates,). marked: bool, shape (n_gates,).
        texts: what stands in the cells, if anything does.
    """

    title: str
    space: Doc
    values: np.ndarray
    marked: np.ndarray
    texts: Sequence[str] = ()


def of_run(run: Run) -> str:
    """The heatmap of a run's last step; what its budget chooses is outlined."""
    gates, keys = run.gates_list, {gate.key for gate in run.structure(pinned=False).gates}
    title = f"{run.name}: p at step {run.n_steps:,}, {len(keys):,} gates chosen (outlined)"
    if "pinned" in (space := space_of(run)):
        title += f"; squares are {len(run.pinned_in)} pinned in by hand, crosses {len(run.pinned_out)} pinned out"
    chosen = np.array([gate.key in keys for gate in gates])
    return svg([Panel(title, space, run.p().astype(float), chosen)], "")


def svg(panels: Sequence[Panel], sentence: str) -> str:
    """Panels one below the other, and what is said under them, as one SVG file."""
    parts: list[str] = []
    y = 8.0
    for panel in panels:
        drawn, height = _panel(panel, y)
        parts.append(drawn)
        y += height + 14
    for line in textwrap.wrap(sentence, int(_WIDTH / _CHAR) - 3):
        y += 15
        parts.append(f"<text x='8' y='{y:.0f}' fill='{_MUTED}'>{_text(line)}</text>")
    hatch = _HATCH if any("inert" in panel.space for panel in panels) else ""
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {y + 10:.0f}' width='{_WIDTH}' "
        f"font-family='Helvetica,Arial,sans-serif' font-size='11' fill='{_INK}'>"
        f"{hatch}<rect width='{_WIDTH}' height='{y + 10:.0f}' fill='white'/>{''.join(parts)}</svg>"
    )


def _panel(panel: Panel, top: float) -> tuple[str, float]:
    space = panel.space
    rows, columns = space["rows"], space["columns"]
    left = 14 + _CHAR * max(map(len, rows))
    side = min(34.0 if not panel.texts else 110.0, (_WIDTH - left - 10) / len(columns))
    upright = max(map(len, columns)) * _CHAR > side
    row_height = max(2.0, min(_ROW, 420 / len(rows)))
    y0 = top + 22

    def box(i: int, inset: float, of: Doc = space) -> str:
        x, y = left + of["col"][i] * side + inset, y0 + of["row"][i] * row_height + inset
        across = side - 2 * inset
        return f"M{x:.1f} {y:.1f}h{across:.1f}v{row_height - 2 * inset:.1f}h{-across:.1f}z"

    boxes: dict[str, list[str]] = {}
    for i in np.flatnonzero(np.isfinite(panel.values)).tolist():
        level = round(min(1.0, max(0.0, float(panel.values[i]))) * _LEVELS)
        boxes.setdefault(_colour(level), []).append(box(i, 0.5))
    cells = "".join(f"<path fill='{colour}' d='{''.join(d)}'/>" for colour, d in sorted(boxes.items()))
    if inert := space.get("inert"):
        hatched = "".join(box(i, 1, inert) for i in range(len(inert["row"])))
        cells += f"<path fill='url(#hatch)' stroke='{_MUTED}' stroke-width='0.5' d='{hatched}'/>"
    cells += _pins(space["pinned"], left, y0, side, row_height) if "pinned" in space else ""
    ring = "".join(box(i, 1) for i in np.flatnonzero(panel.marked).tolist())
    below = y0 + len(rows) * row_height
    said = "".join(
        f"<text x='{left + (column + 0.5) * side:.1f}' y='{y0 + (row + 0.5) * row_height + 4:.1f}' "
        f"text-anchor='middle' fill='{'white' if value > 0.52 else _INK}'>{_text(words)}</text>"
        for words, row, column, value in zip(panel.texts, space["row"], space["col"], panel.values, strict=False)
    )
    every = max(1, int(np.ceil(10 / side)))
    labels = [
        f"<text x='{left - 6:.1f}' y='{y0 + (i + 0.5) * row_height + 4:.1f}' text-anchor='end'>{_text(name)}</text>"
        for i, name in enumerate(rows if row_height >= 9 else ())
    ]
    for i, name in enumerate(columns):
        if name and i % every == 0:
            x, y = left + (i + 0.5) * side, below + 14
            place = f"x='{x:.1f}' y='{y:.1f}' text-anchor='middle'"
            if upright:
                turned = f"transform='rotate(-90 {x + 4:.1f} {below + 5:.1f})' text-anchor='end'"
                place = f"x='{x + 4:.1f}' y='{below + 5:.1f}' {turned}"
            labels.append(f"<text {place}>{_text(name)}</text>")
    head = f"<text x='8' y='{top + 12:.0f}' font-size='13' font-weight='bold'>{_text(panel.title)}</text>"
    lines = f"<path d='{ring}' fill='none' stroke='{_OUTLINE}' stroke-width='2'/>"
    height = below - top + (8 + _CHAR * max(map(len, columns)) if upright else 18)
    return head + cells + said + lines + "".join(labels), height


def _pins(pinned: Doc, left: float, top: float, side: float, row_height: float) -> str:
    """A small square on each gate that was pinned in, a cross on each that was pinned out."""
    r = min(3.0, side / 3, row_height / 3)
    signs = (f"m{-r:.1f} {-r:.1f}h{2 * r:.1f}v{2 * r:.1f}h{-2 * r:.1f}z", f"m{-r:.1f} {-r:.1f}l{2 * r:.1f} {2 * r:.1f}")
    cross = f"{signs[1]}m0 {-2 * r:.1f}l{-2 * r:.1f} {2 * r:.1f}"
    drawn = ["", ""]
    for i, (row, column) in enumerate(zip(pinned["row"], pinned["col"], strict=True)):
        outside = i >= pinned["inside"]
        x, y = left + (column + 0.5) * side, top + (row + 0.5) * row_height
        drawn[outside] += f"M{x:.1f} {y:.1f}{cross if outside else signs[0]}"
    square, lines = drawn
    return f"<path d='{square}' fill='{_INK}'/><path d='{lines}' stroke='{_INK}' stroke-width='1.5' fill='none'/>"


def _text(words: str) -> str:
    """Text of an XML file, without the signs that none can hold."""
    return html.escape(_NO_XML.sub("\ufffd", words))


@functools.cache
def _colour(level: int) -> str:
    at = level / _LEVELS * (len(_STOPS) - 1)
    k = min(int(at), len(_STOPS) - 2)
    low, high = (np.array([int(stop[j : j + 2], 16) for j in (0, 2, 4)]) for stop in _STOPS[k : k + 2])
    return "#" + "".join(f"{round(v):02x}" for v in low + (at - k) * (high - low))
