"""The module that draws in the page, and the viewer in a file of its own."""

from __future__ import annotations

import base64
import functools
import html
import json
from importlib import resources
from typing import Any

from s3pet_viz.runs import Run
from s3pet_viz.viewer.documents import EXPLORE_PARTS, Compared, live_doc, run_doc, text
from s3pet_viz.viewer.feed import Feed

_FILES = ("numbers.js", "store.js", "draw.js", "heat.js", "view.js", "many.js")

#: Gives the module a model that holds its state and has no kernel.
_MOUNT = """
for (const place of document.querySelectorAll("[data-s3pet-state]")) {
  const state = JSON.parse(document.getElementById(place.dataset.s3petState).textContent), heard = {};
  const bytes = (text) => {
    const signs = atob(text ?? ""), made = new Uint8Array(signs.length);
    for (let i = 0; i < made.length; i++) made[i] = signs.charCodeAt(i);
    return made;
  };
  for (const name of ["values", "scalars", "last"]) state[name] = bytes(state[name]);
  const tell = (name) => (heard[name] ?? []).forEach((listener) => listener());
  VIEWER.render({ el: place, model: {
    get: (name) => state[name], on: (name, listener) => (heard[name] ??= []).push(listener), off() {}, send() {},
    set(name, value) { state[name] = value; tell("change"); }, save_changes() {},
  } });
}
"""


@functools.cache
def module() -> str:
    """The ES module, whole."""
    return "".join(_read(name) for name in _FILES)


@functools.cache
def style() -> str:
    return _read("style.css")


def standing_module() -> str:
    """The module as a script of a page without a kernel: it draws every element with ``data-s3pet-state``."""
    return module().replace("export default {", "const VIEWER = {").replace("export ", "") + _MOUNT


def run_state(run: Run, *, key: str, theme: str = "light", budget: int | None = None, most: int = 2 << 20) -> str:
    """A run as JSON for `standing_module`: its document, its end, and its history as far as `most` bytes hold it."""
    feed = Feed(run)
    frame = feed.poll()
    assert frame is not None
    state: dict[str, Any] = {
        "uid": key,
        "doc": text(run_doc(run, key=key, parts=EXPLORE_PARTS, theme=theme)),
        "selection": [],
    }
    rows = None
    if feed.log is not None and frame.alpha is not None:
        while feed.log.history.size > most and feed.log.history.n > 2:
            feed.log.history.halve()
        rows, scalars, values = feed.log.history.part(0)
        state |= {"scalars": _base64(scalars), "values": _base64(values), "last": _base64(frame.alpha.tobytes())}
    state["live"] = text(live_doc(frame, key, rows) | {"budget": budget})
    return _as_json(state)


def compared_state(compared: Compared) -> str:
    """Several runs as JSON for `standing_module`."""
    doc = compared.doc
    return _as_json(
        {"uid": doc["id"], "doc": text(doc), "live": "{}", "selection": [], "values": _base64(compared.values)}
    )


def standing_page(title: str, state: str, more: str = "") -> str:
    """An HTML file that shows the viewer, and needs neither a kernel nor a network.

    Args:
        title: text. state: of `run_state`. more: HTML below the viewer.
    """
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{style()}"
        "body{font:15px/1.5 system-ui,sans-serif;margin:24px auto;max-width:1200px;padding:0 16px;"
        "background:#fff;color:#1f2933}"
        "table{border-collapse:collapse}td,th{padding:2px 10px 2px 0}</style></head><body>\n"
        "<noscript>The interactive view needs JavaScript; the tables below do not.</noscript>"
        f"<div data-s3pet-state='s3pet-state'></div>\n{more}\n"
        f"<script type='application/json' id='s3pet-state'>{state}</script>\n"
        f"<script type='module'>{standing_module()}</script></body></html>\n"
    )


def _as_json(state: dict[str, Any]) -> str:
    """JSON that can stand in a script element: without <, > and & nothing in it can end or begin one."""
    made = json.dumps(state, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        made = made.replace(sign, f"\\u{ord(sign):04x}")
    return made


def _base64(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode()


def _read(name: str) -> str:
    return resources.files("s3pet_viz.viewer").joinpath("js", name).read_text(encoding="utf-8")
