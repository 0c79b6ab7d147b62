"""What a page knows of a search, whatever it missed: the whole history, or it asks for it; at the end the run's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from widget_runs import Growing, space

from s3pet_viz.runs import RunWriter
from s3pet_viz.viewer import pack
from s3pet_viz.widgets import LiveView, live

MOVING = ("scalars", "values", "last")


class Wire:
    """Everything that a view tells its page, in order; a test says what arrives."""

    def __init__(self, view: LiveView) -> None:
        self.view = view
        self.told: list[dict[str, Any]] = []
        view.page._send = self._hear  # type: ignore[method-assign]

    def _hear(self, message: dict[str, Any], buffers: Any = None) -> None:
        if message["method"] != "update":
            return
        state = dict(message["state"])
        for path, data in zip(message["buffer_paths"], buffers or (), strict=True):
            (name,) = path
            state[name] = bytes(data)
        self.told.append(state)

    def opened(self) -> dict[str, Any]:
        """What a page gets that opens now."""
        state = self.view.page.get_state()
        return {name: bytes(state[name]) if name in MOVING else state[name] for name in ("uid", "doc", "live", *MOVING)}


class Page:
    """A page that hears some of it."""

    def __init__(self, node, wire: Wire) -> None:
        feed = wire.view._feed
        self.node, self.wire, self.gates = node, wire, 10 if feed is None else len(feed.gates) or 10
        node("open", {"name": "page", "state": wire.opened()})

    def hear(self, messages: list[dict[str, Any]]) -> None:
        for state in messages:
            self.node("tell", {"name": "page", "state": {k: v for k, v in state.items() if k in ("doc", "live", *MOVING)}})

    @property
    def known(self) -> dict[str, Any]:
        return self.node("known", {"name": "page", "gates": self.gates})

    def asked(self) -> list[str]:
        return [message["kind"] for message in self.node("asked", "page")]

    def answered(self) -> None:
        """The kernel answers what was asked, and all of the answer arrives."""
        for message in self.node("asked", "page"):
            before = len(self.wire.told)
            self.wire.view._heard(None, message, None)
            self.hear(self.wire.told[before:])

    def close(self) -> None:
        self.node("close", "page")


def alphas_of(known) -> np.ndarray:
    return np.array(known["alpha"], dtype=np.float32)


@pytest.fixture
def small(monkeypatch) -> None:
    """Limits so small that a short run goes through all forms of history, and threads that do nothing by themselves."""
    monkeypatch.setattr(live, "_WHOLE", 0)
    monkeypatch.setattr(live.LiveView, "_poll", lambda *_: None)
    monkeypatch.setattr("s3pet_viz.widgets.viewer._ANSWER", -1.0)


def story(folder, *, thinned: bool = False) -> Iterator[tuple[Wire, Growing]]:
    """A search of 40 steps that is stopped at 20 and goes on from 15; yields after each look of the view."""
    source = Growing(folder / "run", space(3, 2), steps_total=40)
    source.write(2)
    view = LiveView(source.path, control=False)
    wire = Wire(view)
    yield wire, source
    for _ in range(6):
        source.write(3)
        view._update()
        yield wire, source
    source.end("stopped")
    view._update()
    source.writer, source.step = RunWriter.resume(source.path, from_step=15), 15
    while source.step < 40:
        source.write(5)
        view._update()
        yield wire, source
    source.end()
    view._update()
    yield wire, source
    view.close()


@pytest.fixture(params=["whole", "packed", "thinned"])
def limits(request, monkeypatch, small) -> str:
    if request.param != "whole":
        monkeypatch.setattr(pack, "MOST_WIDE", 12 * 40)
    if request.param == "thinned":
        monkeypatch.setattr(pack, "MOST", 12 * 20)
    return request.param


def check_whole(known, run, wire) -> None:
    """All that the kernel keeps of the run, and the last step exactly."""
    history = wire.view._feed.log.history
    steps = np.arange(0, run.n_steps, history.stride)
    assert known["steps"] == steps.tolist()
    assert np.abs(alphas_of(known) - run.alphas()[steps]).max() <= (0 if history.wide else 1e-3)
    assert known["last"]["step"] == run.n_steps - 1
    assert np.array_equal(np.float32(known["last"]["alpha"]), run.alpha())


def test_a_page_that_hears_all_knows_all(node, tmp_path, limits):
    page = None
    for wire, source in story(tmp_path):
        page = page or Page(node, wire)
        page.hear(wire.told)
        wire.told.clear()
        known = page.known
        assert not known["waiting"]
        history = wire.view._feed.log.history
        assert (known["n"], known["era"]) == (history.n, history.era)
        assert known["last"]["step"] == source.step - 1
    assert set(page.asked()) <= {"seen"}
    check_whole(page.known, wire.view.run, wire)
    assert known["status"] == "finished"
    page.close()


def test_only_what_is_new_travels_between(node, tmp_path, small):
    sizes = []
    for wire, _ in story(tmp_path):
        sizes += [len(state["values"]) for state in wire.told if "values" in state]
        wire.told.clear()
    rows = [size // 40 for size in sizes]
    assert 3 in rows
    assert rows[-1] == 40, "the end is whole"
    assert sum(rows) < sum(range(2, 40, 3)), "less than the whole each time"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> dict[str, Any]:
    """All messages of the story, in each form of history, with what the run was at the end."""
    made = {}
    for form, wide, most in (("whole", 8 << 20, 24 << 20), ("packed", 12 * 40, 24 << 20), ("thinned", 12 * 40, 12 * 20)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(live, "_WHOLE", 0)
            patch.setattr(live.LiveView, "_poll", lambda *_: None)
            patch.setattr(pack, "MOST_WIDE", wide)
            patch.setattr(pack, "MOST", most)
            first = None
            for wire, _ in story(tmp_path_factory.mktemp(form)):
                first = first or wire.opened()
            made[form] = first, list(wire.told), wire
    return made


@settings(deadline=None, max_examples=150)
@given(data=st.data(), form=st.sampled_from(["whole", "packed", "thinned"]))
def test_with_any_messages_dropped(node, recorded, data, form):
    """A hole is always known, and asked for; the end mends everything."""
    first, told, wire = recorded[form]
    lost = data.draw(st.lists(st.booleans(), min_size=len(told) - 1, max_size=len(told) - 1))
    blank = data.draw(st.booleans())
    opened = {**first, "doc": "null", "live": "{}", "scalars": b"", "values": b"", "last": b""} if blank else first
    node("open", {"name": "page", "state": opened})
    try:
        for state, gone in zip(told, [*lost, False], strict=True):
            if gone:
                continue
            node("tell", {"name": "page", "state": {k: v for k, v in state.items() if k in ("doc", "live", *MOVING)}})
            known = node("known", {"name": "page", "gates": 10})
            asked = node("asked", "page")
            if known["waiting"]:
                node("wait", 3000)
                again = node("asked", "page")
                assert {"kind": "whole"} in asked + again
            elif known["last"] is not None:
                # No hole: rows from the first on, up to the newest that the page has heard of.
                stride = known["steps"][1] if known["n"] > 1 else 1
                assert known["steps"] == list(range(0, known["last"]["step"] + 1, stride))
        check_whole(known, wire.view.run, wire)
        assert known["status"] == "finished"
        assert {"kind": "seen", "seq": wire.view.updates} in asked
        node("wait", 60_000)
        assert node("asked", "page") == [], "nothing is missing any more"
    finally:
        node("close", "page")


def test_what_was_asked_and_lost_is_asked_again(node, tmp_path, small):
    stories = story(tmp_path)
    wire, _ = next(stories)
    page = Page(node, wire)
    next(stories)
    next(stories)
    page.hear(wire.told[-1:])
    assert page.known["waiting"]
    assert page.asked() == ["whole"]
    node("wait", 2900)
    assert page.asked() == [], "not at once"
    node("wait", 200)
    assert page.asked() == ["whole"]
    node("wait", 3100)
    page.answered()
    assert not page.known["waiting"]
    assert page.known["n"] == 8
    node("wait", 60_000)
    assert page.asked() == []
    page.close()


def test_a_document_that_was_lost_is_asked_for(node, growing_page):
    view, source, page = growing_page
    page.hear([{k: v for k, v in state.items() if k != "doc"} for state in page.wire.told])
    assert page.known["waiting"], "before the first step, too"
    page.answered()
    assert not page.known["waiting"]
    page.hear([{"doc": "null"}])
    source.write(2)
    view._update()
    page.hear([{k: v for k, v in state.items() if k != "doc"} for state in page.wire.told if "live" in state][-1:])
    node("wait", 4000)
    assert page.known["n"] == 0
    page.answered()
    assert page.known["n"] == 2
    assert not page.known["waiting"]


@pytest.fixture
def growing_page(node, tmp_path, small):
    """A view that has nothing to show yet, and its page."""
    view = LiveView()
    wire = Wire(view)
    node("open", {"name": "page", "state": wire.opened()})
    page = Page.__new__(Page)
    page.node, page.wire, page.gates = node, wire, 10
    source = Growing(tmp_path / "run", space(3, 2))
    view.attach(source.path)
    yield view, source, page
    view.close()
    source.writer.close()
    page.close()


def test_questions_that_waited_for_a_busy_kernel_are_answered_once(tmp_path, small, monkeypatch):
    monkeypatch.setattr("s3pet_viz.widgets.viewer._ANSWER", 60.0)
    stories = story(tmp_path)
    wire, _ = next(stories)
    next(stories)
    wire.told.clear()
    for _ in range(50):
        wire.view._heard(None, {"kind": "whole"}, None)
    assert len(wire.told) == 1
    assert len(wire.told[0]["values"]) == 5 * 40
    assert wire.told[0]["doc"] == wire.view.page.doc


def test_a_page_that_opens_late_gets_the_whole(node, tmp_path, limits):
    """In mid-run, where only what is new was sent, and after the end."""
    for wire, source in story(tmp_path):
        wire.told.clear()
        page = Page(node, wire)
        known = page.known
        history = wire.view._feed.log.history
        assert (known["n"], known["waiting"], page.asked()) in ((history.n, False, []), (history.n, False, ["seen"]))
        assert known["last"]["step"] == source.step - 1
        page.close()
    assert page.wire.view.run.n_steps == 40
    late = Page(node, wire)
    check_whole(late.known, wire.view.run, wire)
    late.close()


def test_a_resume_drops_what_was_superseded(node, growing_page):
    view, source, page = growing_page
    source.write(6)
    view._update()
    source.end("stopped")
    view._update()
    page.hear(page.wire.told)
    era = page.known["era"]
    assert page.known["steps"] == list(range(6))
    source.writer, source.step = RunWriter.resume(source.path, from_step=4), 4
    source.write(1)
    page.wire.told.clear()
    view._update()
    page.hear(page.wire.told)
    assert page.known["era"] != era
    assert page.known["steps"] == list(range(5))
    assert page.known["last"]["step"] == 4
    assert not page.known["waiting"]


def test_a_page_that_was_told_nothing_asks(node, tmp_path, small):
    """All that the kernel sent before a page was ready may be lost."""
    view = LiveView()
    wire = Wire(view)
    page = Page(node, wire)
    assert page.asked() == ["whole"]
    source = Growing(tmp_path / "run", space(3, 2))
    source.write(2)
    view.attach(source.path)
    wire.told.clear()
    node("wait", 3100)
    page.answered()
    assert (page.known["n"], page.known["waiting"]) == (2, False)
    view.close()
    source.writer.close()
    page.close()
