"""The card of `s3.trust` in the viewer: what Python says, of the runs that are shown, made beside the view."""

from __future__ import annotations

import json
import threading

import pytest
from transfer_problems import write_study
from widget_runs import HOSTILE

import s3pet_viz as s3
from s3pet_viz.analysis import Transfer
from s3pet_viz.viewer import page
from s3pet_viz.viewer.documents import Compared
from s3pet_viz.widgets import CompareRuns, LiveSearch, StructureExplorer, TransferExplorer
from s3pet_viz.widgets import viewer as module


def ask(view, key, runs=None):
    view._judge(view.page, {"kind": "trust", "key": key, "runs": runs}, [])


def card(view, key, runs=None):
    """The card once its thread is done."""
    ask(view, key, runs)
    for thread in [thread for thread in threading.enumerate() if thread.name == "s3pet-trust"]:
        thread.join()
    return json.loads(view.page.get_state()["trust"])[key]


def is_card_of(found, judged):
    assert (found["name"], found["verdict"]) == (judged.name, judged.verdict)
    assert [tuple(row[:3]) for row in found["answers"]] == judged.rows()
    assert {row[3] for row in found["answers"]} <= {"good", "note", "warning", "problem"}
    assert [tuple(row) for row in found["open"]] == judged.remedies()
    assert [tuple(row) for row in found["parts"]] == judged.parts()


def test_the_card_is_of_the_run_that_is_shown_and_says_its_step(finished):
    run = finished(steps=8)
    view = StructureExplorer(run)
    found = card(view, "k@8")
    is_card_of(found, s3.trust(run))
    assert found["step"] == 8
    view.close()


def test_of_several_runs_those_that_are_asked_for(finished):
    runs = [finished(f"run{seed}", seed=seed) for seed in range(3)]
    view = CompareRuns(runs)
    is_card_of(card(view, "two", [0, 2]), s3.trust([runs[0], runs[2]]))
    view.close()


def test_of_a_study_the_study(tmp_path):
    matrix = Transfer(write_study(tmp_path / "study", lambda *_: 0.5, targets=["x", "y"], seeds=[0], searches=True))
    view = TransferExplorer(matrix)
    is_card_of(card(view, "k"), s3.trust(matrix))
    view.close()


@pytest.mark.parametrize("runs", [None, [99], ["x"], [[]], []])
def test_what_cannot_be_judged_is_said(finished, runs):
    view = CompareRuns([finished("a"), finished("b", seed=1)])
    assert card(view, "k", runs)["problem"]
    view.close()


def test_nothing_is_judged_before_there_is_a_run():
    form = LiveSearch()
    assert "nothing to judge" in card(form.view, "k")["problem"]
    form.close()


def test_the_view_goes_on_while_it_is_made_and_a_question_asked_again_is_one(finished, monkeypatch):
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def slow(source):
        calls.append(source)
        begun.set()
        assert go_on.wait(60)
        return s3.trust(source)

    monkeypatch.setattr(module, "trust", slow)
    view = StructureExplorer(finished())
    ask(view, "k")  # returns, though the judge does not
    assert begun.wait(60)
    ask(view, "k")
    assert json.loads(view.page.trust) == {}
    view._heard(view.page, {"kind": "whole"}, [])  # other questions are answered meanwhile
    go_on.set()
    card(view, "k")
    assert len(calls) == 1
    view.close()


def test_a_page_keeps_few_cards(finished):
    view = StructureExplorer(finished())
    for number in range(module._CARDS + 2):
        card(view, f"k@{number}")
    assert list(json.loads(view.page.trust)) == [f"k@{number}" for number in range(2, module._CARDS + 2)]
    view.close()


def test_messages_that_are_none_are_left_alone(finished):
    view = StructureExplorer(finished())
    for message in (None, [], "trust", {"kind": "trust"}, {"kind": "trust", "key": 5}, {"kind": "other", "key": "k"}):
        view._judge(view.page, message, [])
    assert not view._judging
    view.close()


def test_a_page_of_its_own_holds_its_card(finished):
    runs = [finished(f"run{seed}", seed=seed, task=HOSTILE) for seed in range(2)]
    state = json.loads(page.run_state(runs[0], key="run-1"))
    is_card_of(json.loads(state["trust"])["run-1"], s3.trust(runs[0]))
    judged = s3.trust(runs)
    facts = {label: {"task": "t", "budget": "b", "seed": label} for label in "ab"}
    compared = Compared(dict(zip("ab", runs, strict=True)), facts, key="compared")
    written = page.compared_state(compared, judged)
    assert "<" not in written
    is_card_of(json.loads(json.loads(written)["trust"])["compared"], judged)
