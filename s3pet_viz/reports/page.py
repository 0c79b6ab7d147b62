"""The HTML of a report: what is text, what is a table, what is a figure. Everything from outside is escaped here.

The page may run three scripts, plotly.js, draw.js and the viewer's module, which its Content-Security-Policy names by
their hashes; it may load nothing at all. Figures are data: JSON in script elements of a type that no browser runs.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from string import Template

import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from s3pet_viz.resources import text_of
from s3pet_viz.viewer.page import in_script, standing_module, style


def text(value: object) -> str:
    """Text from outside, safe between tags and inside quoted attributes."""
    # A lone surrogate (an undecodable file name) cannot be written as UTF-8.
    return html.escape(str(value).encode("utf-8", "replace").decode(), quote=True)


def figure_json(figure: go.Figure) -> str:
    """A figure's JSON that can stand in a script element."""
    return in_script(plotly.io.to_json(figure, validate=False, engine="json"))


def table(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    numbers: Iterable[int] = (),
    marked: Iterable[int] = (),
    long: bool = False,
) -> str:
    """A table; the first cell of a row names it.

    Args:
        numbers: columns set to the right.
        marked: rows that differ.
        long: scroll within a window where there are many rows; paper shows them all.
    """
    right, coloured = set(numbers), set(marked)

    def cell(i: int, value: object, scope: str = "") -> str:
        tag, heads = ("th", f" scope='{scope}'") if scope else ("td", "")
        return f"<{tag}{heads}{' class=n' if i in right else ''}>{text(value)}</{tag}>"

    top = "".join(cell(i, name, "col") for i, name in enumerate(head)) if any(head) else ""
    body = []
    for at, row in enumerate(rows):
        cells = "".join(cell(i, value, "" if i else "row") for i, value in enumerate(row))
        body.append(f"<tr{' class=differs' if at in coloured else ''}>{cells}</tr>")
    window = " long" if long and len(body) > 24 else ""
    # A region that scrolls must be reachable by keyboard.
    return (
        f"<div class='scroll{window}' tabindex='0'><table>{f'<thead><tr>{top}</tr></thead>' if top else ''}"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def note(words: object) -> str:
    return f"<div class='note'>{text(words)}</div>"


@dataclass
class Page:
    """A page that grows from top to bottom.

    Attributes:
        title: text from outside.
    """

    title: str
    _body: list[str] = field(default_factory=list)
    _toc: list[tuple[int, str, str]] = field(default_factory=list)
    _data: list[str] = field(default_factory=list)
    _states: list[str] = field(default_factory=list)

    def heading(self, words: str, level: int = 2) -> None:
        """A heading; those of level 2 and 3 stand in the table of contents."""
        anchor = f"s{len(self._toc) + 1}"
        self._toc.append((level, anchor, words))
        self.add(f"<h{level} id='{anchor}'>{text(words)}</h{level}>")

    def add(self, markup: str) -> None:
        """Markup made by this module."""
        self._body.append(markup)

    def words(self, words: object, *, muted: bool = False) -> None:
        self.add(f"<p{' class=muted' if muted else ''}>{text(words)}</p>")

    def figure(self, figure: go.Figure, caption: str) -> str:
        """The place of a figure; its data come at the end of the page."""
        name = f"f{len(self._data) + 1}"
        self._data.append(f"<script type='application/json' id='{name}'>{figure_json(figure)}</script>")
        height = int(figure.layout.height or 450)
        return (
            f"<figure><div data-figure='{name}' style='min-height:{height}px' role='group' "
            f"aria-label='{text(caption)}'></div><figcaption>{text(caption)}</figcaption></figure>"
        )

    def drawn(self, figure: go.Figure, caption: str) -> None:
        """A figure here."""
        self.add(self.figure(figure, caption))

    def viewer(self, state: str) -> str:
        """The place of a viewer; `state` as of `viewer.page`, it comes at the end of the page."""
        name = f"v{len(self._states) + 1}"
        self._states.append(f"<script type='application/json' id='{name}'>{state}</script>")
        return f"<div data-s3pet-state='{name}'></div>"

    def render(self) -> str:
        """The whole file."""
        # The parser turns every line end into \n before a hash is taken.
        codes = (get_plotlyjs(), text_of("reports", "draw.js"), standing_module())
        scripts = [re.sub(r"\r\n?", "\n", code) for code in codes]
        digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts]
        kinds = ("", "", " type='module'")
        code = (f"<script{kind}>{script}</script>" for kind, script in zip(kinds, scripts, strict=True))
        header, *body = self._body
        return Template(text_of("reports", "page.html")).substitute(
            hashes=" ".join(f"'sha256-{digest}'" for digest in digests),
            title=text(self.title),
            style=text_of("reports", "style.css") + style(),
            header=header,
            contents=self._contents(),
            body="\n".join(body),
            data="\n".join([*self._data, *self._states]),
            scripts="\n".join(code),
        )

    def _contents(self) -> str:
        out, depth = [], 2
        for i, (level, anchor, words) in enumerate(self._toc):
            if level > depth:
                out.append("<ol>")
            elif level < depth:
                out.append("</li></ol></li>")
            elif i:
                out.append("</li>")
            out.append(f"<li><a href='#{anchor}'>{text(words)}</a>")
            depth = level
        close = "</li></ol></li>" if depth > 2 else "</li>"
        return f"<nav aria-label='Contents'><b>Contents</b><ol>{''.join(out)}{close}</ol></nav>"
