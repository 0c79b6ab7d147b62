"""FigureWidgets that fill their place and can travel as JSON."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import plotly.graph_objects as go

#: After this long, in seconds, a figure that was shown has its place on the screen.
_SETTLED = 0.4
#: A figure is sent anew this often at most, for each page that opens.
_RESENDS = 5


def new_widget(figure: go.Figure | None = None) -> go.FigureWidget:
    """A FigureWidget as wide as what holds it.

    One that is drawn before the browser has given it its place is 700 px wide, and would stay so.
    """
    widget = go.FigureWidget(figure)
    widget._config = {"displaylogo": False}
    widget.layout.autosize = True

    def seen(_: Any) -> None:
        timer = threading.Timer(_SETTLED, fit, [widget])
        timer.daemon = True
        timer.start()

    widget.observe(seen, "_view_count")
    _Check(widget)
    return widget


class _Check:
    """Compares the traces that a page says it has drawn with those there are, and sends all of them where they differ.

    What is sent while a page is still loading plotly's script, or draws for the first time, may be lost: the more, the
    slower the browser. Such a figure would stay empty for ever.
    """

    def __init__(self, widget: go.FigureWidget) -> None:
        self._widget, self._left = widget, _RESENDS
        self._new_page = False
        self._since = 0  # the newest edit by which traces came or went
        widget.observe(self._seen, "_view_count")
        widget.observe(self._changed, ["_py2js_addTraces", "_py2js_deleteTraces"])
        widget.observe(self._drawn, "_js2py_traceDeltas")

    def _seen(self, change: Any) -> None:
        if (change["new"] or 0) > (change["old"] or 0):
            self._new_page, self._left = True, _RESENDS

    def _changed(self, change: Any) -> None:
        if change["new"]:
            self._since = change["new"]["trace_edit_id"]

    def _drawn(self, change: Any) -> None:
        said = change["new"]
        # A page's first answer counts even if it is an old one: what came since may have come too early for it.
        if not said or not (self._new_page or said["trace_edit_id"] >= self._since):
            return
        self._new_page = False
        drawn = [delta.get("uid") for delta in said["trace_deltas"]]
        if drawn != [trace["uid"] for trace in self._widget._data] and self._left:
            self._left -= 1
            resend(self._widget, len(drawn))


def resend(widget: go.FigureWidget, drawn: int) -> None:
    """Draw a figure anew in every page that shows it.

    Args:
        drawn: how many traces are on the page now.
    """
    if drawn:
        widget._send_deleteTraces_msg(list(range(drawn)))
    widget._send_addTraces_msg(copy.deepcopy(widget._data))
    widget._send_relayout_msg({**copy.deepcopy(widget._layout_obj._props), "width": None, "autosize": True})
    send_whole(widget)
    widget.send_state(["_widget_data", "_widget_layout"])


def fit(widget: go.FigureWidget) -> None:
    """Have the browser measure the width again. A change of the height needs it, too: plotly.js then fixes the width
    unless all three are said at once, which no assignment does where they are no change here.
    """
    if widget.comm is not None:
        widget._send_relayout_msg({"width": None, "height": widget.layout.height, "autosize": True})


def refill(widget: go.FigureWidget, figure: go.Figure) -> None:
    """Show another figure in a widget that is there: a new widget would never be freed."""
    for trace in figure.data:
        if trace.type == "heatmap":
            trace.z = without_nan(trace.z)
    figure.layout.autosize = True
    with widget.batch_update():
        widget.data = ()
        widget.layout = figure.layout
    widget.add_traces(figure.data)
    fit(widget)


def send_whole(widget: go.FigureWidget) -> None:
    """Send what a widget holds before it is shown.

    Changes travel as messages that plotly's script takes up only once it has loaded: those that come before are lost,
    and the figure stays empty.
    """
    widget._widget_layout = copy.deepcopy(widget._layout_obj._props)
    widget._widget_data = copy.deepcopy(widget._data)


@contextmanager
def whole_until_seen(*widgets: go.FigureWidget) -> Iterator[None]:
    """Within, what changes in a widget that no page shows yet is sent whole, once, at the end.

    As messages the changes would wait for plotly's script, and be drawn one after another once it is there.
    """
    unseen = [widget for widget in widgets if not widget._view_count]
    with ExitStack() as held:
        for widget in unseen:
            held.enter_context(widget.hold_sync())
        yield
        for widget in unseen:
            send_whole(widget)


def without_nan(cells: Any) -> np.ndarray:
    """Cells as a widget can send them: None where there is nothing, for JSON knows no NaN; four digits are enough.

    Args:
        cells: numbers, shape (n_rows, n_columns).

    Returns:
        Of the same shape, of objects.
    """
    values = np.asarray(cells, dtype=np.float64)
    made = np.empty(values.shape, dtype=object)
    made.ravel()[:] = [float(f"{value:.4g}") if np.isfinite(value) else None for value in values.ravel().tolist()]
    return made
