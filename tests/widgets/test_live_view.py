"""The live view: what is on screen, how often it is drawn, what its buttons write, what it says of a killed search."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from widget_runs import HOSTILE, space

import s3pet_viz.widgets as widgets
from s3pet_viz.errors import ConfigError, MissingExtraError
from s3pet_viz.launch import Launched
from s3pet_viz.runs import layout
from s3pet_viz.widgets import LiveSearch, LiveView, watch
from s3pet_viz.widgets import search as search_module
from s3pet_viz.widgets.form import MODES, SPACES, check_form


def until(condition, seconds: float = 5.0) -> float:
    """Seconds until it holds; fails where it does not."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        time.sleep(0.01)
    return time.monotonic() - began


@pytest.fixture
def seen() -> Iterator[list]:
    views: list = []
    yield views
    for view in views:
        view.close()


def cells(view: LiveView) -> list:
    return [value for row in view.heatmap.data[0].z for value in row if value is not None]


def test_new_steps_are_on_screen_within_a_second(growing, seen):
    source = growing()
    view = watch(source.path)
    seen.append(view)
    pictures = []
    for step in range(4):
        source.write()
        # One file system, two cores: 1 s is the promise, and it holds with room to spare.
        assert until(lambda step=step: view.frame.step == step) < 1
        until(lambda step=step: len(view.curves.data[0].x) == step + 1)
        pictures.append(cells(view))
    assert all(a != b for a, b in itertools.pairwise(pictures))
    assert sorted(cells(view)) == pytest.approx(np.sort(view.run.p()).tolist(), rel=1e-3)
    assert len(view.heatmap.data[1].x) == 6 * view.frame.selected.sum()
    assert view.curves.data[0].y.tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert view.curves.data[4].y == (40, 40)
    assert "step 4 of 10" in view._facts.value


def test_updates_are_throttled_and_the_latest_wins(growing, seen):
    source = growing(steps_total=1000)
    view = watch(source.path)
    seen.append(view)
    before, began = view.updates, time.monotonic()
    while time.monotonic() - began < 1.5:
        source.write()
        time.sleep(0.002)
    lasted = time.monotonic() - began
    assert source.step > 60
    assert 2 <= view.updates - before <= 5 * lasted + 1
    until(lambda: view.frame.step == source.step - 1)


def test_it_rests_while_nothing_changes(growing, seen):
    source = growing()
    source.write()
    view = watch(source.path)
    seen.append(view)
    time.sleep(0.3)
    before = view.updates
    time.sleep(0.7)
    assert view.updates == before
    assert view.following


def test_buttons_write_requests(growing, seen):
    source = growing()
    source.write()
    view = watch(source.path)
    seen.append(view)
    buttons = view.pause_button, view.resume_button, view.stop_button

    def asked() -> str:
        return json.loads((source.path / layout.CONTROL).read_text())["request"]

    def able() -> list[bool]:
        return [not button.disabled for button in buttons]

    assert able() == [True, False, True]
    view.pause_button.click()
    assert asked() == "pause"
    assert able() == [False, False, False], "until the search has answered"
    assert "pausing" in view._state.value
    source.writer.set_status("paused")
    until(lambda: able() == [False, True, True])
    assert "pausing" not in view._state.value
    view.resume_button.click()
    assert asked() == "resume"
    source.writer.set_status("running")
    until(lambda: able() == [True, False, True])
    view.stop_button.click()
    assert asked() == "stop"
    source.end("stopped")
    until(lambda: able() == [False, True, False])
    until(lambda: not view.following)


def test_a_request_that_is_refused_is_said(growing, seen):
    source = growing()
    source.write()
    view = watch(source.path)
    seen.append(view)
    until(lambda: not view.pause_button.disabled)
    source.end()
    view._ask("pause")
    assert "the search is finished" in view._error.value


def test_it_ends_with_the_run_and_with_close(growing, seen):
    source = growing()
    view = watch(source.path)
    seen.append(view)
    assert view.following
    source.write(2)
    source.end()
    until(lambda: not view.following)
    assert view.frame.status == "finished"
    assert view.frame.step == 1, "the last steps are drawn too"
    assert all(button.disabled for button in (view.pause_button, view.resume_button, view.stop_button))
    other = watch(growing("other").path)
    other.close()
    until(lambda: not other.following)


def test_one_view_per_run(finished, growing, seen):
    run = finished()
    view = watch(run)
    seen.append(view)
    assert watch(run.path) is view
    other = watch(growing("other").path)
    assert other is not view
    other.close()
    again = watch(other.run.path)
    seen.append(again)
    assert again is not other


def test_a_finished_run_needs_no_thread(finished, seen):
    view = watch(finished())
    seen.append(view)
    assert view.frame.step == 7
    until(lambda: not view.following, 1)


@pytest.mark.parametrize("status", ["running", "paused"])
def test_a_killed_search_is_shown_as_dead_within_5_seconds(tmp_path, seen, status):
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from widget_runs import Growing, space\n"
        "run = Growing(Path(sys.argv[2]), space(3, 2)); run.write(3)\n"
        f"run.writer.set_status({status!r})\n"
        "Path(sys.argv[2], 'log.txt').write_text('Traceback: the last words <b>')\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    path = tmp_path / "run"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        view = watch(path)
        seen.append(view)
        assert view.frame.status == status
        writer.kill()
        until(lambda: view.frame.status == "dead", 5)
    until(lambda: "died" in view._error.value)
    assert "the last words &lt;b&gt;" in view._error.value
    assert "dead" in view._state.value
    assert len(view.run.steps()) == 3
    until(lambda: not view.following)


def test_an_error_of_reading_is_on_screen_and_goes_away(growing, seen):
    source = growing()
    source.write()
    view = watch(source.path)
    seen.append(view)
    whole = (source.path / layout.RUN_JSON).read_bytes()
    (source.path / layout.RUN_JSON).write_text('{"kind": "<b>"}')
    until(lambda: "cannot be read now" in view._error.value)
    assert "<b>&#x27;" not in view._error.value.replace("</b>", "")
    assert view.following
    (source.path / layout.RUN_JSON).write_bytes(whole)
    until(lambda: view._error.value == "")


def test_an_error_of_drawing_is_on_screen(growing, seen, monkeypatch):
    source = growing()
    view = watch(source.path)
    seen.append(view)
    monkeypatch.setattr(view._gates, "paint", lambda *_: 1 / 0)
    source.write()
    until(lambda: "ZeroDivisionError" in view._error.value)


def test_hostile_names_are_text(finished, seen):
    view = watch(finished(task=HOSTILE))
    seen.append(view)
    shown = view._title.value + view._state.value + view._facts.value + view._error.value + view._health.value
    assert "<img" not in shown
    assert "&lt;img" in view._title.value


def test_hostile_gates_are_text(growing, seen):
    gates = [type(g)(**{**g.to_dict(), "module": HOSTILE, "position": HOSTILE + str(g.index)}) for g in space(2, 0)]
    source = growing(gates=gates)
    source.write()
    view = watch(source.path)
    seen.append(view)
    drawn = str(view.heatmap.to_dict())
    assert "<img" not in drawn
    assert "&lt;img" in drawn


def test_repr_and_keys_are_the_same_every_time(growing, seen):
    source = growing("some-run-20260101-101010")
    view = watch(source.path)
    seen.append(view)
    assert repr(view) == "LiveView('sentiment on tiny')"
    source.write()
    until(lambda: view.frame.step == 0)
    assert repr(view) == "LiveView('sentiment on tiny')"
    assert view._repr_mimebundle_()["text/plain"] == repr(view)


def test_many_steps_draw_few_points(growing, seen):
    source = growing(steps_total=3000)
    source.write(3000)
    view = watch(source.path)
    seen.append(view)
    assert 256 <= len(view.curves.data[0].x) <= 512
    assert view.curves.data[0].x[-1] == 2999


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(widgets.__dict__, "watch", raising=False)
    with pytest.raises(MissingExtraError, match=r"anywidget.*pip install 's3pet_viz\[notebook\]'"):
        _ = widgets.watch


# -- the form ----------------------------------------------------------------------------------------------


def test_the_form_starts_what_it_says(growing, seen, monkeypatch):
    source = growing()
    given = {}

    def start(**options):
        given.update(options)
        return source.path

    monkeypatch.setattr(search_module, "start", start)
    form = LiveSearch(threads=1)
    seen.append(form)
    assert (repr(form), form.run, form.view.layout.display) == ("LiveSearch()", None, "none")
    form.fields["steps"].value = 33
    form.fields["task"].value = " entailment "
    form.start_button.click()
    assert given == {
        "task": "entailment", "backbone": "tiny-t5", "budget": "0.2%", "space": "S3PET-M", "mode": "fast",
        "steps": 33, "seed": 0, "threads": 1,
    }  # fmt: skip
    assert form.view.layout.display is None
    assert form.start_button.disabled
    assert form.run.path == source.path
    source.write()
    source.end()
    until(lambda: not form.start_button.disabled)


def test_a_search_that_does_not_begin_is_shown(tmp_path, seen, monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    launched = Launched(tmp_path, child, own_folder=False)
    (tmp_path / "log.txt").write_text("error: [TaskError] no such <task>\n")
    monkeypatch.setattr(search_module, "start", lambda **_: launched)
    form = LiveSearch()
    seen.append(form)
    form.start_button.click()
    until(lambda: form.view.frame.status == "failed", 10)
    until(lambda: "no such &lt;task&gt;" in form.view._error.value)
    until(lambda: not form.start_button.disabled)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("task", "", "task: expected a value"),
        ("task", "nonsense", "task: expected one of sentiment, .*found 'nonsense'"),
        ("task", HOSTILE, "&lt;img"),
        ("backbone", "./nothing here", "backbone: expected"),
        ("budget", "lots", "budget: expected a percentage"),
        ("budget", "200%", "over 100 %"),
        ("space", "S4", "space: expected one of S3PET-M"),
        ("space", "a\0b", "space: expected one of S3PET-M"),
    ],
)
def test_the_form_refuses_before_anything_starts(seen, monkeypatch, field, value, said):
    monkeypatch.setattr(search_module, "start", lambda **_: pytest.fail("it started"))
    form = LiveSearch()
    seen.append(form)
    form.fields[field].value = value
    form.start_button.click()
    assert re.search(said, form.message.replace("&#x27;", "'"))
    assert "<img" not in form.message
    assert form.view.layout.display == "none"


def test_a_default_that_cannot_be_used_is_refused():
    with pytest.raises(ConfigError, match="task: expected one of"):
        LiveSearch(task="nonsense")


def test_hub_names_and_folders_are_taken(tmp_path):
    values = {"budget": "8404", "space": "S3PET-L+cross", "mode": "exact", "steps": 5, "seed": 1}
    for task, backbone in (
        ("glue/rte", "t5-large"),
        ("super_glue/cb", "google/t5-v1_1-base"),
        (str(tmp_path), "minilm"),
    ):
        checked = check_form({**values, "task": task, "backbone": backbone})
        assert (checked["task"], checked["backbone"]) == (task, backbone)
    with pytest.raises(ConfigError, match="mode: expected one of"):
        check_form({**values, "task": "glue/rte", "backbone": "t5-large", "mode": "slow"})
    with pytest.raises(ConfigError, match="steps: expected a whole number"):
        check_form({**values, "task": "glue/rte", "backbone": "t5-large", "steps": 0})


def test_the_forms_lists_are_the_searchs():
    from s3pet_viz.pet.space import PRESETS
    from s3pet_viz.search.modes import MODES as SEARCH_MODES

    assert set(MODES) == set(SEARCH_MODES)
    assert {space.removesuffix("+cross") for space in SPACES} == set(PRESETS)


def test_threads_do_not_pile_up(finished, seen):
    run = finished()
    before = threading.active_count()
    for _ in range(5):
        view = watch(run)
        seen.append(view)
    until(lambda: threading.active_count() <= before + 1)
