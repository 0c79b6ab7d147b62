"""A browser slower than the kernel: nothing queues up, nothing that it missed stays missing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from s3pet_viz.widgets import LiveView, _figure, _pace, live
from s3pet_viz.widgets._figure import new_widget, whole_until_seen
from s3pet_viz.widgets._latest import Latest
from s3pet_viz.widgets._pace import Pace


def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def answer(widget: go.FigureWidget, traces: Any = None, edit: int | None = None) -> None:
    """What a page says once it has drawn `traces`."""
    uids = [trace["uid"] for trace in (widget._data if traces is None else traces)]
    edit = widget._last_trace_edit_id if edit is None else edit
    widget._js2py_traceDeltas = {"trace_deltas": [{"uid": uid} for uid in uids], "trace_edit_id": edit}


class Sent(list):
    """What went to the page, as (name, value); what is set back to None is left out."""

    def __init__(self, widget: go.FigureWidget, monkeypatch: pytest.MonkeyPatch) -> None:
        def send_state(key: Any = None) -> None:
            for name in [key] if isinstance(key, str) else sorted(key):
                value = getattr(widget, name)
                if value is not None and name.startswith(("_py2js", "_widget")):
                    self.append((name, value))

        monkeypatch.setattr(widget, "send_state", send_state)

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self}


@pytest.fixture
def figure() -> Iterator[go.FigureWidget]:
    widget = new_widget()
    widget.add_trace(go.Scatter(x=[0, 1], y=[0, 1]))
    widget.add_trace(go.Scatter(x=[0, 1], y=[1, 2]))
    yield widget
    widget.close()


@pytest.fixture
def resent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many traces were on the page at each time that a figure was sent anew."""
    calls: list[int] = []
    true = _figure.resend

    def resend(widget: go.FigureWidget, drawn: int) -> None:
        calls.append(drawn)
        true(widget, drawn)

    monkeypatch.setattr(_figure, "resend", resend)
    return calls


# -- the pace ------------------------------------------------------------------------------------------


def test_a_figure_that_no_page_shows_waits_for_nothing(figure):
    pace = Pace(figure)
    figure.data[0].y = [1, 1]
    assert figure._trace_edit_in_process
    assert pace.free()


def test_the_next_drawing_waits_for_the_answer(figure, monkeypatch):
    monkeypatch.setattr(_pace, "PATIENCE_BUSY", 60)
    figure._view_count = 1
    pace = Pace(figure)
    figure.data[0].y = [1, 1]
    assert not pace.free()
    answer(figure, edit=figure._last_trace_edit_id - 1)
    assert not pace.free(), "an answer to an older edit"
    answer(figure)
    assert pace.free()


def test_an_answer_that_never_comes_is_not_waited_for_for_ever(figure, monkeypatch):
    monkeypatch.setattr(_pace, "PATIENCE_BUSY", 0.2)
    figure._view_count = 1
    pace = Pace(figure)
    figure.data[0].y = [1, 1]
    began = time.monotonic()
    until(pace.free)
    assert 0.2 <= time.monotonic() - began < 2
    assert not pace.free(), "and the next one waits again"


def test_a_kernel_at_work_is_told_from_a_slow_page(figure, monkeypatch):
    """A kernel that runs a cell hears no answer, so the page is not to blame."""
    monkeypatch.setattr(_pace, "PATIENCE", 60)
    monkeypatch.setattr(_pace, "PATIENCE_BUSY", 0.1)
    monkeypatch.setattr(_pace, "_BUSY", 0.2)
    figure._view_count = 1
    figure.data[0].y = [1, 1]

    async def kernel() -> tuple[bool, bool]:
        pace = Pace(figure)
        for _ in range(8):  # nothing to do: the kernel answers itself
            idle = pace.free()
            await asyncio.sleep(0.05)
        end = time.monotonic() + 0.5
        while time.monotonic() < end:  # a cell
            busy = pace.free()
            time.sleep(0.05)
            if busy:
                break
        return idle, busy

    assert asyncio.run(kernel()) == (False, True)


def test_values_wait_until_the_page_is_ready():
    ready, done = [], []
    latest: Latest[int] = Latest(done.append, on_error=lambda error: done.append(-1), interval=0, ready=lambda: bool(ready))
    for value in range(5):
        latest.submit(value)
        time.sleep(0.02)
    assert done == []
    ready.append(True)
    assert latest.wait()
    assert done == [4], "only the latest"


def test_what_is_closed_waits_no_longer():
    latest: Latest[int] = Latest(lambda value: None, on_error=print, ready=lambda: False)
    latest.submit(1)
    thread = latest._thread
    assert thread is not None
    latest.close()
    thread.join(2)
    assert not thread.is_alive()


# -- what a page missed --------------------------------------------------------------------------------


def test_a_page_that_missed_the_traces_gets_them(figure, resent, monkeypatch):
    sent = Sent(figure, monkeypatch)
    figure._view_count = 1
    answer(figure, traces=[], edit=0)
    assert resent == [0]
    assert sent.names == {"_py2js_addTraces", "_py2js_relayout", "_widget_layout", "_widget_data"}
    added = next(value for name, value in sent if name == "_py2js_addTraces")
    assert [trace["uid"] for trace in added["trace_data"]] == [trace["uid"] for trace in figure._data]
    answer(figure)
    assert resent == [0], "once is enough"


def test_traces_that_came_twice_go(figure, resent, monkeypatch):
    sent = Sent(figure, monkeypatch)
    figure._view_count = 1
    answer(figure, traces=figure._data + figure._data)
    assert resent == [4]
    gone = next(value for name, value in sent if name == "_py2js_deleteTraces")
    assert gone["delete_inds"] == [0, 1, 2, 3]


def test_a_page_that_has_everything_is_left_alone(figure, resent):
    figure._view_count = 1
    answer(figure)
    figure.data[0].y = [3, 3]
    answer(figure)
    assert resent == []


def test_an_old_answer_says_nothing_of_new_traces(figure, resent):
    figure._view_count = 1
    answer(figure)
    before, drawn = figure._last_trace_edit_id, list(figure._data)
    figure.add_trace(go.Scatter(x=[0], y=[0]))
    answer(figure, traces=drawn, edit=before)
    assert resent == [], "the third trace is on its way"
    answer(figure, traces=drawn)
    assert resent == [2], "it was lost"


def test_it_does_not_go_on_for_ever(figure, resent):
    figure._view_count = 1
    for _ in range(20):
        answer(figure, traces=[])
    assert len(resent) == _figure._RESENDS
    figure._view_count = 2
    answer(figure, traces=[])
    assert len(resent) == _figure._RESENDS + 1, "another page starts afresh"


def test_what_no_page_shows_is_sent_whole(figure, monkeypatch):
    sent = Sent(figure, monkeypatch)
    with whole_until_seen(figure):
        for value in range(5):
            figure.data[0].y = [value, value]
    assert sent.names == {"_widget_data", "_widget_layout"}
    assert dict(sent)["_widget_data"][0]["y"] == [4, 4]
    sent.clear()
    figure._view_count = 1
    with whole_until_seen(figure):
        figure.data[0].y = [7, 7]
    assert sent.names == {"_py2js_restyle"}


# -- the live view -------------------------------------------------------------------------------------


def opened(view: LiveView) -> None:
    """Return once the page has what it gets as it opens."""
    until(lambda: view._pages == 1)
    with view._lock:
        pass


def cells(view: LiveView) -> list:
    return [value for row in view.heatmap.data[0].z for value in row if value is not None]


@pytest.fixture
def shown(growing, monkeypatch):
    """A growing run, and its view on a page that never answers by itself."""
    monkeypatch.setattr(_pace, "PATIENCE_BUSY", 60)
    monkeypatch.setattr(live, "INTERVAL", 0.02)
    monkeypatch.setattr(live, "CURVES_INTERVAL", 0.02)
    source = growing()
    source.write()
    view = LiveView(source.path)
    yield source, view
    view.close()


def test_a_slow_page_gets_the_latest_picture_only(shown):
    source, view = shown
    until(lambda: view.frame.step == 0 and view._painted is view.frame)
    view.heatmap._view_count = view.curves._view_count = 1
    opened(view)
    held, edit = cells(view), view.heatmap._last_trace_edit_id
    for _ in range(3):
        taken = view.frame.step
        source.write()
        until(lambda taken=taken: view.frame.step == taken + 1)
    assert cells(view) == held, "it still draws the first"
    assert view.heatmap._last_trace_edit_id == edit
    answer(view.heatmap)
    answer(view.curves)
    until(lambda: cells(view) != held)
    assert view._painted is view.frame, "the latest"
    assert view.heatmap._last_trace_edit_id == edit + 1, "and none of those between"


def test_the_last_picture_is_drawn_when_the_page_is_ready(shown):
    source, view = shown
    view.heatmap._view_count = view.curves._view_count = 1
    opened(view)
    held = cells(view)
    source.write()
    source.end()
    until(lambda: view.frame.ended)
    assert view.following
    assert cells(view) == held
    answer(view.heatmap)
    answer(view.curves)
    until(lambda: not view.following)
    assert cells(view) != held
    assert np.isclose(max(cells(view)), float(view.frame.p.max()), rtol=1e-3)


def test_a_page_that_opens_gets_everything_again(shown, monkeypatch):
    _, view = shown
    until(lambda: view._painted is view.frame)
    laid: list[int] = []
    monkeypatch.setattr(view._gates, "_dress", lambda grid: laid.append(len(grid.rows)))
    view.heatmap._view_count = 1
    until(lambda: laid)
    time.sleep(0.2)
    assert len(laid) == 1
