"""Small pieces of HTML and of layout. Everything from outside is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

import ipywidgets as w

from s3pet_viz.runs.health import Finding

#: Signs say the status too, so that colour is not needed.
_STATUS = {
    "starting": ("◌", "#7b8794"),
    "running": ("▶", "#0072b2"),
    "paused": ("❚❚", "#8a6d00"),
    "finished": ("✔", "#00724f"),
    "stopped": ("■", "#52606d"),
    "failed": ("✖", "#b3261e"),
    "dead": ("✖", "#b3261e"),
}
#: A long traceback must not push the figures off the screen.
_MOST_ERROR = 1500


def box(*children: Any, **layout: Any) -> w.Box:
    """A row that breaks where it is narrow; nothing has a fixed place."""
    style = {"display": "flex", "flex_flow": "row wrap", "align_items": "center", "width": "auto", **layout}
    return w.Box(children, layout=w.Layout(**style))


def text() -> w.HTML:
    """A line that code fills."""
    return w.HTML(layout=w.Layout(margin="0 8px 0 0"))


def escaped(value: object) -> str:
    return html.escape(str(value), quote=True)


def paragraph(body: str, *, colour: str | None = None, role: str | None = None) -> str:
    """Already escaped text as one block."""
    style = "margin:2px 0;line-height:1.45" + (f";color:{colour}" if colour else "")
    spoken = f" role='{role}'" if role else ""
    return f"<div style='{style}'{spoken}>{body}</div>"


def status_html(status: str, note: str = "") -> str:
    """The status, as a sign, a word and a colour."""
    sign, colour = _STATUS.get(status, ("•", "#52606d"))
    more = f" <span style='color:#52606d'>{escaped(note)}</span>" if note else ""
    return paragraph(f"<b style='color:{colour}'>{sign} {escaped(status)}</b>{more}", role="status")


def error_html(message: str, *, title: str = "") -> str:
    """A message that cannot be overlooked; only its end where it is long."""
    shown = message if len(message) <= _MOST_ERROR else "… " + message[-_MOST_ERROR:]
    head = f"<b>{escaped(title)}</b><br>" if title else ""
    style = (
        "border-left:4px solid #b3261e;background:#fdf1f0;color:#601410;padding:6px 10px;margin:4px 0;"
        "white-space:pre-wrap;overflow-wrap:anywhere;max-height:180px;overflow-y:auto;line-height:1.4"
    )
    return f"<div role='alert' style='{style}'>{head}{escaped(shown)}</div>"


def facts_html(facts: Mapping[str, object]) -> str:
    """A table of two columns."""
    cell = "text-align:left;vertical-align:top;padding:1px 12px 1px 0;overflow-wrap:anywhere"
    rows = "".join(
        f"<tr><th scope='row' style='{cell};font-weight:600;white-space:nowrap'>{escaped(name)}</th>"
        f"<td style='{cell}'>{escaped(value)}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table style='border-collapse:collapse;line-height:1.5'><tbody>{rows}</tbody></table>"


def findings_html(findings: Iterable[Finding]) -> str:
    """Search health in words; each finding has a level, a title and a text."""
    signs = {
        "good": ("✔", "#00724f"),
        "note": ("ℹ", "#0072b2"),
        "warning": ("▲", "#8a6d00"),
        "problem": ("✖", "#b3261e"),
    }
    lines = []
    for finding in findings:
        sign, colour = signs[finding.level]
        lines.append(
            paragraph(f"<b style='color:{colour}'>{sign} {escaped(finding.title)}</b> {escaped(finding.text)}")
        )
    return "".join(lines)


def duration(seconds: float) -> str:
    """As a person says it: ``40 s``, ``3 min``, ``2 h 05 min``."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
