"""What a view shares opens the same view, in Python, in a page of its own, in a report and from the command line."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner
from widget_runs import space

import s3pet_viz as s3
from s3pet_viz.cli import app
from s3pet_viz.errors import ConfigError
from s3pet_viz.widgets import CompareRuns, LiveView, StructureExplorer

CHANGED = {"step": 3, "budget": 20, "rows": "likeness", "group": "type", "hide_pale": True, "in_cells": "rank", "show": ["curves"], "theme": "dark"}


@pytest.fixture
def run(finished):
    return finished()


def doc_of(view):
    return json.loads(view.page.doc)


def test_an_untouched_view_shares_its_defaults(run):
    view = StructureExplorer(run)
    shared = view.share()
    assert (shared["kind"], shared["step"], shared["budget"], shared["show"]) == ("run", None, None, ["trace"])
    assert json.loads(json.dumps(shared)) == shared
    again = StructureExplorer(run, state=shared)
    assert again.share() == shared
    view.close()
    again.close()


def test_what_the_page_tells_is_shared_and_opens_elsewhere(run):
    view = StructureExplorer(run)
    view.selection = [4, 1]
    told_by_the_page = view.share() | CHANGED | {"selection": []}  # the selection travels by itself, and is newer
    for message in (None, {"kind": "view"}, {"kind": "view", "view": "x"}, {"kind": "view", "view": told_by_the_page}):
        view.page._handle_custom_msg(message, [])
    shared = view.share()
    assert {name: shared[name] for name in CHANGED} == CHANGED
    assert shared["selection"] == [list(run.gates_list[i].key) for i in (4, 1)]
    again = StructureExplorer(run, state=shared)
    assert again.share() == shared
    assert again.selection == (4, 1)
    told = doc_of(again)["view"]
    assert "selection" not in told, "a reload of the page keeps what was picked since"
    assert told["budget"] == 20
    view.close()
    again.close()


def test_what_an_earlier_run_told_is_not_shared(run, finished):
    view = LiveView(run)
    view.page.view = view.share() | {"rows": "p"}
    assert view.share()["rows"] == "p"
    other = finished("other", gates=space(2, 2))
    view.attach(other)
    assert view.share()["rows"] == "order"
    view.page.view = {"of": "of another run", "rows": "p"}  # it comes late
    assert view.share()["rows"] == "order"
    view.close()


def test_watch_with_a_state_is_a_view_of_its_own(run):
    first = s3.watch(run)
    assert s3.watch(run) is first
    second = s3.watch(run, state={"rows": "p"})
    assert second is not first
    assert second.share()["rows"] == "p"
    first.close()
    second.close()


def test_wrong_states_name_the_field(run, growing, finished):
    for state, words in (
        ({"step": 99}, r"state: step: expected null or a whole number from 0 to 7, found 99"),
        ({"rows": "up"}, "state: rows: expected one of 'order', 'p', 'params', 'likeness', found 'up'"),
        ({"budget": "0.2%"}, "state: budget: expected null or a whole number from 5 to"),
        ({"sort": "p"}, "state: unknown field 'sort'"),
        ({5: 1}, "state: unknown field 5"),
        ([1], r"state: expected the JSON object of a view"),
        ({"selection": [["x", "LoRA"]]}, r"state: selection: expected gates of this view"),
    ):
        for call in (lambda s: s3.watch(run, state=s), lambda s: StructureExplorer(run, state=s)):
            with pytest.raises(ConfigError, match=words):
                call(state)
    view = StructureExplorer(finished("other", gates=space(2, 2)))
    with pytest.raises(ConfigError, match="state: of: expected a view of these gates"):
        StructureExplorer(run, state=view.share())
    with pytest.raises(ConfigError, match="state: kind: expected a view of the kind 'compare'"):
        CompareRuns([run, finished("third", seed=1)], state=view.share())
    view.close()
    begun = growing("begun")
    with pytest.raises(ConfigError, match=r"state: step: expected null \(no step is recorded\), found 0"):
        s3.watch(begun.path, state={"step": 0})
    with pytest.raises(ConfigError, match="state: expected a run whose gates are known"):
        LiveView(state={"rows": "p"})
    with pytest.raises(ConfigError, match="share: nothing is shown yet"):
        LiveView().share()


def test_compared_runs(run, finished):
    runs = [run, finished("b", seed=1), finished("c", seed=2)]
    view = CompareRuns(runs)
    shared = view.share()
    labels = list(view.listing.runs)
    assert (shared["a"], shared["b"]) == (labels[0], labels[1])
    state = shared | {"b": labels[2], "overlap": "rank", "selection": [list(run.gates_list[2].key)]}
    again = CompareRuns(runs, state=state)
    assert again.share() == state
    assert again.selection == (2,)
    with pytest.raises(ConfigError, match="state: b: expected one of"):
        CompareRuns(runs, state={"b": "nobody"})
    view.close()
    again.close()


def documents(page: str) -> dict[str, dict]:
    found = [json.loads(one) for one in re.findall(r"<script type='application/json' id='(?:v\d+|s3pet-state)'>(.*?)</script>", page, re.DOTALL)]
    return {one["uid"]: one | {"doc": json.loads(one["doc"])} for one in found}


def test_reports_and_pages_open_with_it(run, finished, tmp_path):
    picked = [list(run.gates_list[i].key) for i in (0, 3)]
    state = {"rows": "p", "step": 2, "selection": picked}
    (made,) = documents(s3.report(run, tmp_path / "one.html", state=state).read_text()).values()
    assert made["doc"]["view"] == {"rows": "p", "step": 2}
    assert made["selection"] == [0, 3]
    other = finished("b", seed=1)
    both = {"run-2": state, "compared": {"overlap": "params"}}
    found = documents(s3.report([run, other], tmp_path / "two.html", state=both).read_text())
    assert {name: one["doc"].get("view") for name, one in found.items()} == {
        "run-1": None, "run-2": {"rows": "p", "step": 2}, "compared": {"overlap": "params"},
    }  # fmt: skip
    compared = documents(s3.report([run, other], tmp_path / "two.html", state={"kind": "compare", "overlap": "rank"}).read_text())
    assert compared["compared"]["doc"]["view"]["overlap"] == "rank"
    for wrong, words in ((state, "a state for each viewer by its name"), ({"run-9": state}, "found 'run-9'"), ([], "JSON object"), ({"run-1": {"step": 99}}, "state: step")):
        with pytest.raises(ConfigError, match=words):
            s3.report([run, other], tmp_path / "none.html", state=wrong)
    assert not (tmp_path / "none.html").exists()

    file, page = tmp_path / "state.json", tmp_path / "page.html"
    file.write_text(json.dumps(state))
    call = lambda *words: CliRunner().invoke(app, [str(word) for word in words])  # noqa: E731
    assert call("show", run.path, "--html", page, "--state", file).exit_code == 0
    assert documents(page.read_text())["run"]["doc"]["view"]["step"] == 2
    assert call("report", run.path, "--out", tmp_path / "r.html", "--state", file).exit_code == 0
    assert documents((tmp_path / "r.html").read_text())["run-1"]["selection"] == [0, 3]
    refused = call("show", run.path, "--state", file)
    assert refused.exit_code
    assert "--html" in refused.output
    file.write_text('{"step": 99}')
    refused = call("show", run.path, "--html", tmp_path / "no.html", "--state", file)
    assert "state: step: expected" in refused.output
    assert not (tmp_path / "no.html").exists()
    file.write_text("{")
    assert "expected JSON" in call("show", run.path, "--html", tmp_path / "no.html", "--state", file).output
