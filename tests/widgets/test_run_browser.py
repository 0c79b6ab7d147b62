"""The table of runs in a notebook: what the page is told, and what it may ask."""

from __future__ import annotations

import json
import time

import ipywidgets as w
import pytest
from widget_runs import HOSTILE, Growing, space

import s3pet_viz as s3
from s3pet_viz.errors import ConfigError
from s3pet_viz.runs.marks import read_marks, write_marks
from s3pet_viz.widgets import CompareRuns, LiveView, RunBrowser


@pytest.fixture
def folder(tmp_path):
    for name, task, seed in (("a0", "sentiment", 0), ("a1", "sentiment", 1), ("b0", HOSTILE, 0)):
        growing = Growing(tmp_path / "runs" / name, space(3, 3), task=task, seed=seed)
        growing.write(3)
        growing.end()
    return tmp_path / "runs"


@pytest.fixture
def browser(folder):
    made = RunBrowser(folder, every=60)
    yield made
    made.close()


def ask(browser, kind, *runs, **changes):
    """As the page does; what it is told then."""
    browser._heard(None, {"kind": kind, "runs": list(runs), "changes": changes}, None)
    return json.loads(browser.page.said)


def rows(browser):
    return {row["run"]: row for row in json.loads(browser.page.doc)["rows"]}


def test_the_page_gets_every_run_with_its_picture(browser):
    table = browser.table.table().set_index("run")
    assert list(rows(browser)) == list(table.index) == ["a0", "a1", "b0"]
    for name, row in rows(browser).items():
        assert row["order"]["agreement"] == pytest.approx(table.loc[name, "agreement"])
        assert row["image"].startswith("iVBORw0KGgo")
    assert rows(browser)["b0"]["task"] == HOSTILE  # the page puts it in as text


def test_it_shows_what_is_asked_for(browser):
    assert not ask(browser, "open", "a1")["problem"]
    assert isinstance(browser.view, LiveView)
    first = browser.view
    ask(browser, "compare", "a0", "a1")
    assert isinstance(browser.view, CompareRuns)
    wait(lambda: not first.following)
    for kind, panels in (("multiples", 2), ("consensus", 1)):
        ask(browser, kind, "a0", "a1")
        assert isinstance(browser.view, w.HTML)
        assert browser.view.value.count("font-weight='bold'") + browser.view.value.count("<text") > panels
    ask(browser, "consensus", "a0", "b0")
    assert HOSTILE not in browser.view.value
    browser.look_at("a0")
    assert isinstance(browser.view, LiveView)


def test_runs_are_named_put_away_and_deleted(browser, folder):
    ask(browser, "mark", "a0", name="best", tags=["paper"], note="n")
    assert (rows(browser)["a0"]["name"], rows(browser)["a0"]["tags"]) == ("best", "paper")
    ask(browser, "mark", "a0", "a1", archived=True)
    assert [row["archived"] for row in rows(browser).values()] == [True, True, False]
    assert read_marks(folder / "a0").archived
    assert "deleted 1 run" in ask(browser, "delete", "a1")["text"]
    assert list(rows(browser)) == ["a0", "b0"]
    assert not (folder / "a1").exists()


@pytest.mark.parametrize(
    ("kind", "runs", "changes", "said"),
    [
        ("open", ["zz"], {}, "found none that is 'zz'"),
        ("mark", ["a0"], {"tags": "a,b"}, "tags: expected words"),
        ("mark", ["a0"], {"colour": "red"}, "mark: expected one of"),
        ("delete", ["zz"], {}, "found none"),
    ],
)
def test_what_cannot_be_is_said(browser, folder, kind, runs, changes, said):
    answer = ask(browser, kind, *runs, **changes)
    assert answer["problem"]
    assert said in answer["text"]
    assert not (folder / "a0" / "marks.json").exists()


@pytest.mark.parametrize("message", [None, 3, {}, {"kind": "eval", "runs": ["a0"]}, {"kind": "open", "runs": "a0"}, {"kind": "open", "runs": []}])
def test_other_messages_are_no_requests(browser, message):
    before = browser.page.said
    browser._heard(None, message, None)
    assert browser.page.said == before
    assert browser.view is None


def test_one_that_only_reads_changes_nothing(folder):
    browser = RunBrowser(folder, control=False, every=60)
    for kind, changes in (("delete", {}), ("mark", {"name": "x"})):
        answer = ask(browser, kind, "a0", **changes)
        assert answer["problem"]
        assert "this table only reads" in answer["text"]
    assert sorted(path.name for path in (folder / "a0").iterdir() if path.name == "marks.json") == []
    ask(browser, "open", "a0")
    (view,) = browser._below.children
    view._heard(None, {"kind": "request", "request": "stop"}, None)
    assert not (folder / "a0" / "control.json").exists()
    assert not json.loads(browser.page.doc)["control"]
    browser.close()


def test_a_view_that_only_reads_asks_a_live_search_for_nothing(tmp_path):
    growing = Growing(tmp_path / "live", space(2, 2))
    growing.write(1)
    for control, asked in ((False, False), (True, True)):
        view = LiveView(tmp_path / "live", control=control)
        view._heard(None, {"kind": "request", "request": "pause"}, None)
        assert (tmp_path / "live" / "control.json").exists() == asked
        view.close()
    growing.end()


def test_it_sees_new_runs_and_steps(folder):
    browser = RunBrowser(folder, every=0.05)
    growing = Growing(folder / "new", space(3, 3), task="topics")
    growing.write(2)
    wait(lambda: rows(browser).get("new", {}).get("steps") == "2")
    growing.write(2)
    wait(lambda: rows(browser)["new"]["steps"] == "4")
    assert json.loads(browser.page.doc)["live"] == 1
    growing.end()
    wait(lambda: rows(browser)["new"]["status"] == "finished")
    write_marks(folder / "a0", name="from elsewhere")
    wait(lambda: rows(browser)["a0"]["name"] == "from elsewhere")
    browser.close()


def test_what_has_not_changed_is_not_read_again(folder, monkeypatch):
    from s3pet_viz.analysis import run_table

    found = s3.open_runs(folder)
    read, real = [], run_table.read_row
    monkeypatch.setattr(run_table, "read_row", lambda path, *rest: (read.append(path.name), real(path, *rest))[1])
    assert not found.refresh()
    write_marks(folder / "a1", note="x")
    assert found.refresh()
    assert read == ["a1"]


@pytest.mark.parametrize(("options", "said"), [({"theme": "pink"}, "theme"), ({"every": 0}, "every"), ({"control": "no"}, "control")])
def test_wrong_options(folder, options, said):
    with pytest.raises(ConfigError, match=said):
        RunBrowser(folder, **options)


def wait(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
