"""The HTML of a report: what is text, what is a table, what is a figure. Everything from outside is escaped here.

The page may run three scripts, plotly.js, `_DRAW` and the viewer's module, which its Content-Security-Policy names by
their hashes; it may load nothing at all. Figures are data: JSON in script elements of a type that no browser runs.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from s3pet_viz.viewer.page import standing_module, style

#: Draws one figure after the other, so that the page can be read meanwhile; on paper all get one width that fits.
_DRAW = """
(function () {
  "use strict";
  var holders = Array.prototype.slice.call(document.querySelectorAll("[data-figure]"));
  var options = {responsive: true, displaylogo: false};
  function failed(holder, error) {
    holder.textContent = "This figure could not be drawn: " + error;
  }
  function draw(i) {
    if (i === holders.length) {
      document.documentElement.setAttribute("data-drawn", "yes");
      return;
    }
    var holder = holders[i];
    function next() { setTimeout(draw, 0, i + 1); }
    try {
      var figure = JSON.parse(document.getElementById(holder.getAttribute("data-figure")).textContent);
      Plotly.newPlot(holder, figure.data, figure.layout, options).then(next, function (error) {
        failed(holder, error);
        next();
      });
    } catch (error) {
      failed(holder, error);
      next();
    }
  }
  function sized(change) {
    holders.forEach(function (holder) {
      if (holder.data) { Plotly.relayout(holder, change); }
    });
  }
  window.addEventListener("beforeprint", function () { sized({width: 690}); });
  window.addEventListener("afterprint", function () { sized({width: null, autosize: true}); });
  draw(0);
})();
"""

_STYLE = """
:root{--ink:#1f2933;--muted:#52606d;--line:#d9dfe5;--soft:#f5f7f9}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1200px;padding:24px 20px 64px;color:var(--ink);background:#fff;
font:15px/1.55 Inter,"Helvetica Neue",Helvetica,Arial,sans-serif}
h1{font-size:26px;line-height:1.25;margin:0 0 4px}
h2{font-size:20px;margin:44px 0 10px;padding-top:10px;border-top:2px solid var(--ink)}
h3{font-size:16px;margin:28px 0 6px}
h1,h2,h3,p,li,pre,.note,.finding{overflow-wrap:anywhere}
h1,h2,h3,p,td,th,li,pre,.note{unicode-bidi:isolate}
p{margin:6px 0;max-width:78ch}
a{color:#0b5394}
nav{background:var(--soft);border:1px solid var(--line);border-radius:6px;padding:10px 18px;margin:18px 0}
nav ol{margin:4px 0;padding-left:22px;columns:2 300px}
nav ol ol{columns:1;font-size:.93em}
nav li{break-inside:avoid}
.muted{color:var(--muted)}
figure{margin:10px 0 22px;min-width:0}
figcaption{color:var(--muted);font-size:13.5px;max-width:95ch;padding:0 16px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,540px),1fr));gap:0 16px;align-items:start}
.scroll{overflow-x:auto;margin:8px 0}
.long{max-height:520px;overflow:auto}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:3px 14px 3px 0;border-bottom:1px solid var(--line);max-width:460px;
overflow-wrap:break-word}
thead th{border-bottom:1.5px solid var(--ink);background:#fff;white-space:nowrap;overflow-wrap:normal;max-width:none}
.long thead th{position:sticky;top:0}
tbody th{font-weight:600}
td.n,th.n{text-align:right;white-space:nowrap}
tr.differs td{background:#fff4e5}
.finding{border-left:4px solid var(--muted);padding:4px 12px;margin:8px 0;max-width:90ch}
.finding.problem{border-color:#b3261e}.finding.warning{border-color:#b37400}.finding.good{border-color:#00724f}
.finding b:first-child{text-transform:uppercase;font-size:12px;letter-spacing:.05em;margin-right:8px}
.note{border-left:4px solid var(--line);background:var(--soft);padding:6px 12px;margin:8px 0;max-width:90ch}
pre{white-space:pre-wrap;background:#fdf1f0;border-left:4px solid #b3261e;padding:8px 12px;max-height:320px;
overflow:auto;font-size:13px;line-height:1.45}
@media print{
@page{size:A4;margin:14mm}
body{max-width:none;padding:0;font-size:12px}
h2{break-after:avoid}h3{break-after:avoid}
figure,.finding{break-inside:avoid}
.pair{display:block}
.long,.scroll,pre{max-height:none;overflow:visible}
.long thead th{position:static}
table{font-size:10.5px}
thead{display:table-header-group}tr{break-inside:avoid}
.modebar{display:none!important}
}
"""


def text(value: object) -> str:
    """Text from outside, safe between tags and inside quoted attributes."""
    # A lone surrogate (an undecodable file name) cannot be written as UTF-8.
    return html.escape(str(value).encode("utf-8", "replace").decode(), quote=True)


def figure_json(figure: go.Figure) -> str:
    """A figure's JSON that can stand in a script element: without <, > and & nothing in it can end or begin one."""
    made: str = plotly.io.to_json(figure, validate=False, engine="json")
    for sign in "<>&\u2028\u2029":
        made = made.replace(sign, f"\\u{ord(sign):04x}")
    return made


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

    def cell(tag: str, i: int, value: object) -> str:
        scope = " scope='col'" if tag == "th" else ""
        return f"<{tag}{scope}{' class=n' if i in right else ''}>{text(value)}</{tag}>"

    top = "".join(cell("th", i, name) for i, name in enumerate(head)) if any(head) else ""
    body = []
    for at, row in enumerate(rows):
        name, *values = row
        cells = "".join(cell("td", i, value) for i, value in enumerate(values, 1))
        kind = " class=differs" if at in coloured else ""
        body.append(f"<tr{kind}><th scope='row'{' class=n' if 0 in right else ''}>{text(name)}</th>{cells}</tr>")
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

    def viewer(self, state: str) -> str:
        """The place of a viewer; `state` as of `viewer.page`, it comes at the end of the page."""
        name = f"v{len(self._states) + 1}"
        self._states.append(f"<script type='application/json' id='{name}'>{state}</script>")
        return f"<div data-s3pet-state='{name}'></div>"

    def render(self) -> str:
        """The whole file."""
        # The parser turns every line end into \n before a hash is taken.
        scripts = [re.sub(r"\r\n?", "\n", code) for code in (get_plotlyjs(), _DRAW, standing_module())]
        hashes = " ".join(f"'sha256-{_sha256(code)}'" for code in scripts)
        policy = (
            f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
            "base-uri 'none'; form-action 'none'"
        )
        head = (
            "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>\n"
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            "<meta name='viewport' content='width=device-width,initial-scale=1'>\n"
            f"<title>{text(self.title)}</title>\n<style>{_STYLE}{style()}</style></head><body>\n<main>\n"
        )
        noscript = "<noscript><div class='note'>The figures need JavaScript; the tables do not.</div></noscript>"
        body = "\n".join((self._body[0], noscript, self._contents(), *self._body[1:]))
        kinds = ("", "", " type='module'")
        code = "\n".join(f"<script{kind}>{script}</script>" for kind, script in zip(kinds, scripts, strict=True))
        return f"{head}{body}\n</main>\n{chr(10).join([*self._data, *self._states])}\n{code}\n</body></html>\n"

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


def _sha256(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
