"""The live view: what the page is told, how often, what its requests write, what it says of a killed search."""

from __future__ import annotations

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
from s3pet_viz.config.names import MODES, SPACES
from s3pet_viz.errors import ConfigError, MissingExtraError
from s3pet_viz.launcher import Launched
from s3pet_viz.runs import layout
from s3pet_viz.viewer import pack
from s3pet_viz.widgets import LiveSearch, LiveView, StructureExplorer, watch
from s3pet_viz.widgets import search as search_module
from s3pet_viz.widgets.search_form import check_form


def until(condition, seconds: float = 120.0) -> None:
    """Fails where it does not come to hold."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def seen() -> Iterator[list]:
    views: list = []
    yield views
    for view in views:
        view.close()


def told(view: LiveView) -> dict:
    """What changes, as a page that opens now gets it."""
    return json.loads(view.page.get_state()["live"])


def doc(view: LiveView) -> dict:
    return json.loads(view.page.doc)


def history(view: LiveView) -> tuple[list[int], np.ndarray]:
    """Steps and alpha of a page that opens now."""
    state = view.page.get_state()
    rows = json.loads(state["live"])["rows"]
    assert (rows["from"], rows["wide"], rows["stride"]) == (0, True, 1)
    scalars = np.frombuffer(state["scalars"]).reshape(rows["count"], len(pack.SCALARS))
    return scalars[:, 0].astype(int).tolist(), np.frombuffer(state["values"], np.float32).reshape(rows["count"], -1)


def ask(view: LiveView, request: str) -> None:
    """As a page asks."""
    view._heard(view.page, {"kind": "request", "request": request}, [])


def test_new_steps_are_told_and_the_page_holds_all_of_them(growing, seen):
    source = growing()
    view = watch(source.path)
    seen.append(view)
    assert told(view)["words"] == "no step yet: the first step is on its way"
    for step in range(4):
        source.write()
        until(lambda step=step: view.frame.step == step)
        until(lambda step=step: told(view)["step"] == step + 1)
        steps, alpha = history(view)
        assert steps == list(range(step + 1))
        assert np.array_equal(alpha, view.run.alphas())
    live = told(view)
    assert (live["status"], live["steps_total"], live["doc"]) == ("running", 10, doc(view)["id"])
    assert live["last"]["train_loss"] == 1 / 4
    assert live["seconds_left"] == "3 s"
    assert np.array_equal(np.frombuffer(view.page.get_state()["last"], np.float32), view.run.alpha())
    assert doc(view)["run"] == {
        "name": "run", "tau": 1.0, "budget": 40, "named": True, "backbone_params": 100_000, "smallest": 5,
        "total": 75,
    }  # fmt: skip
    assert doc(view)["space"]["n"] == view.run.counts.tolist()


def test_messages_are_few_and_the_latest_wins(growing, seen):
    source = growing(steps_total=1000)
    view = watch(source.path)
    seen.append(view)
    before, began = view.updates, time.monotonic()
    while time.monotonic() - began < 1.5 or view.updates == before:
        source.write()
        time.sleep(0.002)
    lasted = time.monotonic() - began
    assert 1 <= view.updates - before <= 5 * lasted + 1
    until(lambda: view.frame.step == source.step - 1)
    assert history(view)[0] == list(range(source.step))


def test_it_rests_while_nothing_changes(growing, seen):
    source = growing()
    source.write()
    view = watch(source.path)
    seen.append(view)
    time.sleep(0.6)
    before = view.updates
    time.sleep(0.7)
    assert view.updates == before
    assert view.following


def test_requests_are_written_and_shown_until_they_are_answered(growing, seen):
    source = growing()
    source.write()
    view = watch(source.path)
    seen.append(view)

    def asked() -> str:
        return json.loads((source.path / layout.CONTROL).read_text())["request"]

    number = told(view)["asked"]
    ask(view, "pause")
    assert asked() == "pause"
    assert told(view)["doing"] == "pausing"
    assert told(view)["asked"] == number + 1, "the page knows that its request has arrived"
    source.writer.set_status("paused")
    until(lambda: (told(view)["status"], told(view)["doing"]) == ("paused", ""))
    ask(view, "resume")
    assert asked() == "resume"
    assert told(view)["doing"] == "resuming"
    source.writer.set_status("running")
    until(lambda: (told(view)["status"], told(view)["doing"]) == ("running", ""))
    ask(view, "stop")
    assert asked() == "stop"
    source.end("stopped")
    until(lambda: told(view)["status"] == "stopped")
    assert told(view)["doing"] == ""


def test_a_request_that_is_refused_is_said(growing, seen):
    source = growing()
    source.write()
    view = watch(source.path)
    seen.append(view)
    source.end()
    ask(view, "pause")
    assert "the search is finished" in told(view)["error"]
    assert told(view)["doing"] == ""


@pytest.mark.parametrize("message", [None, 7, [], {}, {"kind": "request"}, {"kind": "request", "request": "rm"}, {"kind": "other"}])
def test_what_no_page_of_ours_asks_does_nothing(finished, seen, message):
    view = watch(finished())
    seen.append(view)
    before = view.updates
    view._heard(view.page, message, [])
    assert not (view.run.path / layout.CONTROL).exists()
    assert view.updates == before


def test_a_view_without_controls_offers_none(finished):
    view = StructureExplorer(finished())
    assert doc(view)["control"] is False
    view.close()


def test_it_ends_with_the_run_and_with_close(growing, seen, monkeypatch):
    source = growing()
    view = watch(source.path)
    seen.append(view)
    assert view.following
    source.write(2)
    source.end()
    until(lambda: view.frame.status == "finished")
    # A page says that it has heard of the end, so that it is not sent again.
    view._heard(view.page, {"kind": "seen", "seq": told(view)["seq"]}, [])
    until(lambda: not view.following)
    assert view.frame.step == 1, "the last steps are told, too"
    assert history(view)[0] == [0, 1]
    other = watch(growing("other").path)
    other.close()
    until(lambda: not other.following)


def test_the_end_is_sent_again_until_a_page_has_it(finished, seen, monkeypatch):
    monkeypatch.setattr("s3pet_viz.widgets.live._AGAIN", (0.1, 0.3))
    view = watch(finished())
    seen.append(view)
    until(lambda: not view.following)
    assert view.updates == 2, "after the message that opened it"


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
    dark = watch(run, theme="dark")
    seen.append(dark)
    assert dark is not view
    assert doc(dark)["theme"] == "dark"


def test_a_run_made_anew_in_the_same_folder_gets_a_view_of_its_own(growing, seen, tmp_path):
    import shutil

    source = growing()
    source.write()
    view = watch(source.path)
    seen.append(view)
    source.end()
    shutil.rmtree(source.path)
    other = growing(gates=space(2, 2))
    other.write()
    again = watch(other.path)
    seen.append(again)
    assert again is not view
    assert len(doc(again)["space"]["n"]) == 8


def test_a_view_that_shows_another_run_says_so_to_its_page(finished, growing):
    """The form's view: one search after the other."""
    view = LiveView(finished())
    first = doc(view)["id"]
    view.attach(growing("other", gates=space(2, 2)).path)
    assert doc(view)["id"] != first
    assert doc(view)["run"]["name"] == "other"
    assert told(view)["rows"] is None
    view.close()


def test_what_was_picked_in_one_run_is_not_picked_in_the_next(finished, growing):
    """Gates have other numbers there."""
    view = LiveView(finished().path)
    view.selection = [1]
    source = growing("other")
    source.write()
    view.attach(source.path)
    assert view.selection == ()


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_a_search_that_ended_before_its_first_step_promises_none(growing, seen, status):
    source = growing()
    source.end(status)
    view = LiveView(source.path)
    seen.append(view)
    assert told(view)["words"] == "the search ended before its first step"


def test_only_known_themes(finished):
    run = finished()
    for make in (lambda: watch(run, theme="blue"), lambda: StructureExplorer(run, theme="blue")):
        with pytest.raises(ConfigError, match="theme: expected one of auto, light, dark, found 'blue'"):
            make()


def test_the_selection_is_set_from_both_sides_and_checked(finished, seen):
    view = watch(finished())
    seen.append(view)
    assert view.selection == ()
    view.selection = [2, 0]
    assert view.selection == (2, 0)
    assert view.page.selection == [2, 0]
    view.page.set_state({"selection": [4]})  # as a page does
    assert view.selection == (4,)
    for wrong in ([10], [-1], [0, 99]):
        with pytest.raises(ConfigError, match="selection: expected gates from 0 to 9, found"):
            view.selection = wrong
    assert view.selection == (4,)


@pytest.mark.parametrize("status", ["running", "paused"])
def test_a_killed_search_is_shown_as_dead(tmp_path, seen, status):
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from widget_runs import Growing, space\n"
        "run = Growing(Path(sys.argv[2]), space(3, 2)); run.write(3)\n"
        f"run.writer.set_status({status!r})\n"
        "Path(sys.argv[2], 'log.txt').write_text('Traceback: the last words <b>')\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    path = tmp_path / "run"
    command = [sys.executable, "-c", code, str(Path(__file__).parent.parent), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        view = watch(path)
        seen.append(view)
        assert view.frame.status == status
        writer.kill()
        until(lambda: view.frame.status == "dead")
    live = told(view)
    assert "killed?" in live["error"]
    assert "the last words <b>" in live["error"]
    assert live["status"] == "dead"
    assert history(view)[0] == [0, 1, 2]


def test_an_error_of_reading_is_told_and_goes_away(growing, seen):
    source = growing()
    source.write()
    view = watch(source.path)
    seen.append(view)
    whole = (source.path / layout.RUN_JSON).read_bytes()
    (source.path / layout.RUN_JSON).write_text('{"kind": "<b>"}')
    until(lambda: told(view)["problem"] is not None)
    assert "run.json" in told(view)["problem"]
    assert history(view)[0] == [0], "what was there before stays"
    assert view.following
    (source.path / layout.RUN_JSON).write_bytes(whole)
    until(lambda: told(view)["problem"] is None)


def test_hostile_names_are_text(growing, seen):
    gates = [type(g)(**{**g.to_dict(), "module": HOSTILE, "position": HOSTILE + str(g.index)}) for g in space(2, 0)]
    source = growing(gates=gates, task=HOSTILE)
    source.write()
    view = watch(source.path)
    seen.append(view)
    assert doc(view)["space"]["module"] == [HOSTILE] * 4, "the page writes text, never HTML (js/draw.js)"
    assert "<img" not in view._static.value
    assert "&lt;img" in view._static.value


def test_repr_and_keys_are_the_same_every_time(growing, seen):
    source = growing("some-run-20260101-101010")
    view = watch(source.path)
    seen.append(view)
    assert repr(view) == "LiveView('sentiment on tiny')"
    source.write()
    until(lambda: view.frame.step == 0)
    assert repr(view) == "LiveView('sentiment on tiny')"
    bundle = view._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/svg+xml", "application/vnd.jupyter.widget-view+json"}
    assert bundle["text/plain"] == repr(view)
    assert bundle["image/svg+xml"].startswith("<svg ")


def test_threads_do_not_pile_up(finished, seen):
    run = finished()
    before = threading.active_count()
    for _ in range(5):
        seen.append(watch(run))
    until(lambda: threading.active_count() <= before + 1)


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
        "steps": 33, "seed": 0, "pin": None, "threads": 1,
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
    until(lambda: form.view.frame.status == "failed")
    assert "no such <task>" in told(form.view)["error"]
    assert told(form.view)["words"] == "the search ended before its first step"
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
    from s3pet_viz.engine.modes import MODES as SEARCH_MODES
    from s3pet_viz.pet.space import PRESETS

    assert set(MODES) == set(SEARCH_MODES)
    assert {space.removesuffix("+cross") for space in SPACES} == set(PRESETS)


@pytest.mark.parametrize("view_of", [watch, StructureExplorer])
def test_the_message_that_opens_a_view_holds_all_there_is(finished, seen, monkeypatch, view_of):
    """A server that is behind drops updates; it never drops a comm_open."""
    opened = {}

    def keep(page):
        opened.update(page.get_state())
        monkeypatch.undo()
        return page.open()

    monkeypatch.setattr(widgets.viewer.Page, "open", keep)
    view = view_of(finished())
    seen.append(view)
    assert json.loads(opened["doc"])["id"] == json.loads(opened["live"])["doc"] == doc(view)["id"]
    rows = json.loads(opened["live"])["rows"]
    assert (rows["from"], rows["count"]) == (0, view.run.n_steps)
    assert len(opened["last"]) == 4 * len(view.run.gates_list)
    assert view.updates == 0
