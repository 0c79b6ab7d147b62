"""The curves of a running search, and the trace of one gate, as FigureWidgets that are made once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from s3pet_viz.figures import _style
from s3pet_viz.widgets._figure import new_widget

_TITLES = ("loss", "entropy of the gates, bits", "expected parameters")


class CurvesPane:
    """Losses, entropy, and the expected parameters against the budget, over steps.

    Attributes:
        figure: the FigureWidget, with traces train, validation, entropy, expected, budget.
    """

    def __init__(self) -> None:
        base = make_subplots(rows=1, cols=3, subplot_titles=_TITLES, horizontal_spacing=0.09)
        self.figure = new_widget(base)
        blue, red, green = _style.CATEGORICAL[:3]
        self._add(1, "train", {"color": blue})
        self._add(1, "validation", {"color": red, "dash": "dash"})
        self._add(2, "entropy", {"color": green}, showlegend=False)
        self._add(3, "expected", {"color": blue}, showlegend=False)
        self._add(3, "budget", {"color": _style.MUTED, "dash": "dot"}, showlegend=False)
        self.figure.update_layout(
            template=_style.TEMPLATE,
            height=240,
            autosize=True,
            margin={"l": 48, "r": 16, "t": 34, "b": 44},
            legend={
                "x": 0.27,
                "xanchor": "right",
                "y": 1,
                "yanchor": "top",
                "bgcolor": "rgba(255,255,255,0.7)",
                "font": {"size": 11},
            },
        )
        self.figure.update_annotations(font={"size": 12})
        self.figure.update_xaxes(title={"text": "step", "standoff": 4}, showgrid=False)
        self.figure.update_yaxes(nticks=5)
        for axis in ("yaxis2", "yaxis3"):
            self.figure.layout[axis].rangemode = "tozero"

    def _add(self, column: int, name: str, line: dict[str, Any], **more: Any) -> None:
        hover = f"{name} %{{y:.4g}} at step %{{x:,}}<extra></extra>"
        self.figure.add_trace(
            go.Scatter(name=name, mode="lines", line={"width": 1.6, **line}, hovertemplate=hover, **more), 1, column
        )

    def paint(self, curves: pd.DataFrame, budget: int | None) -> None:
        """Redraw; `curves` as `frame.Frame.curves`."""
        steps = curves["step"].to_numpy()
        with self.figure.batch_update():
            for trace, name in zip(self.figure.data, ("train_loss", "val_loss", "entropy", "expected"), strict=False):
                trace.x, trace.y = steps, curves[name].to_numpy(dtype=np.float32)
            line = self.figure.data[4]
            ends = [int(steps[0]), int(steps[-1])] if len(steps) and budget else []
            line.x, line.y = ends, [budget] * len(ends)


class TracePane:
    """How p of one gate moved, with the step that is looked at.

    Attributes:
        figure: the FigureWidget, with traces p and step.
    """

    def __init__(self) -> None:
        self.figure = new_widget()
        self.figure.update_layout(
            template=_style.TEMPLATE, height=260, autosize=True, margin={"l": 56, "r": 16, "t": 40, "b": 44}
        )
        hover = "step %{x:,}   p = %{y:.4g}<extra></extra>"
        blue = {"color": _style.CATEGORICAL[0], "width": 1.8}
        self.figure.add_trace(go.Scatter(name="p", mode="lines", line=blue, hovertemplate=hover, showlegend=False))
        mark = {"color": _style.OUTLINE, "width": 1.5, "dash": "dot"}
        self.figure.add_trace(go.Scatter(name="step", mode="lines", line=mark, hoverinfo="skip", showlegend=False))
        self.figure.update_xaxes(title={"text": "search step", "standoff": 4}, showgrid=False)
        self.figure.update_yaxes(title={"text": "p, as recorded"}, rangemode="tozero", nticks=6)
        self._top = 1.0

    def paint(self, steps: np.ndarray, p: np.ndarray, label: str) -> None:
        """Draw a gate; steps and p: shape (n_points,); the label is text."""
        self._top = float(p.max()) if len(p) else 1.0
        with self.figure.batch_update():
            self.figure.data[0].x, self.figure.data[0].y = steps, np.asarray(p, dtype=np.float32)
            self.figure.layout.title = {"text": _style.plain(label), "font": {"size": 13}, "pad": {"t": 12, "l": 16}}

    def mark(self, step: int) -> None:
        """Move the line of the step that is looked at."""
        with self.figure.batch_update():
            self.figure.data[1].x, self.figure.data[1].y = [step, step], [0, self._top]
