"""The viewer as a widget: the kernel feeds the page, which does the rest."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import anywidget
import ipywidgets as w
import traitlets as t

from s3pet_viz.analysis.trust import TrustLike, trust
from s3pet_viz.config.checks import among
from s3pet_viz.errors import ConfigError, S3PETError
from s3pet_viz.runs import Run
from s3pet_viz.viewer import page
from s3pet_viz.viewer.documents import THEMES, text
from s3pet_viz.viewer.state import defaults, names_of
from s3pet_viz.viewer.static import Panel, svg
from s3pet_viz.viewer.trust import trust_doc

#: The picture hides where the viewer's own module has drawn.
_FALLBACK = (
    "<style>.s3pet-frame:has(.s3pet-viewer) .s3pet-static{display:none}</style><div class='s3pet-static'>PICTURE</div>"
)
SENTENCE = (
    "A picture of the last step that was drawn. Where this stays, the interactive view needs anywidget beside "
    "JupyterLab: pip install anywidget in the environment that runs JupyterLab, then reload the page."
)
#: Questions that wait for a busy kernel are answered once in so many seconds.
_ANSWER = 2.0
#: Cards that a page keeps.
_CARDS = 8


class Page(anywidget.AnyWidget):
    """What a page knows of a viewer. All but `view` travels; changes that belong together go in one message.

    Attributes:
        uid: of the viewer. place: of its model in the page. doc: what stays, as JSON. live: what changes, as JSON.
        scalars, values: rows of history, float64 and float32 or codes. last: alpha of the newest step, float32.
        selection: indices of the picked gates. edit: a structure by hand: ``gates`` (those pinned in and out are
            numbered after the searched ones), and the budget and step that it began with, null for the run's own; None:
            none. trust: cards of `s3.trust` that were asked for, by key, as JSON. view: what is looked at, as the page
            said in a message (`viewer.state`); None: untouched.
    """

    _esm = page.module()
    _css = page.style()
    uid = t.Unicode().tag(sync=True)
    place = t.Unicode().tag(sync=True)
    doc = t.Unicode("null").tag(sync=True)
    live = t.Unicode("{}").tag(sync=True)
    scalars = t.Bytes(b"").tag(sync=True)
    values = t.Bytes(b"").tag(sync=True)
    last = t.Bytes(b"").tag(sync=True)
    selection = t.List(t.Int(min=0)).tag(sync=True)
    edit: Any = t.Dict(default_value=None, allow_none=True).tag(sync=True)
    trust = t.Unicode("{}").tag(sync=True)
    view: Any = t.Dict(default_value=None, allow_none=True)

    def __init__(self, whole: Callable[[], dict[str, Any]] | None = None, **state: Any) -> None:
        self._whole = whole
        self._beside: dict[str, Any] = {}
        super().__init__(uid=uuid.uuid4().hex, **state)
        self.place = self.model_id or ""

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """A page that opens late gets the whole history, also where only what was new was sent before."""
        state: dict[str, Any] = super().get_state(key, drop_defaults)
        if key is not None:
            state |= self._beside
        elif self._whole is not None:
            state |= self._whole()
        return state

    def tell(self, beside: dict[str, Any] | None = None, **changes: Any) -> None:
        """Send attributes in one message, also those that have not changed: they may have been lost. `beside`: others
        that travel with them and are not held here.
        """
        self._beside = beside or {}
        try:
            with self.hold_sync():
                for name, value in changes.items():
                    setattr(self, name, value)
                self._states_to_send |= changes.keys()
        finally:
            self._beside = {}


class Pictured(w.VBox):
    """A box of widgets that leaves a picture where no widget is drawn: on GitHub, in an exported notebook."""

    def _static_svg(self) -> str:
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        data["image/svg+xml"] = self._static_svg()
        return bundle


class Viewer(Pictured):
    """A view of runs that is drawn and driven in the page: it stays right while the kernel is busy.

    Attributes:
        page: what the page knows.
        theme: ``auto`` (JupyterLab's own colours), ``light`` or ``dark``.

    Raises:
        ConfigError: another theme.
    """

    def __init__(self, *, theme: str = "auto", whole: Callable[[], dict[str, Any]] | None = None, **state: Any) -> None:
        self.theme = among("theme", theme, THEMES)
        self._lock, self._answered = threading.RLock(), float("-inf")
        self.page = Page(whole, **state)
        self._judging: set[str] = set()
        self._static = w.HTML()
        super().__init__([self._static, self.page], layout=w.Layout(width="100%", min_width="0"))
        self.add_class("s3pet-frame")
        self.page.on_msg(self._heard)
        self.page.on_msg(self._viewed)
        self.page.on_msg(self._judge)

    @property
    def selection(self) -> tuple[int, ...]:
        """Indices of the gates that are picked, in the page or by assignment."""
        return tuple(self.page.selection)

    @selection.setter
    def selection(self, gates: Sequence[int]) -> None:
        count = len(json.loads(self.page.doc)["space"]["n"]) if self.page.doc != "null" else 0
        picked = [int(gate) for gate in gates]
        if any(not 0 <= gate < count for gate in picked):
            raise ConfigError(f"selection: expected gates from 0 to {count - 1}, found {picked}")
        self.page.selection = picked

    def share(self) -> dict[str, Any]:
        """What is looked at, as JSON: selection, step, budget, order of rows, groups, filters, parts, scale,
        text in cells, theme and edits. ``state=`` of the views, `s3.report` and ``s3pet show --state`` open the same
        picture with it; the page's *copy* menu gives it too. Gates are named by position and PET type, ``of`` says of
        which gates it is. Where two pages show this view, it is the one that was changed last.

        Raises:
            ConfigError: nothing is shown yet.
        """
        doc = json.loads(self.page.doc)
        if doc is None:
            raise ConfigError("share: nothing is shown yet; expected a view of a run")
        told = self.page.view
        if told is None or told.get("of") != doc["of"]:
            told = doc.get("view", {})
        names = names_of(doc)
        return {**defaults(doc), **told, "selection": [list(names[gate]) for gate in self.selection]}

    def close(self) -> None:
        """Take the view off the screen."""
        for child in getattr(self, "children", ()):  # ipywidgets closes what `__init__` refused, too
            child.close()
        super().close()

    # -- inside ----------------------------------------------------------------------------------------

    def _due(self) -> bool:
        """Whether to answer: what a page asked again and again while the kernel was busy is answered once."""
        now = time.monotonic()
        due = now - self._answered > _ANSWER
        if due:
            self._answered = now
        return due

    def panels(self) -> list[Panel]:
        """What a picture without scripts shows."""
        return []

    def _static_svg(self) -> str:
        return svg(self.panels(), SENTENCE)

    def _show_static(self) -> None:
        self._static.value = _FALLBACK.replace("PICTURE", self._static_svg())

    def _viewed(self, _: Any, message: Any, buffers: Any) -> None:
        """The page says what is looked at."""
        if isinstance(message, dict) and message.get("kind") == "view" and isinstance(message.get("view"), dict):
            self.page.view = message["view"]

    def _judge(self, _: Any, message: Any, buffers: Any) -> None:
        """The page asks for the card of `s3.trust`. It takes seconds: a thread makes it, and the view goes on."""
        key = message.get("key") if isinstance(message, dict) and message.get("kind") == "trust" else None
        if not isinstance(key, str):
            return
        with self._lock:
            if key in json.loads(self.page.trust):  # the answer was lost
                if self._due():
                    self.page.tell(trust=self.page.trust)
                return
            if key in self._judging:
                return
            self._judging.add(key)
        threading.Thread(
            target=self._tell_card, args=(key, message.get("runs")), name="s3pet-trust", daemon=True
        ).start()

    def _tell_card(self, key: str, runs: Any) -> None:
        try:
            asked = self._trusted(runs)
            card = trust_doc(trust(asked), asked.n_steps if isinstance(asked, Run) else None)
        except (S3PETError, OSError, LookupError, TypeError, ValueError) as error:
            card = {"problem": str(error)}
        with self._lock:
            kept = dict(list(json.loads(self.page.trust).items())[1 - _CARDS :])
            self.page.tell(trust=text(kept | {key: card}))
            self._judging.discard(key)

    def _trusted(self, runs: Any) -> TrustLike:
        """What is judged. runs: numbers of some of several runs, as the page says them."""
        raise NotImplementedError

    def _heard(self, _: Any, message: Any, buffers: Any) -> None:
        """What the page asks; kinds that are not known are no request of ours."""
