"""The module that draws in the page, and the viewer in a file of its own."""

from __future__ import annotations

import base64
import functools
import html
import json
from string import Template
from typing import Any

from s3pet_viz.analysis.trust import Trust, trust
from s3pet_viz.resources import text_of
from s3pet_viz.runs import Run
from s3pet_viz.viewer.documents import EXPLORE_PARTS, Compared, live_doc, run_doc, text
from s3pet_viz.viewer.feed import Feed
from s3pet_viz.viewer.state import State, opened
from s3pet_viz.viewer.trust import trust_doc

_FILES = ("numbers.js", "store.js", "draw.js", "heat.js", "share.js", "trust.js", "view.js", "many.js")


@functools.cache
def module() -> str:
    """The ES module, whole."""
    return "".join(text_of("viewer", "js", name) for name in _FILES)


@functools.cache
def table_module() -> str:
    """The ES module of the table of runs."""
    return text_of("viewer", "js", "draw.js") + text_of("viewer", "js", "table.js")


@functools.cache
def style() -> str:
    return text_of("viewer", "js", "style.css")


def standing_module() -> str:
    """The module as a script of a page without a kernel: it draws every element with ``data-s3pet-state``; mount.js
    gives it a model that holds its state.
    """
    own = module().replace("export default {", "const VIEWER = {").replace("export ", "")
    return own + text_of("viewer", "mount.js")


def run_state(
    run: Run,
    *,
    key: str,
    theme: str = "light",
    budget: int | None = None,
    most: int = 2 << 20,
    view: State | None = None,
    card: Trust | None = None,
) -> str:
    """A run as JSON for `standing_module`: its document, its end, its history as far as `most` bytes hold it, and the
    card of `s3.trust`.

    Args:
        card: of this run, where it was made already.
        view: the state that it opens with (`viewer.state`).

    Raises:
        ConfigError: a wrong `view`; names the field.
    """
    feed = Feed(run)
    frame = feed.poll()
    assert frame is not None
    doc = run_doc(run, key=key, parts=EXPLORE_PARTS, theme=theme)
    picked = [] if view is None else opened(view, doc, frame.step)
    state: dict[str, Any] = {"uid": key, "doc": text(doc), "selection": picked}
    state["trust"] = text({key: trust_doc(card or trust(run), run.n_steps)})
    rows = None
    if feed.log is not None and frame.alpha is not None:
        while feed.log.history.size > most and feed.log.history.n > 2:
            feed.log.history.halve()
        rows, scalars, values = feed.log.history.part(0)
        state |= {"scalars": _base64(scalars), "values": _base64(values), "last": _base64(frame.alpha.tobytes())}
    state["live"] = text(live_doc(frame, key, rows) | {"budget": budget})
    return in_script(json.dumps(state, separators=(",", ":")))


def compared_state(compared: Compared, card: Trust, view: State | None = None) -> str:
    """Several runs, and the card of all, as JSON for `standing_module`; `view` as of `run_state`."""
    doc = compared.doc
    picked = [] if view is None else opened(view, doc)
    state = {"uid": doc["id"], "doc": text(doc), "live": "{}", "selection": picked, "values": _base64(compared.values)}
    state["trust"] = text({doc["id"]: trust_doc(card)})
    return in_script(json.dumps(state, separators=(",", ":")))


def standing_page(title: str, state: str, more: str = "") -> str:
    """An HTML file that shows the viewer, and needs neither a kernel nor a network. `title`: text. state: of
    `run_state`. more: HTML below the viewer.
    """
    whole = Template(text_of("viewer", "standing.html"))
    return whole.substitute(title=html.escape(title), style=style(), more=more, state=state, module=standing_module())


def in_script(json_text: str) -> str:
    """JSON that can stand in a script element: without <, > and & nothing in it can end or begin one."""
    for sign in "<>&\u2028\u2029":
        json_text = json_text.replace(sign, f"\\u{ord(sign):04x}")
    return json_text


def _base64(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode()
