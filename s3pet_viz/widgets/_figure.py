"""FigureWidgets that fill their place and can travel as JSON."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import plotly.graph_objects as go

#: After this long, in seconds, a figure that was shown has its place on the screen.
_SETTLED = 0.4


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
    return widget


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
